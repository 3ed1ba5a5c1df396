"""The sandboxes of one broker: claimed from warm workers, bound for life to one owner, destroyed once.

It knows owners and kernels; it does not know sockets of clients (that is `server`) nor how workers are made (that is
the engine).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import lifecycle, obituary, templates, workspace
from jupyter_sandbox.agents import AgentClient
from jupyter_sandbox.broker import verbs
from jupyter_sandbox.broker.sandbox import HOME, Event, Holder, Sandbox
from jupyter_sandbox.errors import (
    CapacityError,
    ProtocolError,
    SandboxError,
    StartError,
    UnknownSandboxError,
    WorkspaceError,
)
from jupyter_sandbox.guards import ids, processes
from jupyter_sandbox.host import kernel_sockets
from jupyter_sandbox.host import processes as host_processes
from jupyter_sandbox.lifecycle import WorkerState
from jupyter_sandbox.pool import Pool
from jupyter_sandbox.specs import Template, Workspace, WorkspaceMode
from sandbox_worker import messages, protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.ledger import Ledger, Record

_MAX_SEATS: Final = 64
_MAX_RUNNING: Final = 1024
_ENDING_SIGNALS: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})

log = logging.getLogger(__name__)


class Registry:
    """All sandboxes of this broker."""

    def __init__(
        self,
        *,
        engine: Engine,
        ledger: Ledger,
        places: Places,
        mounter: workspace.Mounter,
        known_templates: Mapping[str, Template],
    ) -> None:
        """Start with nothing; `recover` and `pool.run` are the caller's to call."""
        self._engine = engine
        self._ledger = ledger
        self._places = places
        self._mounter = mounter
        self.templates = known_templates
        self._sandboxes: dict[ids.SandboxId, Sandbox] = {}
        self._pending: dict[str, int] = {}
        self.pool: Pool[Sandbox] = Pool(self._make, self._count)
        self._tasks: set[asyncio.Task[None]] = set()

    # -- claiming and ending

    async def claim(
        self, owner: int, template_name: str, wanted: Workspace, directory: int | None, holder: Holder
    ) -> Sandbox:
        """Give `owner` a sandbox; `holder` gets its events. Raises SandboxError, leaving nothing behind."""
        template = templates.find(self.templates, template_name)
        if (wanted.mode is not WorkspaceMode.NONE) != (directory is not None):
            raise WorkspaceError("a workspace needs its directory, opened by the caller, and a mode other than none")
        sandbox = self.pool.take(template)
        if sandbox is None:
            if self._count(template) >= template.max_total:
                raise CapacityError(
                    f"all {template.max_total} sandboxes of template {template.name} are in use; "
                    "shut down kernels that are not needed, or raise max_total",
                    retry_after_s=5,
                )
            sandbox = await self._make(template)
        try:
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.CLAIMED)
            sandbox.owner, sandbox.holder = owner, holder
            sandbox.created_at = datetime.now(UTC).isoformat(timespec="seconds")
            if wanted.mode is not WorkspaceMode.NONE:
                sandbox.cwd = workspace.target(wanted)
            self._record(sandbox)
            await self._bind(sandbox, wanted, directory)
        except BaseException:
            await self._destroy(sandbox)
            raise
        log.info("sandbox %s of template %s claimed by uid %d", sandbox.id, template.name, owner)
        return sandbox

    def get(self, owner: int, sandbox_id: str) -> Sandbox:
        """Return a claimed sandbox of `owner`; the broker's own user may have any. Raises UnknownSandboxError."""
        sandbox = self._sandboxes.get(ids.sandbox_id(sandbox_id))
        if sandbox is None or sandbox.state is not WorkerState.CLAIMED or owner not in (sandbox.owner, os.getuid()):
            raise UnknownSandboxError(f"no sandbox {sandbox_id}")
        return sandbox

    def claimed(self, owner: int | None = None) -> list[Sandbox]:
        """Return the claimed sandboxes `owner` may see, in the order of their ids; all for None."""
        visible = (None, os.getuid())
        return sorted(
            (
                sandbox
                for sandbox in self._sandboxes.values()
                if sandbox.state is WorkerState.CLAIMED and (owner in visible or owner == sandbox.owner)
            ),
            key=lambda sandbox: sandbox.id,
        )

    async def release(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox; quiet when it is already on its way."""
        sandbox.holder = None
        await self._destroy(sandbox)

    # -- kernels and commands

    async def start_kernel(self, sandbox: Sandbox, request: verbs.StartKernel) -> str:
        """Start a kernel; return the prefix of its socket paths. Raises SandboxError."""
        seat = ids.seat(request.seat)
        others = [other for other in self._sandboxes.values() if other is not sandbox and seat in other.seats]
        if seat in sandbox.kernels or others or len(sandbox.seats | {seat}) > _MAX_SEATS:
            raise StartError(f"kernel {seat} cannot be started here: its seat is taken, or there are too many")
        if seat not in sandbox.seats:
            sandbox.seats.add(seat)
            self._record(sandbox)
        prefix = self._places.kernel_sockets(seat)
        start = protocol.StartKernel(
            kernel=seat,
            argv=None if request.argv is None else processes.argv(request.argv),
            env=dict(sandbox.template.environment) | processes.environment(request.env),
            cwd=sandbox.cwd if request.cwd is None else processes.working_directory(request.cwd),
            prefix=str(prefix),
            key=request.key,
        )
        with contextlib.ExitStack() as undo:
            owner = None if sandbox.owner == os.getuid() else sandbox.owner
            listeners = kernel_sockets.bind(prefix, owner)
            undo.callback(kernel_sockets.remove, prefix)
            try:
                descriptors = [listener.fileno() for listener in listeners]
                sandbox.kernels[seat] = sandbox.worker.out_of_memory_kills()
                sandbox.ending.discard(seat)
                undo.callback(sandbox.kernels.pop, seat, None)
                await sandbox.reach().ask(start, protocol.Started, descriptors)
            finally:
                for listener in listeners:
                    listener.close()
            undo.pop_all()
        return str(prefix)

    async def run_command(self, sandbox: Sandbox, request: verbs.RunCommand, descriptors: Sequence[int]) -> str:
        """Run a command with three descriptors; return its id. Raises SandboxError."""
        command = ids.new_command_id()
        start = protocol.StartCommand(
            command=command,
            argv=processes.argv(request.argv),
            env=dict(sandbox.template.environment) | processes.environment(request.env),
            cwd=sandbox.cwd if request.cwd is None else processes.working_directory(request.cwd),
        )
        if len(descriptors) != 3:
            raise StartError("a command needs standard input, output and error")
        sandbox.commands.add(command)
        try:
            await sandbox.reach().ask(start, protocol.Started, descriptors)
        except BaseException:
            sandbox.commands.discard(command)
            raise
        return command

    async def signal(self, sandbox: Sandbox, target: str, number: int) -> None:
        """Signal a kernel or command; quiet when it has ended."""
        ending = processes.signal_number(number) in _ENDING_SIGNALS
        if target in sandbox.kernels or target in sandbox.commands:
            if ending:
                sandbox.ending.add(target)
            await sandbox.reach().signal(target, number)

    # -- the broker's own life

    async def recover(self, grace_s: float) -> None:
        """Take over what a dead broker left. A sandbox that nobody attaches to within `grace_s` is destroyed."""
        for record in list(self._ledger.records()):
            template = self.templates.get(record.template) or templates.BUILT_IN["python"]
            worker = await self._engine.recover(record, template)
            if worker is None:
                continue
            sandbox = Sandbox(worker=worker, template=template, state=WorkerState.WARM)
            self._sandboxes[sandbox.id] = sandbox
            if record.owner is None or not await self._take_over(sandbox, record):
                await self._destroy(sandbox)
                continue
            log.info("sandbox %s recovered with %d kernels", sandbox.id, len(sandbox.kernels))
            self._spawn(self._expire(sandbox, grace_s))
        known = [sandbox.id for sandbox in self._sandboxes.values()]
        for what in await self._engine.reap(known, dry_run=False):
            log.info("reaped %s", what)

    async def reap(self, *, dry_run: bool) -> list[str]:
        """See Engine.reap; kernel sockets that belong to no kernel as well."""
        found = await self._engine.reap(list(self._sandboxes), dry_run=dry_run)
        seats = {seat for sandbox in self._sandboxes.values() for seat in sandbox.kernels}
        for path in sorted((self._places.run / "k").iterdir()):
            if path.name.partition("-")[0] not in seats:
                found.append(f"kernel socket {path.name}")
                if not dry_run:
                    path.unlink(missing_ok=True)
        return found

    async def stop(self, *, everything: bool) -> None:
        """End the warm workers, and with `everything` the claimed ones too; else these live on for the next broker."""
        for task in self._tasks:
            task.cancel()
        for sandbox in list(self._sandboxes.values()):
            if everything or sandbox.state is not WorkerState.CLAIMED:
                await self._destroy(sandbox)
            elif sandbox.agent:
                await sandbox.agent.close()

    # -- inside

    def _count(self, template: Template) -> int:
        existing = sum(sandbox.template.name == template.name for sandbox in self._sandboxes.values())
        return existing + self._pending.get(template.name, 0)

    async def _make(self, template: Template) -> Sandbox:
        """Start a worker and connect to its agent: it is warm."""
        self._pending[template.name] = self._pending.get(template.name, 0) + 1
        try:
            worker = await self._engine.create(ids.new_sandbox_id(), template)
            sandbox = Sandbox(worker=worker, template=template)
            self._sandboxes[sandbox.id] = sandbox
        finally:
            self._pending[template.name] -= 1
        try:
            await self._connect(sandbox)
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.WARM)
        except BaseException:
            await self._destroy(sandbox)
            raise
        return sandbox

    async def _connect(self, sandbox: Sandbox) -> None:
        sandbox.agent = await AgentClient.connect(
            self._places.agent_socket(sandbox.id),
            sandbox.id,
            on_exited=lambda exited: self._exited(sandbox, exited),
            on_lost=lambda: self._lost(sandbox),
        )

    async def _bind(self, sandbox: Sandbox, wanted: Workspace, directory: int | None) -> None:
        """Give a warm worker its mounts and take its privileges."""
        worker, disk = sandbox.worker, sandbox.worker.disk
        if disk is None:
            raise StartError(f"{sandbox.id} has no disk")
        targets, mounts = [HOME], [await asyncio.to_thread(disk.home)]
        try:
            for share in sandbox.template.shares:
                targets.append(share.target)
                mounts.append(await asyncio.to_thread(self._mounter.share, share, owner=sandbox.owner, uid=worker.uid))
            if directory is not None:
                targets.append(sandbox.cwd)
                mounts.append(
                    await asyncio.to_thread(
                        self._mounter.mount, wanted, directory, disk, owner=sandbox.owner, uid=worker.uid
                    )
                )
            bind = protocol.Bind(
                mounts=tuple(protocol.MountPoint(target=target) for target in targets),
                uid=worker.inner_uid,
                hostname="sandbox",
                rlimits=worker.rlimits(),
            )
            await sandbox.reach().ask(bind, protocol.Bound, mounts)
        finally:
            messages.close_all(mounts)

    def _record(self, sandbox: Sandbox) -> None:
        self._ledger.write(sandbox.record(host_processes.start_time(sandbox.worker.pid)))

    async def _take_over(self, sandbox: Sandbox, record: Record) -> bool:
        try:
            await self._connect(sandbox)
            description = await sandbox.reach().ask(protocol.Describe(), protocol.Description)
        except SandboxError as error:
            log.warning("sandbox %s cannot be recovered: %s", sandbox.id, error)
            return False
        sandbox.state = lifecycle.advance(sandbox.state, WorkerState.CLAIMED)
        sandbox.owner, sandbox.created_at = record.owner or 0, record.created_at
        sandbox.cwd = record.workspace or HOME
        running = set(description.running)
        sandbox.seats = set(record.seats)
        sandbox.commands = {name for name in running if ids.is_command_id(name)}
        if running - sandbox.seats - sandbox.commands or len(running) > _MAX_RUNNING:
            log.warning("sandbox %s is given up: its agent speaks of kernels that never were", sandbox.id)
            return False
        kills = sandbox.worker.out_of_memory_kills()
        sandbox.kernels = dict.fromkeys(running & sandbox.seats, kills)
        return description.bound

    async def _expire(self, sandbox: Sandbox, grace_s: float) -> None:
        await asyncio.sleep(grace_s)
        if sandbox.holder is None:
            log.info("sandbox %s ends: nobody attached to it within %.0f s", sandbox.id, grace_s)
            await self._destroy(sandbox)

    def _exited(self, sandbox: Sandbox, exited: protocol.Exited) -> None:
        """A process of a worker ended: tell the holder why. `exited` may lie, but only about its own sandbox."""
        kills_before = sandbox.kernels.pop(exited.target, None)
        if kills_before is None and exited.target not in sandbox.commands:
            raise ProtocolError("it says that something ended which was never started")
        sandbox.commands.discard(exited.target)
        verdict = obituary.write(
            status=exited.status,
            limits=sandbox.template.limits,
            out_of_memory=sandbox.worker.out_of_memory_kills() > (kills_before or 0),
            disk_full=exited.disk_full,
            requested=exited.target in sandbox.ending,
            log=exited.log[:2048],
        )
        sandbox.ending.discard(exited.target)
        if kills_before is not None:
            kernel_sockets.remove(self._places.kernel_sockets(exited.target))
        self._tell(
            sandbox,
            verbs.ProcessExited(
                sandbox=sandbox.id,
                target=exited.target,
                status=exited.status,
                reason=verdict.reason,
                message=verdict.message,
            ),
        )

    def _lost(self, sandbox: Sandbox) -> None:
        """The agent is gone, and with pid 1 everything in the worker."""
        if sandbox.state in (WorkerState.DOOMED, WorkerState.GONE):
            return
        if sandbox.state is WorkerState.WARM:
            self.pool.discard(sandbox)
        kills = sandbox.worker.out_of_memory_kills() > min(sandbox.kernels.values(), default=0)
        cause = f"it needed more than its {sandbox.template.limits.memory_mib} MiB of memory" if kills else "it crashed"
        self._tell(
            sandbox,
            verbs.SandboxGone(
                sandbox=sandbox.id,
                message=f"The sandbox was lost: {cause}. Its files are gone; a restart gets a new one.",
            ),
        )
        self._spawn(self._destroy(sandbox))

    def _tell(self, sandbox: Sandbox, event: Event) -> None:
        if sandbox.holder:
            sandbox.holder(event)

    async def _destroy(self, sandbox: Sandbox) -> None:
        """End a worker for good. The only way out of the registry."""
        if sandbox.state in (WorkerState.DOOMED, WorkerState.GONE):
            return
        sandbox.state = lifecycle.advance(sandbox.state, WorkerState.DOOMED)
        self.pool.discard(sandbox)
        agent, sandbox.agent = sandbox.agent, None
        if agent:
            await agent.close()
        for seat in list(sandbox.kernels):
            kernel_sockets.remove(self._places.kernel_sockets(seat))
        await self._engine.destroy(sandbox.worker)
        self._sandboxes.pop(sandbox.id, None)
        sandbox.state = lifecycle.advance(sandbox.state, WorkerState.GONE)
        log.info("sandbox %s destroyed", sandbox.id)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
