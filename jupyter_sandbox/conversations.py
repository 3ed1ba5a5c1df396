"""The server's own connections to one kernel, kept open between executions. What comes on them is judged already.

One execution at a time is listened to. It knows no queue, no deadline and no owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from jupyter_client.session import Session

from jupyter_sandbox.guards.kernel_messages import Reason
from jupyter_sandbox.host import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.contexts import Context
    from jupyter_sandbox.guards.kernel_messages import Channel, Judged
    from jupyter_sandbox.kernel_streams import Refusal

_CHANNELS: Final[tuple[Channel, ...]] = ("iopub", "shell", "control")
_ASK_AGAIN_S: Final = 0.1
_MAX_ABANDONED: Final = 64
INTERRUPT_AGAIN_S: Final = 0.25
_MAX_INTERRUPTS: Final = 20

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what the kernel says in answer to its request."""

    def take(self, channel: Channel, msg_type: str, content: dict[str, Any]) -> None:
        """A judged message came."""

    def refuse(self, channel: Channel, size_bytes: int, msg_type: str | None) -> None:
        """A message was not passed on, of that type as far as it could be read."""


class Conversation:
    """See the module."""

    def __init__(self, context: Context, multi_manager: Any) -> None:
        """Connect to nothing yet. `multi_manager` is whom to ask whether the kernel still is there."""
        self._context, self._multi_manager = context, multi_manager
        self._session = Session(key=context.manager.session.key)
        self._streams: dict[Channel, Any] = {}
        self._heard = asyncio.Event()
        self._heard_launch = -1
        self._is_cut = False  # iopub is being connected anew
        self._listener: Listener | None = None
        self._msg_id = self._asked = ""
        self._abandoned: dict[str, bool] = {}  # by the id of the request: whether it is being interrupted
        self._pursuits: set[asyncio.Task[None]] = set()
        self.last_words: str | None = None
        """Why the kernel died last, if it did."""
        for event in ("restart", "dead"):
            multi_manager.add_restart_callback(context.id, self._note_death, event)

    @property
    def is_possible(self) -> bool:
        """Whether the kernel is still in its manager."""
        context = self._context
        return context.id in self._multi_manager and self._multi_manager.get_kernel(context.id) is context.manager

    @property
    def is_ending(self) -> bool:
        """Whether the kernel is being ended by its server, which interrupts it first."""
        return self._context.manager.shutting_down or self._heard_launch != self.launch or not self.is_possible

    @property
    def launch(self) -> int:
        """Which of the context's kernels it is, one after the other."""
        return self._context.provisioner.launches

    async def open(self, give_up: Callable[[], bool]) -> bool:
        """Wait until the kernel is heard on iopub; return False when `give_up` says so, or the kernel has gone.

        A kernel that was restarted, or whose connection was given up, must be waited for anew: what it says before we
        are connected is lost.
        """
        if not self._streams:
            self._connect()
        while self._is_cut or self._heard_launch != self.launch or not await self._is_alive():
            launch, self._asked = self.launch, ""
            self._heard.clear()
            while not self._heard.is_set():
                if give_up() or not await self._may_come():
                    return False
                self._ask()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_AGAIN_S):
                        await self._heard.wait()
            self._heard_launch = launch
        return True

    def execute(self, code: str, listener: Listener) -> None:
        """Send a request; `listener` gets what is said in answer to it, until `end` or the next one."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,  # would abort what other clients have asked for
        }
        self._listener = listener
        self._msg_id = self._send("shell", "execute_request", content)

    def end(self, *, interrupt_when_begun: bool) -> None:
        """Listen no more. With `interrupt_when_begun` the code will be interrupted as soon as the kernel begins it."""
        if interrupt_when_begun:
            self._abandoned[self._msg_id] = False
            while len(self._abandoned) > _MAX_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]
        self._listener, self._msg_id = None, ""
        self.resume()

    async def interrupt(self, timeout_s: float) -> None:
        """Ask the kernel to stop what it does; quiet when it cannot be asked."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._multi_manager.interrupt_kernel(self._context.id)
        except Exception as error:  # noqa: BLE001 - Jupyter's managers raise whatever their parts do
            log.debug("context %s could not be interrupted (%s)", self._context.id, type(error).__name__)

    async def is_over(self) -> bool:
        """Whether the kernel that was heard last has ended. Costs no I/O but a look into a socket's buffer."""
        return not self.is_possible or self._heard_launch != self.launch or not await self._is_alive()

    def words(self) -> str:
        """Return why it is over."""
        if not self.is_possible:
            return "The context was deleted."
        return self._context.provisioner.last_words() or self.last_words or "The context was restarted."

    def pause(self) -> None:
        """Read no more outputs: who watches is slow. They wait in the sandbox."""
        self._streams["iopub"].pause()

    def resume(self) -> None:
        """Go on after `pause`; quiet when there was none."""
        if "iopub" in self._streams:
            self._streams["iopub"].resume()

    def close(self) -> None:
        """Hang up. Quiet when done twice."""
        for stream in self._streams.values():
            if not stream.closed():
                stream.close()
        self._streams.clear()
        for pursuit in self._pursuits:
            pursuit.cancel()
        if self.is_possible:
            for event in ("restart", "dead"):
                self._multi_manager.remove_restart_callback(self._context.id, self._note_death, event)

    # -- inside

    async def _is_alive(self) -> bool:
        return await self._context.provisioner.poll() is None

    async def _may_come(self) -> bool:
        """Whether there is a kernel, or will be again."""
        return self.is_possible and (self._context.manager.autorestart or await self._is_alive())

    def _connect(self) -> None:
        manager = self._context.manager
        for channel in _CHANNELS:
            stream = getattr(manager, f"connect_{channel}")(identity=self._session.bsession)
            self._streams[channel] = stream
            stream.on_recv(self._hearer(channel, stream))
            stream.on_refusal(self._refused)

    def _ask(self) -> None:
        """Make the kernel publish something. Some do not for a request on control; on shell one waits for its turn."""
        self._send("control", "kernel_info_request", {})
        if not (self._asked or self._context.provisioner.welcomes):
            self._asked = self._send("shell", "kernel_info_request", {})

    def _send(self, channel: Channel, msg_type: str, content: dict[str, Any]) -> str:
        message = self._session.msg(msg_type, content)
        self._session.send(self._streams[channel], message)
        return str(message["header"]["msg_id"])

    def _hearer(self, channel: Channel, stream: Any) -> Callable[[list[bytes]], None]:
        def hear(_: list[bytes]) -> None:
            judged: Judged | None = stream.judged
            if judged is None:
                return
            if channel == "iopub":
                self._heard.set()
                self._is_cut = False
            answered = judged.parent.get("msg_id")
            if channel == "shell" and answered == self._asked:
                self._asked = ""
            if self._listener is not None and answered == self._msg_id:
                self._listener.take(channel, judged.msg_type, judged.content)
            elif self._abandoned and judged.msg_type == "status":
                self._note_abandoned(str(answered), judged.content["execution_state"])

        return hear

    def _note_abandoned(self, msg_id: str, state: str) -> None:
        if self._abandoned.get(msg_id) is False and state == "busy":
            self._abandoned[msg_id] = True
            tasks.spawn(self._pursuits, self._pursue(msg_id), f"interrupt of {self._context.id}")
        elif state == "idle":
            self._abandoned.pop(msg_id, None)

    async def _pursue(self, msg_id: str) -> None:
        """Interrupt abandoned code until it ends: a kernel that has just begun may not notice the first time."""
        for _ in range(_MAX_INTERRUPTS):
            if msg_id not in self._abandoned or not self._streams:
                return
            await self.interrupt(INTERRUPT_AGAIN_S)
            await asyncio.sleep(INTERRUPT_AGAIN_S)

    def _refused(self, refusal: Refusal) -> None:
        self._is_cut = self._is_cut or (refusal.channel == "iopub" and refusal.reason == Reason.CONNECTION)
        if self._listener is None or refusal.reason == Reason.UNKNOWN_TYPE:
            return
        if refusal.reason == Reason.TOO_LARGE and refusal.msg_type == "execute_input":
            return  # code longer than a message may be, which the kernel repeats: nobody misses that
        if (refusal.parent or {}).get("msg_id") in (None, self._msg_id):
            self._listener.refuse(refusal.channel, refusal.size_bytes, refusal.msg_type)

    def _note_death(self) -> None:
        self.last_words = self._context.provisioner.last_words() or self.last_words
