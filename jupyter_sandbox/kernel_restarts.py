"""Notices at once that a sandbox kernel has died.

Stock Jupyter looks every three seconds whether a kernel lives, so a cell of a dead one seems to run for that long, and
hundreds of idle kernels keep a server busy. The broker tells the end of a kernel as it comes; what then happens is
stock's. The look now and then stays, for the rest: as often as stock's until a kernel has started well, rarely then.
"""

from __future__ import annotations

from typing import Any, Final

from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter

from jupyter_sandbox.provisioner import SandboxProvisioner

_RARELY_S: Final = 60


class PromptRestarter(AsyncIOLoopKernelRestarter):
    """Stock's, which also looks when a sandbox kernel's end is told."""

    _is_looking = _must_look = _has_given_up = False

    def start(self) -> None:
        """Begin to look and to listen."""
        super().start()
        self._listen()

    def stop(self) -> None:
        """Look and listen no more."""
        super().stop()
        self._listen()

    async def poll(self) -> None:  # type: ignore[override]  # as its parent, which stock calls so
        """Look, and once more if we are told of something meanwhile; not at all when nobody is to look any more."""
        self._must_look = True
        if self._is_looking:
            return
        self._is_looking = True
        try:
            while self._must_look and self._pcallback is not None:
                self._must_look = False
                if (provisioner := self._provisioner) and not provisioner.has_process:
                    self.stop()  # a restart that was under way when its kernel was ended for good has started us
                elif not await self._has_lost_its_place():
                    await super().poll()
        finally:
            self._is_looking = False
            if self._pcallback is not None and self._is_settled():
                self._pcallback.callback_time = 1000 * max(_RARELY_S, self.time_to_dead)  # a restart makes another
        if self._has_given_up and (provisioner := self._provisioner):
            await provisioner.cleanup()  # jupyter_server forgets the kernel and would leave it its sandbox

    async def _has_lost_its_place(self) -> bool:
        """Whether it was a guest in a sandbox that is gone: who looks after sandboxes ends it."""
        provisioner = self._provisioner
        if provisioner is None or not provisioner.is_guest or await provisioner.poll() is None:
            return False
        return provisioner.lease is not None and provisioner.lease.loss is not None

    def _is_settled(self) -> bool:
        """Whether it is a sandbox kernel, and its start no longer one that may fail again and again."""
        return self._provisioner is not None and not (self._initial_startup or self._restarting)

    def _fire_callbacks(self, event: Any) -> None:
        super()._fire_callbacks(event)
        self._has_given_up = event == "dead"

    @property
    def _provisioner(self) -> SandboxProvisioner | None:
        provisioner: Any = self.kernel_manager.provisioner
        return provisioner if isinstance(provisioner, SandboxProvisioner) else None

    def _listen(self) -> None:
        if provisioner := self._provisioner:
            provisioner.call_at_end(None if self._pcallback is None else self._look_soon)

    def _look_soon(self) -> None:
        self.loop.add_callback(self.poll)
