"""A server that starts takes over the sandboxes that it left: their leases, kernels, Jupyter's sessions, claims.

Which these are, the broker says; what they were, the notes of the server before. It is all or nothing for a kernel: one
whose note is missing or bad ends, and a sandbox that nobody can use is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.session import Session

from jupyter_sandbox import notes, offline, owners
from jupyter_sandbox.broker import client, left, verbs
from jupyter_sandbox.contexts import forget_failed_starts
from jupyter_sandbox.errors import BrokerUnavailableError, ConflictError, SandboxError, StartError, UnknownSandboxError
from jupyter_sandbox.host import places, tasks
from jupyter_sandbox.kernel_identity import Place, Resumed
from jupyter_sandbox.owners import Owner
from jupyter_sandbox.sandboxes import kernels

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jupyter_sandbox.sandboxes import Sandboxes
    from jupyter_sandbox.session_notes import SessionNotes
    from jupyter_sandbox.slate import Slate

_AT_A_TIME: Final = 8
_LOOK_S: Final = 5.0
_RETRY_S: Final = 0.5

log = logging.getLogger(__name__)


def name_of(*where: str) -> str:
    """Return the name of the server that works at these places: the same each time it is started there."""
    return hashlib.sha256("\0".join(where).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def name_kernels(multi_manager: Any, name: str, slate: Slate | None) -> None:
    """Make every kernel manager that `multi_manager` makes know which server may adopt its kernel, and the slate."""
    stock = getattr(multi_manager, "kernel_manager_factory", None)
    if stock is None:
        return

    def make(*args: Any, **kwargs: Any) -> Any:
        manager = stock(*args, **kwargs)
        manager.sandbox_server, manager.sandbox_slate = name, slate
        return manager

    multi_manager.kernel_manager_factory = make


class Adoption:
    """The adoption of one server, once."""

    def __init__(
        self,
        multi_manager: Any,
        sandboxes: Sandboxes,
        sessions: SessionNotes,
        clients: Mapping[str, str],
        max_offline_bytes: int,
        offer: Callable[[], Awaitable[object]],
    ) -> None:
        """Adopt nothing yet. `clients`: the session of the client that waits for an execution of a kernel, by its id.

        `max_offline_bytes`: how much is kept for it until it comes back. `offer` offers the kernelspecs of kernels.
        """
        self._kernels, self._sandboxes, self._sessions = multi_manager, sandboxes, sessions
        self._clients, self._max_offline_bytes, self._offer = clients, max_offline_bytes, offer
        self._asking: set[asyncio.Task[None]] = set()
        self._had: set[str] = set()

    async def run(self) -> int:
        """Adopt what was left and is not had yet; return how many sandboxes are had by now. Raises SandboxError.

        BrokerUnavailableError: there is no broker, or it died meanwhile. What was not adopted is left, for `go_on`.
        """
        server = self._sandboxes.notes.server
        try:
            found = await left.sandboxes(server)
        except BrokerUnavailableError:
            if places.SOCKET_VARIABLE in os.environ:
                raise  # somebody else starts it
            if not await asyncio.to_thread(_has_records):
                return len(self._had)
            (await client.next_broker()).close()  # it died with the server: the next one recovers
            found = await left.sandboxes(server)
        if found:
            await self._offer()
        turn = asyncio.Semaphore(_AT_A_TIME)

        async def adopt(sandbox_id: str) -> BrokerUnavailableError | None:
            async with turn:
                try:
                    if await self._adopt(sandbox_id, server):
                        self._had.add(sandbox_id)
                except (UnknownSandboxError, ConflictError):
                    pass  # it has just ended, or another start was faster
                except BrokerUnavailableError as error:
                    return error
                except Exception:
                    log.exception("sandbox %s could not be adopted", sandbox_id)
            return None

        ends = await asyncio.gather(*(adopt(each) for each in found if each not in self._had))
        for lost in filter(None, ends):
            raise lost
        return len(self._had)

    async def go_on(self, within_s: float) -> int:
        """The same, but wait for the broker, or for the next one, for some time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            try:
                return await self.run()
            except BrokerUnavailableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)

    def leave(self) -> None:
        """Let go of every sandbox kernel, so that the server's end is not theirs."""
        for kernel_id, manager, provisioner in list(kernels(self._kernels)):
            manager.stop_restarter()
            self._kernels.stop_watching_activity(kernel_id)
            self._kernels.stop_buffering(kernel_id)
            self._kernels.remove_kernel(kernel_id)
            if provisioner.lease is not None:
                provisioner.lease.close()

    def stop(self) -> None:
        """Ask no more."""
        for task in self._asking:
            task.cancel()

    async def _adopt(self, sandbox_id: str, server: str) -> bool:
        lease, prefixes = await left.adopt(sandbox_id, server)
        with contextlib.ExitStack() as undo:
            undo.callback(lease.close)
            note = notes.sandbox(await left.read_note(sandbox_id))
            known = {seat: notes.kernel(await left.read_note(sandbox_id, seat)) for seat in prefixes}
            resumed = {
                kernel.kernel_id: Resumed(lease=lease, seat=seat, prefix=prefixes[seat], note=kernel)
                for seat, kernel in known.items()
                if kernel is not None and kernel.kernel_id not in self._kernels
            }
            lease.tenants.update(each.seat for each in resumed.values())
            undo.pop_all()
        if note is not None:
            self._sandboxes.take_back(lease, note)
        for seat in sorted(set(prefixes) - lease.tenants):
            await self._give_up(lease, seat)
        for each in resumed.values():
            await self._resume(each)
        if note is None and not lease.tenants:
            with contextlib.suppress(SandboxError):
                await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done, start=False)
            lease.close()
            return False
        log.info("sandbox %s was adopted with %d kernels", sandbox_id, len(lease.tenants))
        return True

    async def _resume(self, resumed: Resumed) -> None:
        """Let Jupyter's manager have a kernel again, with its sessions."""
        note, manager = resumed.note, self._kernels
        place = None
        if note.guest is not None:
            guest = note.guest
            place = Place(lease=resumed.lease, directory=guest.directory, environment=guest.environment)
        stale = Path(manager.connection_dir, f"kernel-{note.kernel_id}.json")
        owner = contextlib.nullcontext() if note.owner is None else owners.making(Owner(note.owner))
        try:
            with contextlib.suppress(OSError):  # of a broken disk; see `kernel_files`
                await asyncio.to_thread(stale.unlink, missing_ok=True)
            with owner:
                await manager.start_kernel(
                    kernel_id=note.kernel_id,
                    kernel_name=note.kernel_name,
                    env=dict(note.environment),
                    resumed=resumed,
                    **({} if note.cwd is None else {"cwd": note.cwd}),
                    **({} if place is None else {"place": place}),
                )
            kernel = manager.get_kernel(note.kernel_id)
            if kernel.provisioner.lease is not resumed.lease:
                raise StartError("there is another kernel of that id")
        except Exception as error:  # noqa: BLE001 - Jupyter's managers raise whatever their parts do
            log.warning("kernel %s could not be adopted: %s", note.kernel_id, error)
            forget_failed_starts(manager)
            resumed.lease.tenants.discard(resumed.seat)
            await self._give_up(resumed.lease, resumed.seat)
            return
        kernel.sandbox_hides_files = note.hides_files
        try:
            await self._sessions.restore(note.kernel_id, note.sessions)
        except Exception:
            log.exception("kernel %s was adopted, and not all of its sessions", note.kernel_id)
        if resumed.seat not in resumed.lease.exits:
            kernel.execution_state = "busy"
            if session := self._clients.get(note.kernel_id):
                offline.expect(manager, note.kernel_id, session, self._max_offline_bytes)
            kernel._kernel_info_future = asyncio.get_running_loop().create_future()  # noqa: SLF001 - as the websocket does
            tasks.spawn(self._asking, self._ask(kernel), f"state of {note.kernel_id}")

    async def _give_up(self, lease: client.Lease, seat: str) -> None:
        """End a kernel that nobody could use."""
        with contextlib.suppress(SandboxError):
            await lease.vacate(seat)

    async def _ask(self, kernel: Any) -> None:
        """Ask a kernel what it is, and when it is idle: on the channel on which it runs code, for that.

        A websocket waits for the first; a kernel that is busy answers it on control.
        """
        session, heard, since = Session(key=kernel.session.key), asyncio.Event(), kernel.last_activity
        told = kernel._kernel_info_future  # noqa: SLF001
        with contextlib.ExitStack() as streams:

            def ask(channel: str, is_idle: bool) -> None:
                stream = getattr(kernel, f"connect_{channel}")(identity=session.bsession)
                streams.callback(stream.close)

                def hear(_: object) -> None:
                    if is_idle:
                        heard.set()
                    if not told.done():
                        told.set_result(dict(stream.judged.content))

                stream.on_recv(hear)
                session.send(stream, session.msg("kernel_info_request", {}))

            ask("shell", is_idle=True)
            ask("control", is_idle=False)
            while not heard.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await heard.wait()
                if not told.done():
                    told.set_result({})  # what a client of jupyter_server gets from a kernel that does not say
                provisioner = kernel.provisioner
                if provisioner is None or not provisioner.has_process or provisioner.launches > 1:
                    return
            if kernel.last_activity == since:
                kernel.execution_state = "idle"


def _has_records() -> bool:
    """Whether the broker that this user's clients start would find workers of the one before."""
    with contextlib.suppress(OSError):
        return any(places.find().ledger.glob("*.json"))
    return False
