"""Connections of the broker: who is at the other end, what is asked, and what ends when the connection does.

A connection that claimed or attached a sandbox is its lease: when it closes, however the client died, the sandbox is
destroyed, or waits a while for the server that may adopt it. Requests of one connection are served one after the
other; a peer that sends nonsense is answered once and dropped.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox._version import __version__
from jupyter_sandbox.broker import (
    adoption,
    adoption_verbs,
    commands,
    pausing,
    recording,
    restricting,
    restriction_verbs,
    template_verbs,
    usage_verbs,
    verbs,
)
from jupyter_sandbox.errors import ForbiddenError, InvalidRequestError, ProtocolError, SandboxError, StartError
from jupyter_sandbox.host import tasks
from jupyter_sandbox.host.channel import Channel
from jupyter_sandbox.specs import Workspace, WorkspaceMode
from sandbox_worker import messages

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from jupyter_sandbox.broker.catalog import Catalog
    from jupyter_sandbox.broker.registry import Registry
    from jupyter_sandbox.broker.sandbox import Event, Sandbox
    from jupyter_sandbox.disks import Disk
    from jupyter_sandbox.engines import Engine

MAX_CONNECTIONS: Final = 4096
_MAX_EVENTS: Final = 256
_PAGE: Final = 100
_NOBODY: Final = 65534
_BREATHER_S: Final = 0.5

log = logging.getLogger(__name__)


class Connection:
    """One client: its uid, its held sandboxes, its commands, and the events on their way to it."""

    def __init__(self, channel: Channel) -> None:
        """Serve `channel`."""
        self.channel = channel
        self.uid = channel.peer_uid()
        self.held: set[Sandbox] = set()
        self.commands: dict[str, Sandbox] = {}
        self._events: asyncio.Queue[Event] = asyncio.Queue(_MAX_EVENTS)
        self._sending = asyncio.Lock()

    def tell(self, event: Event) -> None:
        """Queue an event; a client that does not read loses its connection, and so its sandboxes and commands."""
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.channel.hang_up()

    def keep(self, command: str, sandbox: Sandbox) -> None:
        """Remember a command that ends with this connection, and forget those that have ended."""
        self.commands = {name: its for name, its in self.commands.items() if name in its.commands}
        self.commands[command] = sandbox

    async def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send an answer or an event, one after the other; raises OSError when the client is gone."""
        async with self._sending:
            await self.channel.send(message, descriptors)

    async def deliver(self) -> None:
        """Send events until the connection ends."""
        with contextlib.suppress(OSError):
            while True:
                await self.send(await self._events.get())


class Server:
    """Accepts connections and answers requests by calling the registry."""

    def __init__(self, listener: socket.socket, registry: Registry, engine: Engine, catalog: Catalog) -> None:
        """Serve `listener`."""
        self._listener = listener
        self._registry = registry
        self._catalog = catalog
        self._engine = engine
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring = False
        registry.on_gone = self._settle
        self.idle = asyncio.Event()
        """Set whenever nobody is connected and nothing is claimed."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected and nothing is claimed."""
        return not self._connections and not self._registry.claimed()

    @property
    def is_retiring(self) -> bool:
        """Whether a client asked the broker to go when it can."""
        return self._retiring

    async def serve(self) -> None:
        """Accept connections for ever."""
        loop = asyncio.get_running_loop()
        self._settle()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # too many open files: those who are connected go on, others wait
                log.warning("no connection can be accepted now: %s", error)
                await asyncio.sleep(_BREATHER_S)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                accepted.close()
                continue
            connection = Connection(Channel(accepted, verbs.REQUESTS))
            self._connections.add(connection)
            tasks.spawn(self._tasks, self._attend(connection))

    async def stop(self) -> None:
        """Drop every connection; their sandboxes are not released but left to the registry."""
        for connection in self._connections:
            connection.held.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _attend(self, connection: Connection) -> None:
        delivery = asyncio.create_task(connection.deliver())
        try:
            if connection.uid == _NOBODY:  # in our user namespace there is only one user, and this is another
                raise ProtocolError("this broker serves the user that started it only")
            while (received := await connection.channel.receive()) is not None:
                request, descriptors = received
                self.idle.clear()
                await asyncio.sleep(0)  # a client that floods us must not keep the loop from the others
                try:
                    answer, passed = await self._answer(connection, request, descriptors)
                finally:
                    messages.close_all(descriptors)
                try:
                    await connection.send(answer, passed)
                except OSError:
                    await self._disown(connection, answer)
                    raise
                finally:
                    messages.close_all(passed)
        except ProtocolError as error:
            log.warning("uid %d sent no request of ours: %s", connection.uid, error)
            with contextlib.suppress(OSError):
                await connection.send(verbs.Refused(code=error.code, message=str(error)))
        except OSError:
            log.debug("a client of uid %d went away", connection.uid)
        finally:
            delivery.cancel()
            connection.channel.close()
            self._connections.discard(connection)
            held, connection.held = connection.held, set()
            for sandbox in held:  # who is started anew at once must find all of them left
                sandbox.holder = None
            for command, sandbox in list(connection.commands.items()):
                await commands.end(sandbox, command)
            for sandbox in held:
                if sandbox.holder is None:
                    await self._registry.leave(sandbox)
            self._settle()

    async def _disown(self, connection: Connection, answer: object) -> None:
        """Destroy what was claimed for a client that did not hear of it: no start of its server would know it."""
        claimed = answer.sandbox if isinstance(answer, verbs.Claimed) else None
        for sandbox in [each for each in connection.held if each.id == claimed]:
            connection.held.discard(sandbox)
            await self._registry.release(sandbox)

    def _settle(self) -> None:
        if self.is_idle:
            self.idle.set()

    async def _answer(
        self, connection: Connection, request: object, descriptors: list[int]
    ) -> tuple[object, list[int]]:
        try:
            return await self._serve(connection, request, descriptors)
        except SandboxError as error:
            log.debug("uid %d: %s refused: %s", connection.uid, type(request).__name__, error)
            return verbs.Refused(code=error.code, message=str(error), retry_after_s=error.retry_after_s), []
        except Exception:
            log.exception("uid %d: %s failed", connection.uid, type(request).__name__)
            message = "the broker failed inside; its log says more"
            return verbs.Refused(code=SandboxError.code, message=message), []

    async def _serve(  # noqa: C901 - one flat case for each verb
        self, connection: Connection, request: object, descriptors: list[int]
    ) -> tuple[object, list[int]]:
        registry, uid = self._registry, connection.uid
        match request:
            case verbs.Claim():
                return await self._claim(connection, request, descriptors), []
            case verbs.Attach():
                sandbox = registry.get(uid, request.sandbox)
                self._hold(connection, sandbox)
                return adoption.attached(sandbox), []
            case adoption_verbs.Adopt():
                sandbox = registry.get(uid, request.sandbox)
                adoption.require_left(sandbox, uid, request.server)
                self._hold(connection, sandbox)
                return adoption.adopted(sandbox, registry.places), []
            case adoption_verbs.WriteNote():
                sandbox = registry.get(uid, request.sandbox)
                if adoption.write(sandbox, request.seat, request.text):
                    recording.write_or_later(sandbox, registry.record)
            case adoption_verbs.ReadNote():
                return adoption_verbs.Note(text=adoption.read(registry.get(uid, request.sandbox), request.seat)), []
            case verbs.StartKernel():
                sandbox = registry.get(uid, request.sandbox)
                return await registry.start_kernel(sandbox, request), []
            case verbs.SignalKernel():
                await registry.get(uid, request.sandbox).signal(request.target, request.number)
            case verbs.VacateSeat():
                registry.vacate(registry.get(uid, request.sandbox), request.seat)
            case verbs.RunCommand():
                sandbox = registry.get(uid, request.sandbox)
                started = await commands.run(sandbox, request, descriptors, connection.tell)
                connection.keep(started.command, sandbox)
                return started, []
            case verbs.ResizeTerminal():
                await commands.resize(registry.get(uid, request.sandbox), request)
            case verbs.ListKernels():
                return verbs.Kernels(kernels=tuple(registry.get(uid, request.sandbox).kernels)), []
            case verbs.ReadLog():
                return await registry.get(uid, request.sandbox).log_of(request.kernel), []
            case verbs.OpenDisk():
                disk = registry.get(uid, request.sandbox).worker.disk
                if disk is None:
                    raise InvalidRequestError(
                        "the broker of this sandbox died: its files can be reached from inside only"
                    )
                return verbs.Done(), [await _opened(disk, uid, connection.channel.peer_gid())]
            case verbs.Pause():
                await pausing.pause(registry.get(uid, request.sandbox), self._engine, registry.record)
            case verbs.Resume():
                await pausing.resume(registry.get(uid, request.sandbox), self._engine, registry.record)
            case restriction_verbs.Restrict():
                sandbox, wanted = registry.get(uid, request.sandbox), request.network.judge()
                await restricting.restrict(sandbox, wanted, registry.firewall, registry.record)
            case verbs.Release():
                sandbox = registry.get(uid, request.sandbox, or_late=True)
                for other in self._connections:
                    other.held.discard(sandbox)
                await registry.release(sandbox)
            case verbs.List():
                return self._list(uid, request), []
            case usage_verbs.GetUsage():
                return registry.get(uid, request.sandbox).usage(), []
            case verbs.Status():
                return await self._status(), []
            case verbs.Reap():
                self._require_operator(uid)
                return verbs.Reaped(found=tuple((await registry.reap(dry_run=request.dry_run))[:500])), []
            case template_verbs.ListTemplates():
                return self._catalog.page(request.after), []
            case template_verbs.GetTemplate():
                return self._catalog.report(request.name), []
            case template_verbs.DefineTemplate():
                self._require_operator(uid, ForbiddenError)
                return await self._catalog.define(request), []
            case template_verbs.DeleteTemplate():
                self._require_operator(uid, ForbiddenError)
                await self._catalog.delete(request.name)
            case verbs.Retire():
                self._require_operator(uid)
                self._retiring = True
        return verbs.Done(), []

    async def _claim(self, connection: Connection, request: verbs.Claim, descriptors: list[int]) -> verbs.Claimed:
        try:
            mode = WorkspaceMode(request.workspace_mode)
        except ValueError as error:
            known = ", ".join(WorkspaceMode)
            raise InvalidRequestError(f"workspace mode {request.workspace_mode[:20]!r} is none of {known}") from error
        wanted = Workspace(mode=mode, name=request.workspace_name)
        shown = list(descriptors)
        kernelspec = shown.pop() if request.kernelspec and shown else None
        directory = shown.pop() if shown else None
        seat = request.kernel.seat if request.kernel else None
        sandbox = await self._registry.claim(
            connection.uid,
            request.template,
            wanted,
            directory,
            connection.tell,
            kernelspec=kernelspec,
            seat=seat,
            on_behalf=request.on_behalf,
            restriction=request.network.judge(),
            less=request.less,
            server=adoption.server(request.server),
            notes=adoption.notes(request.note, seat, request.kernel.note if request.kernel else ""),
        )
        self._retiring = False
        connection.held.add(sandbox)
        kernel = None
        if request.kernel is not None:
            try:
                kernel = await self._registry.start_kernel(sandbox, request.kernel)
            except BaseException:
                connection.held.discard(sandbox)
                await self._registry.release(sandbox)
                raise
        return verbs.Claimed(sandbox=sandbox.id, cwd=sandbox.cwd, created_at=sandbox.created_at, kernel=kernel)

    def _hold(self, connection: Connection, sandbox: Sandbox) -> None:
        for other in self._connections:
            other.held.discard(sandbox)
        connection.held.add(sandbox)
        sandbox.holder = connection.tell
        self._retiring = False

    def _list(self, uid: int, wanted: verbs.List) -> verbs.Listing:
        known = self._registry.claimed(uid, or_late=bool(wanted.left_by))  # who adopts a late one is told to try again
        visible = [sandbox for sandbox in known if sandbox.id > wanted.after]
        if wanted.left_by:
            visible = [sandbox for sandbox in visible if adoption.is_left(sandbox, uid, wanted.left_by)]
        rows = tuple(sandbox.summary() for sandbox in visible[:_PAGE])
        return verbs.Listing(sandboxes=rows, more=len(visible) > _PAGE)

    async def _status(self) -> verbs.StatusReport:
        return verbs.StatusReport(
            pid=os.getpid(),
            version=__version__,
            engine=self._engine.name,
            templates=tuple(sorted(self._registry.templates)),
            warm=len(self._registry.pool.warm()),
            claimed=len(self._registry.claimed()),
            notes=(*self._engine.notes(), *self._registry.firewall.notes()),
            workers=self._workers(),
            languages=await self._engine.languages(),
        )

    def _workers(self) -> tuple[verbs.WorkersReport, ...]:
        registry = self._registry
        warm = collections.Counter(sandbox.template.name for sandbox in registry.pool.warm())
        claimed = collections.Counter(sandbox.template.name for sandbox in registry.claimed())
        return tuple(
            verbs.WorkersReport(
                name=name,
                warm=warm[name],
                claimed=claimed[name],
                total=registry.count(template),
                max_total=template.max_total,
                starts=str(registry.admission.state(template)),
                is_filling=registry.pool.fills(template)
                and warm[name] + claimed[name] < min(template.min_idle, template.max_total),
            )
            for name, template in sorted(registry.templates.items())[:_PAGE]
        )

    @staticmethod
    def _require_operator(uid: int, refusal: type[SandboxError] = InvalidRequestError) -> None:
        if uid != os.getuid():
            raise refusal("only the user that the broker runs as may do this")


async def _opened(disk: Disk, uid: int, gid: int) -> int:
    """Return a view of `disk` for a host user. Raises StartError."""
    try:
        while (view := disk.view(uid, gid)) is None:
            async with contextlib.AsyncExitStack() as undo:
                mount = await tasks.take(undo, asyncio.to_thread(disk.make_view, uid, gid), os.close)
                undo.pop_all()
                disk.keep_view(uid, gid, mount)
    except OSError as error:
        raise StartError(f"the disk cannot be shown: {error}") from error
    return view
