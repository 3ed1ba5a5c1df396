"""The sandboxes that can be reached through this server: claimed for an owner, kept for a time, released once.

A sandbox is known by its lease. Leases are held here, for those that were claimed for their own sake, and by the
provisioners of running kernels; both are asked, nothing is copied. It knows no HTTP and no surface's words.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import events, owners, sandbox_notes
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker_health import BrokerHealth
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    ConflictError,
    SandboxError,
    SandboxPausedError,
    ServerStoppingError,
    UnknownSandboxError,
)
from jupyter_sandbox.events import Origin, SandboxClaimed, SandboxEnd, SandboxPaused, SandboxRenewed, SandboxResumed
from jupyter_sandbox.kernel_events import sandbox_ended
from jupyter_sandbox.owners import Owner
from jupyter_sandbox.provisioner import SandboxProvisioner
from jupyter_sandbox.quotas import Held, Quotas
from jupyter_sandbox.sandbox import Claim, Sandbox, SandboxState, SandboxView
from jupyter_sandbox.sandbox_ends import SandboxEnds
from jupyter_sandbox.sandbox_terms import SandboxTerms
from jupyter_sandbox.specs import UNRESTRICTED, Restriction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.notes import SandboxNote

_END_WITHIN_S: Final = 20
_TICK_S: Final = 0.5

log = logging.getLogger(__name__)

Kernel = tuple[str, Any, SandboxProvisioner]


def kernels(multi_manager: Any) -> Iterator[Kernel]:
    """The running sandbox kernels of a server: id, manager, provisioner."""
    for kernel_id in multi_manager.list_kernel_ids():
        manager = multi_manager.get_kernel(kernel_id)
        provisioner = getattr(manager, "provisioner", None)
        if isinstance(provisioner, SandboxProvisioner):
            yield kernel_id, manager, provisioner


def unknown(sandbox_id: str) -> UnknownSandboxError:
    """Return what is said of a sandbox that is not there, or not the caller's."""
    return UnknownSandboxError(f"no sandbox {sandbox_id[:60]!r}")


class Sandboxes:
    """All sandboxes of one server."""

    def __init__(
        self,
        multi_manager: Any,
        clock: Callable[[], float] = time.monotonic,
        quotas: Quotas | None = None,
        emit: Emit = events.ignore,
    ) -> None:
        """Start with those that kernels of `multi_manager` hold."""
        self._manager, self._clock, self._emit = multi_manager, clock, emit
        self.quotas = quotas or Quotas()
        self._claimed: dict[str, Sandbox] = {}
        self.terms = SandboxTerms(self._claimed, lambda: self._clock(), emit)
        self._by_key: dict[tuple[Owner, str], tuple[Claim, asyncio.Task[Sandbox]]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._health = BrokerHealth()
        self.notes = sandbox_notes.SandboxNotes()
        self.terms.on_use = self.notes.used
        self.is_stopping = False
        """Whether nothing new is accepted, since the server is about to stop."""
        self.also_watch: Callable[[], bool] = lambda: False
        """Called with each look; whether there is something to look after that is not ours."""
        self._ends = SandboxEnds()

    # -- what an owner may ask

    async def claim(self, owner: Owner, wanted: Claim, key: str | None = None) -> SandboxView:
        """Claim a sandbox, or return the one that was claimed with the same `key` and still lives.

        Raises SandboxError; ConflictError when that one was claimed with other arguments.
        """
        if key is None:
            return self._view(await self._claim(owner, wanted, None))
        before = self._by_key.get((owner, key))
        if before is None:
            task = asyncio.create_task(self._claim(owner, wanted, key), name="claim of a sandbox")
            before = (wanted, task)
            self._by_key[owner, key] = before
            task.add_done_callback(lambda done: self._forget_failed(owner, key, done))
        if before[0] != wanted:
            raise ConflictError("a sandbox was claimed with this idempotency key and other arguments; take another key")
        return self._view(await asyncio.shield(before[1]))

    def find(self, owner: Owner, sandbox_id: str) -> Sandbox:
        """Return a sandbox of `owner`; raises UnknownSandboxError, which says how it ended if it is known."""
        for sandbox in self._all():
            if sandbox.id == sandbox_id and sandbox.owner == owner:
                return sandbox
        words = self._ends.words(owner, sandbox_id)
        raise unknown(sandbox_id) if words is None else UnknownSandboxError(words)

    def find_ready(self, owner: Owner, sandbox_id: str) -> Sandbox:
        """The same, to use it; raises ConflictError when it is ending."""
        sandbox = self.find(owner, sandbox_id)
        if sandbox.id in self._ending:
            raise ConflictError(f"sandbox {sandbox.id} is ending")
        self.terms.use(sandbox.id)
        return sandbox

    def find_running(self, owner: Owner, sandbox_id: str) -> Sandbox:
        """The same; raises SandboxPausedError when it is paused."""
        sandbox = self.find_ready(owner, sandbox_id)
        if sandbox.lease.is_paused:
            raise SandboxPausedError(f"sandbox {sandbox.id} is paused")
        return sandbox

    def get(self, owner: Owner, sandbox_id: str) -> SandboxView:
        """Return a sandbox of `owner`; raises UnknownSandboxError."""
        return self._view(self.find(owner, sandbox_id))

    def views(self, owner: Owner) -> list[SandboxView]:
        """Return all sandboxes of `owner`."""
        return [self._view(sandbox) for sandbox in self._all() if sandbox.owner == owner]

    def renew(self, owner: Owner, sandbox_id: str, timeout_s: float) -> SandboxView:
        """Let a claimed sandbox live so long from now on."""
        sandbox = self.find_ready(owner, sandbox_id)
        if sandbox.origin is Origin.KERNEL:
            raise ConflictError(f"sandbox {sandbox.id} was started by a notebook: it has no time limit to renew")
        self.terms.begin(sandbox, timeout_s)
        self.notes.changed(sandbox)
        self._emit(SandboxRenewed(owner=owner, sandbox_id=sandbox.id, timeout_s=timeout_s))
        return self._view(sandbox)

    def keep(self, owner: Owner, sandbox_id: str, timeout_s: float) -> None:
        """Let a claimed sandbox live so long from now on, as `renew` does; tells nobody, and is quiet without one."""
        sandbox = self._claimed.get(sandbox_id)
        if sandbox is not None and sandbox.owner == owner:
            self.terms.begin(sandbox, timeout_s)
            self.notes.used(sandbox)

    async def pause(self, owner: Owner, sandbox_id: str) -> SandboxView:
        """Freeze everything in a sandbox, with all that it holds; quiet when it is. Its time goes on."""
        sandbox = self.find_ready(owner, sandbox_id)
        if (took_s := await sandbox.lease.pause()) is not None:
            self._emit(SandboxPaused(owner=owner, sandbox_id=sandbox.id, took_s=took_s))
        return self._view(sandbox)

    async def resume(self, owner: Owner, sandbox_id: str) -> SandboxView:
        """Let everything in a sandbox go on where it was; quiet when it does."""
        sandbox = self.find_ready(owner, sandbox_id)
        if (took_s := await sandbox.lease.resume()) is not None:
            self._emit(SandboxResumed(owner=owner, sandbox_id=sandbox.id, took_s=took_s))
        return self._view(sandbox)

    async def restrict(self, owner: Owner, sandbox_id: str, network: Restriction) -> SandboxView:
        """Let a sandbox reach less than its template opens, paused or not; what was said before is forgotten."""
        sandbox = self.find_ready(owner, sandbox_id)
        await sandbox.lease.restrict(network)
        self._emit(events.SandboxRestricted.of(owner, sandbox.id, network))
        return self._view(sandbox)

    async def release(self, owner: Owner, sandbox_id: str) -> None:
        """End a sandbox and every kernel in it; quiet when it ended before."""
        try:
            sandbox = self.find(owner, sandbox_id)
        except UnknownSandboxError:
            if self._ends.words(owner, sandbox_id) is None:
                raise
            return
        await asyncio.shield(self._end(sandbox, SandboxEnd.RELEASED, "was released"))

    def room(self, owner: Owner) -> AbstractContextManager[None]:
        """Keep room in the owner's quota for a sandbox while it is made; raises QuotaError, ServerStoppingError."""
        self.require_staying()
        mine = {sandbox.id for sandbox in self._claimed.values() if sandbox.owner == owner}
        for _, manager, provisioner in kernels(self._manager):
            if provisioner.lease and owners.of_kernel(manager) == owner and not owners.is_being_made(manager):
                mine.add(provisioner.lease.sandbox)
        return self.quotas.room(owner, Held.SANDBOXES, len(mine))

    def whose(self) -> dict[str, Owner | None]:
        """Return whose each sandbox is, by its id."""
        return {sandbox.id: sandbox.owner for sandbox in self._all()}

    def require_staying(self) -> None:
        """Raise ServerStoppingError when the server is about to stop."""
        if self.is_stopping:
            raise ServerStoppingError("this server is being stopped; ask the next one", retry_after_s=1)

    async def check(self) -> verbs.StatusReport:
        """Return what the broker says; raises SandboxError unless one answers, and the server stays."""
        self.require_staying()
        return await self._health.report()

    # -- the server's own life

    def watch(self) -> None:
        """Look twice a second what ended and what is over, as long as there is something to look after."""
        if self._watching is None:
            self._watching = asyncio.create_task(  # of no request, though one may be what it begins with
                self._watch(), name="watch over sandboxes", context=contextvars.Context()
            )

    async def _watch(self) -> None:
        try:
            while self.also_watch() or self._claimed or any(each.is_guest for _, _, each in kernels(self._manager)):
                await asyncio.sleep(_TICK_S)
                try:
                    await self.tick()
                except Exception:
                    log.exception("looking after the sandboxes failed; it is tried again")
        finally:
            self._watching = None

    async def tick(self) -> None:
        """Notice what ended and what is over."""
        self.terms.look(list(kernels(self._manager)))
        for sandbox in list(self._claimed.values()):
            lease = sandbox.lease
            lease.listen()
            if lease.is_connected:
                self.notes.again(sandbox)
            elif lease.loss is None and sandbox.reattaching is None:
                sandbox.reattaching = asyncio.create_task(self._reattach(sandbox), name=f"reattach {sandbox.id}")
            if lease.loss is not None:
                self._end(sandbox, SandboxEnd.LOST, f"is gone. {lease.loss}")
            elif self.terms.is_over(sandbox):
                self._end(sandbox, SandboxEnd.EXPIRED, "ended: its time was over, and nobody renewed it")
        for _, _, provisioner in list(kernels(self._manager)):
            lost = provisioner.lease if provisioner.is_guest else None
            if lost is not None and lost.loss is not None and lost.sandbox not in self._claimed:
                self._end(_of_kernel(lost, None), SandboxEnd.LOST, f"is gone. {lost.loss}")

    def take_back(self, lease: client.Lease, note: SandboxNote) -> None:
        """Have a sandbox again that the server before this one had."""
        owner, wanted = Owner(note.owner), sandbox_notes.claim(note, lease.template)
        sandbox = Sandbox(lease=lease, owner=owner, origin=Origin.CLAIM, claim=wanted, key=note.key)
        sandbox.parts = dict(note.parts)
        self.terms.begin(self._keep(sandbox), note.length_s, ends_at=sandbox_notes.granted_until(note))
        if note.key is not None:
            past = asyncio.create_task(asyncio.sleep(0, sandbox), name="claim of the past")
            self._by_key[owner, note.key] = wanted, past
        self.watch()

    def parts(self, name: str) -> list[tuple[Sandbox, str]]:
        """Return what the service `name` keeps, with the sandbox that it is about."""
        return [(sandbox, sandbox.parts[name]) for sandbox in self._claimed.values() if name in sandbox.parts]

    async def noted(self, sandbox_id: str) -> None:
        """Wait until what is known of a claimed sandbox is noted for the next start of the server."""
        if (sandbox := self._claimed.get(sandbox_id)) is not None:
            await self.notes.written(sandbox)

    async def leave(self) -> None:
        """Leave everything that was claimed here to the next start of the server."""
        if self._watching is not None:
            self._watching.cancel()
        await self.notes.write_all(list(self._claimed.values()))
        while self._claimed:
            self._claimed.popitem()[1].lease.close()

    async def stop(self) -> None:
        """Give everything back that was claimed here."""
        if self._watching is not None:
            self._watching.cancel()
        for _, task in list(self._by_key.values()):
            task.cancel()
        for sandbox in list(self._claimed.values()):
            self._end(sandbox, SandboxEnd.SERVER_STOPPED, "ended with its server")
        if self._ending:
            await asyncio.wait(list(self._ending.values()))

    # -- inside

    async def _reattach(self, sandbox: Sandbox) -> None:
        """The broker died, and the next one may need a while to come; the others must not wait for that."""
        try:
            await sandbox.lease.reattach()
        except BrokerUnavailableError as error:
            log.warning("sandbox %s: the broker is gone: %s", sandbox.id, error)
        finally:
            sandbox.reattaching = None

    async def _claim(self, owner: Owner, wanted: Claim, key: str | None) -> Sandbox:
        began = self._clock()
        with self.room(owner):
            noted_until = began + wanted.timeout_s
            keepsake, behalf = self.notes.keepsake(owner, wanted, key, noted_until), owners.on_behalf(owner)
            lease = await client.Lease.claim(
                wanted.template, on_behalf=behalf, keepsake=keepsake, restriction=wanted.network, less=wanted.less
            )
            sandbox = Sandbox(lease=lease, owner=owner, origin=Origin.CLAIM, claim=wanted, key=key)
            sandbox.noted_until = noted_until
            self.terms.begin(self._keep(sandbox), wanted.timeout_s)
        self.watch()
        self._emit(
            SandboxClaimed(
                owner=owner,
                sandbox_id=sandbox.id,
                template=lease.template,
                origin=sandbox.origin,
                timeout_s=wanted.timeout_s,
                took_s=self._clock() - began,
            )
        )
        if wanted.network != UNRESTRICTED:
            self._emit(events.SandboxRestricted.of(owner, sandbox.id, wanted.network))
        return sandbox

    def _keep(self, sandbox: Sandbox) -> Sandbox:
        sandbox.lease.is_kept = True
        self._claimed[sandbox.id] = sandbox
        return sandbox

    def _forget_failed(self, owner: Owner, key: str, done: asyncio.Task[Sandbox]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._by_key.pop((owner, key), None)

    def _all(self) -> list[Sandbox]:
        """Every sandbox, with the kernels in it."""
        inside: dict[str, list[str]] = collections.defaultdict(list)
        found: dict[str, Sandbox] = dict(self._claimed)
        for kernel_id, manager, provisioner in kernels(self._manager):
            if (lease := provisioner.lease) is not None:
                inside[lease.sandbox].append(kernel_id)
                if lease.sandbox not in found:
                    found[lease.sandbox] = _of_kernel(lease, owners.of_kernel(manager))
        for sandbox in found.values():
            sandbox.kernels = tuple(inside[sandbox.id])
        return list(found.values())

    def _view(self, sandbox: Sandbox) -> SandboxView:
        return sandbox.view(self._state(sandbox), self.terms.stamp(sandbox))

    def _state(self, sandbox: Sandbox) -> SandboxState:
        if sandbox.id in self._ending:
            return SandboxState.ENDING
        return SandboxState.PAUSED if sandbox.lease.is_paused else SandboxState.READY

    def _end(self, sandbox: Sandbox, reason: SandboxEnd, how: str) -> asyncio.Task[None]:
        """Begin to end a sandbox, once; return who does it."""
        if sandbox.id not in self._ending:
            task = asyncio.create_task(self._end_now(sandbox, reason, how), name=f"end of {sandbox.id}")
            self._ending[sandbox.id] = task
            if sandbox.key is not None and sandbox.owner is not None:
                self._by_key.pop((sandbox.owner, sandbox.key), None)
        return self._ending[sandbox.id]

    async def _end_now(self, sandbox: Sandbox, reason: SandboxEnd, how: str) -> None:
        try:
            living = [kernel_id for kernel_id, _, inside in kernels(self._manager) if inside.lease is sandbox.lease]
            await asyncio.gather(*(self._shut_down(kernel_id) for kernel_id in living))
            with contextlib.suppress(SandboxError):
                await client.call(verbs.Release(sandbox=sandbox.id), verbs.Done, start=False)
        finally:
            if sandbox.reattaching is not None:
                sandbox.reattaching.cancel()
            sandbox.lease.close()
            self._claimed.pop(sandbox.id, None)
            del self._ending[sandbox.id]
            self._ends.add(sandbox.id, sandbox.owner, f"sandbox {sandbox.id} {how}")
            if sandbox.origin is Origin.CLAIM:  # of others the last kernel tells, when it leaves
                self._emit(sandbox_ended(sandbox.lease, sandbox.owner, sandbox.origin, reason))
            log.info("sandbox %s %s", sandbox.id, how)

    async def _shut_down(self, kernel_id: str) -> None:
        """End a kernel in its manager, so that every client is told. The sandbox ends in any case."""
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await self._manager.shutdown_kernel(kernel_id, now=True)
        except Exception as error:  # noqa: BLE001 - Jupyter's managers raise whatever their parts do
            log.warning("kernel %s did not end cleanly: %s", kernel_id, type(error).__name__)


def _of_kernel(lease: client.Lease, owner: Owner | None) -> Sandbox:
    return Sandbox(lease=lease, owner=owner, origin=Origin.KERNEL)
