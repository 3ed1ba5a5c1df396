"""The sandboxes of one broker: claimed from warm workers, bound for life to one owner, destroyed once.

It knows owners and kernels, but not sockets of clients (`server`) nor how workers are made (the engine).
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from jupyter_sandbox import lifecycle, narrowing, restrictions, templates, workspace
from jupyter_sandbox.agents import AgentClient
from jupyter_sandbox.broker import adoption, binding, commands, kernels, reaper, recording, seats, verbs
from jupyter_sandbox.broker.admission import Admission
from jupyter_sandbox.broker.grace import Grace
from jupyter_sandbox.broker.recoveries import Recoveries
from jupyter_sandbox.broker.sandbox import Event, Holder, Sandbox
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    CapacityError,
    UnknownSandboxError,
    WorkspaceError,
)
from jupyter_sandbox.firewall import Firewall, NoFirewall
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import kernel_sockets, tasks
from jupyter_sandbox.lifecycle import WorkerState
from jupyter_sandbox.pool import HEAD_START_S, Pool
from jupyter_sandbox.specs import UNLIMITED, UNRESTRICTED, Less, Restriction, Template, Workspace, WorkspaceMode
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.ledger import Ledger

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
        firewall: Firewall | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Start with nothing; `recover` and `pool.run` are the caller's to call."""
        self._engine = engine
        self._ledger = ledger
        self.places = places
        self._mounter = mounter
        self.firewall: Firewall = firewall or NoFirewall()
        self.templates = known_templates
        self._sandboxes: dict[ids.SandboxId, Sandbox] = {}
        self._making: dict[ids.SandboxId, Template] = {}
        self._ends: dict[ids.SandboxId, asyncio.Task[None]] = {}
        self.pool: Pool[Sandbox] = Pool(self._make_warm, self._destroy, self.count, head_start_s=HEAD_START_S)
        self.admission = admission or Admission()
        self._tasks: set[asyncio.Task[None]] = set()
        self._grace = Grace(self._destroy, self._tasks)
        self._left = Recoveries(
            engine=engine,
            ledger=ledger,
            firewall=self.firewall,
            known_templates=known_templates,
            sandboxes=self._sandboxes,
            making=self._making,
            tasks=self._tasks,
            connect=self._connect,
            write=self.record,
            taken=self._grace.begin,
            destroy=self._destroy,
        )
        self.claims = 0
        """How many were ever tried."""
        self.on_gone: Callable[[], None] = lambda: None  # called whenever a sandbox has gone

    # -- claiming and ending

    async def claim(
        self,
        owner: int,
        template_name: str,
        wanted: Workspace,
        directory: int | None,
        holder: Holder,
        *,
        kernelspec: int | None = None,
        seat: str | None = None,
        on_behalf: str = "",
        restriction: Restriction = UNRESTRICTED,
        less: Less = UNLIMITED,
        server: str = "",
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> Sandbox:
        """Give `owner` a sandbox; `holder` gets its events. Raises SandboxError, leaving nothing behind.

        `directory`, the notebook's, and `kernelspec` were opened by a process of the owner; `seat`: of the kernel
        that will be started next, to be recorded once; `on_behalf`: see `Claim`. What follows is judged.
        """
        self.claims += 1
        party = owner, ids.on_behalf(on_behalf)
        template = templates.find(self.templates, template_name)
        if (wanted.mode is not WorkspaceMode.NONE) != (directory is not None):
            raise WorkspaceError("a workspace needs its directory, opened by the caller, and a mode other than none")
        self.firewall.judge(template)
        restrictions.within(template.policy, restriction, template.name)
        limits = narrowing.narrowed(template.limits, less, template.name)
        with self.admission.claim(party, template, self.claimed()):
            sandbox = await self._take(template)
            sandbox.owner, sandbox.on_behalf = party
        try:
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.CLAIMED)
            sandbox.holder = holder
            sandbox.restriction, sandbox.less, sandbox.server, sandbox.notes = restriction, less, server, dict(notes)
            sandbox.created_at = datetime.now(UTC).isoformat()
            if wanted.mode is not WorkspaceMode.NONE:
                sandbox.cwd = workspace.target(wanted)
            if seat is not None:
                sandbox.seats.add(await self._free_seat(sandbox, seat))
            self.record(sandbox)
            if limits != template.limits:
                await self._engine.narrow(sandbox.worker, limits)
            await binding.bind(sandbox, self._mounter, self.firewall, wanted, directory, kernelspec)
        except BaseException:
            await self._destroy(sandbox)
            raise
        log.info("sandbox %s of template %s claimed by uid %d", sandbox.id, template.name, owner)
        return sandbox

    async def _take(self, template: Template) -> Sandbox:
        """Return a warm worker, or make one; where there is no room, the one that the pool is making."""
        while (sandbox := self.pool.take(template)) is not None:
            if sandbox.worker.is_current():
                return sandbox
            await self._destroy(sandbox)
        try:
            return await self._make(template)
        except CapacityError:
            if (sandbox := await self.pool.take_next(template)) is not None:
                return sandbox
            raise

    def get(self, owner: int, sandbox_id: str, *, or_late: bool = False) -> Sandbox:
        """Return a claimed sandbox of `owner`; the broker's own user may have any. Raises UnknownSandboxError.

        BrokerUnavailableError: it outlived its broker, and could not be taken over yet; returned with `or_late`.
        """
        sandbox = self._sandboxes.get(ids.sandbox_id(sandbox_id))
        is_there = sandbox is not None and (sandbox.state is WorkerState.CLAIMED or (or_late and sandbox.is_late))
        if sandbox is not None and is_there and owner in (sandbox.owner, os.getuid()):
            return sandbox
        if sandbox_id in self._left.waiting or (sandbox and sandbox.is_late):
            raise BrokerUnavailableError(f"sandbox {sandbox_id} is not taken over yet: try again", retry_after_s=5)
        raise UnknownSandboxError(f"no sandbox {sandbox_id}")

    def claimed(self, owner: int | None = None, *, or_late: bool = False) -> list[Sandbox]:
        """Return the claimed sandboxes `owner` may see, all for None, by their ids; `or_late` as in `get`."""
        visible = (None, os.getuid())
        return sorted(
            (
                sandbox
                for sandbox in self._sandboxes.values()
                if (sandbox.state is WorkerState.CLAIMED or (or_late and sandbox.is_late))
                and (owner in visible or owner == sandbox.owner)
            ),
            key=lambda sandbox: sandbox.id,
        )

    def count(self, template: Template) -> int:
        """Return how many workers of a template there are: those that start or end, too."""
        of = [*(sandbox.template for sandbox in self._sandboxes.values()), *self._making.values()]
        return sum(other.name == template.name for other in of)

    async def release(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox; quiet when it is already on its way."""
        sandbox.holder = None
        await self._destroy(sandbox)

    async def leave(self, sandbox: Sandbox) -> None:
        """Its holder has gone: let it wait for the server that may adopt it, or destroy it."""
        sandbox.holder = None
        if sandbox.server and self._grace.seconds and sandbox.state is WorkerState.CLAIMED:
            self._grace.begin(sandbox)
        else:
            await self._destroy(sandbox)

    # -- kernels

    async def start_kernel(self, sandbox: Sandbox, request: verbs.Kernel) -> verbs.KernelStarted:
        """Start a kernel. Raises SandboxError."""
        sandbox.reach()  # or no seat is taken
        seat, note = await self._free_seat(sandbox, request.seat), adoption.judged(request.note)
        seats.take(sandbox, seat, note, self.record)
        owner = None if sandbox.owner == os.getuid() else sandbox.owner
        return await kernels.start(sandbox, seat, request, self.places, owner)

    def vacate(self, sandbox: Sandbox, seat: str) -> None:
        """Forget the seat of a kernel that has ended. Raises SandboxError."""
        seats.vacate(sandbox, seat, self.record)

    async def _free_seat(self, sandbox: Sandbox, name: str) -> ids.KernelSeat:
        return await seats.free(sandbox, name, self._sandboxes.values(), self._destroy)

    # -- the broker's own life

    async def recover(self, grace_s: float) -> None:
        """Take over what a dead broker left. What nobody attaches to or adopts within `grace_s` is destroyed.

        The same holds for sandboxes that are left by their server from now on.
        """
        self._grace.seconds = grace_s
        await self._left.begin()
        self._grace.runs.set()
        for what in await self.reap(dry_run=False):
            log.info("reaped %s", what)

    @property
    def is_waiting(self) -> bool:
        """Whether there are sandboxes that could not be judged yet."""
        return bool(self._left.waiting)

    async def recover_waiting(self) -> None:
        """Judge those now that can be."""
        await self._left.go_on()

    async def reap(self, *, dry_run: bool) -> list[str]:
        """See `reaper`. What could not be judged yet is before, if it can be now and not only to be told."""
        if not dry_run:
            await self._left.go_on()
        return await reaper.reap(
            self._engine,
            self.firewall,
            self.places,
            self._ledger,
            somebodys=lambda: reaper.owned(self._sandboxes.values(), {*self._making, *self._left.waiting}),
            slots=lambda: {sandbox.worker.slot for sandbox in list(self._sandboxes.values())},
            unjudged=self._left.waiting,
            dry_run=dry_run,
        )

    async def renew(self) -> None:
        """Tell every agent that its broker is there, but those that are frozen: they wait only while they run."""
        awake = (sandbox for sandbox in self._sandboxes.values() if not sandbox.is_paused)
        agents = [sandbox.agent for sandbox in awake if sandbox.agent]
        await asyncio.gather(*(agent.tell(protocol.Renew()) for agent in agents))

    async def stop(self, *, everything: bool) -> None:
        """End the warm workers, and with `everything` the claimed ones too; else these live on for the next broker."""
        recording.catch_up(self.claimed(), self.record)
        for task in self._tasks:
            task.cancel()
        for sandbox in list(self._sandboxes.values()):
            if everything or not (sandbox.state is WorkerState.CLAIMED or sandbox.is_late):
                await self._destroy(sandbox)
            elif sandbox.agent:
                await sandbox.agent.close()
        if self._ends:
            await asyncio.wait(list(self._ends.values()))

    # -- inside

    async def _make_warm(self, template: Template) -> Sandbox:
        """Start a worker that nobody waits for: its first kernel stands by."""
        return await self._make(template, stands_by=True)

    async def _make(self, template: Template, *, stands_by: bool = False) -> Sandbox:
        """Start a worker and connect to its agent. Raises SandboxError."""
        workers = len(self._sandboxes) + len(self._making)
        with self.admission.start(template, of_template=self.count(template), workers=workers):
            return await self._start(template, stands_by=stands_by)

    async def _start(self, template: Template, *, stands_by: bool) -> Sandbox:
        fresh = ids.new_sandbox_id()
        self._making[fresh] = template
        try:
            sandbox = Sandbox(worker=await self._engine.create(fresh, template), template=template)
            self._sandboxes[sandbox.id] = sandbox
        finally:
            del self._making[fresh]
        try:
            await self._connect(sandbox)
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.WARM)
            if stands_by:
                await kernels.stand_by(sandbox, self.places)
        except BaseException:
            await self._destroy(sandbox)
            raise
        return sandbox

    async def _connect(self, sandbox: Sandbox) -> None:
        sandbox.agent = await AgentClient.connect(
            self.places.agent_socket(sandbox.id),
            sandbox.id,
            on_exited=lambda exited: self._exited(sandbox, exited),
            on_lost=lambda: self._lost(sandbox),
        )

    def record(self, sandbox: Sandbox) -> None:
        """Write down what is known of a sandbox. Raises SandboxError."""
        recording.write(sandbox, self._ledger, self._engine.name)

    def _exited(self, sandbox: Sandbox, exited: protocol.Exited) -> None:
        """A process of a worker ended: tell the holder why. `exited` may lie, but only about its own sandbox."""
        kills_before = sandbox.kernels.pop(exited.target, None)
        if sandbox.state in (WorkerState.STARTING, WorkerState.WARM):
            return  # it is being taken over; nobody waits for this
        if kills_before is None:
            commands.ended(sandbox, exited)
            return
        end = sandbox.end_of(exited, kills_before, "kernel")
        sandbox.ending.discard(exited.target)
        kernel_sockets.remove(self.places.kernel_sockets(exited.target))
        self._tell(sandbox, end)

    def _lost(self, sandbox: Sandbox) -> None:
        """The agent is gone, and with pid 1 everything in the worker."""
        if sandbox.state in (WorkerState.STARTING, WorkerState.DOOMED, WorkerState.GONE):
            return  # who takes it over hears of it as an error
        if sandbox.state is WorkerState.WARM:
            self.pool.discard(sandbox)
        kills = sandbox.worker.out_of_memory_kills() > min(sandbox.kernels.values(), default=0)
        cause = f"it needed more than its {sandbox.worker.limits.memory_mib} MiB of memory" if kills else "it crashed"
        commands.lost(sandbox, f"The sandbox was lost: {cause}.")
        self._tell(
            sandbox,
            verbs.SandboxGone(
                sandbox=sandbox.id,
                message=f"The sandbox was lost: {cause}. Its files are gone; a restart gets a new one.",
            ),
        )
        tasks.spawn(self._tasks, self._destroy(sandbox))

    def _tell(self, sandbox: Sandbox, event: Event) -> None:
        if sandbox.holder:
            sandbox.holder(event)

    async def _destroy(self, sandbox: Sandbox) -> None:
        """End a worker for good, even if the caller is cancelled meanwhile. The only way out of the registry."""
        if sandbox.state is WorkerState.GONE:
            return
        if sandbox.state is not WorkerState.DOOMED:
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.DOOMED)
            self._ends[sandbox.id] = asyncio.create_task(self._end(sandbox), name=f"end of {sandbox.id}")
        await asyncio.shield(self._ends[sandbox.id])

    async def _end(self, sandbox: Sandbox) -> None:
        self.pool.discard(sandbox)
        agent, sandbox.agent = sandbox.agent, None
        sandbox.end_grace()
        commands.lost(sandbox, "The sandbox has ended.")
        try:
            if agent:
                await agent.close()
            if sandbox.standby:
                sandbox.standby.remove()
            for seat in list(sandbox.kernels):
                kernel_sockets.remove(self.places.kernel_sockets(seat))
            if sandbox.was_claimed:  # or it never had a network, and its slot may be another's already: see `Slots`
                await asyncio.to_thread(self.firewall.close, sandbox.worker.slot)  # before the slot is another's
            async with sandbox.changing:  # what is being frozen is frozen before it is killed and thawed
                await self._engine.destroy(sandbox.worker)
        except Exception:
            log.exception("sandbox %s did not end cleanly; the next reap looks for what it left", sandbox.id)
        finally:
            del self._sandboxes[sandbox.id], self._ends[sandbox.id]
            sandbox.state = lifecycle.advance(sandbox.state, WorkerState.GONE)
            self.pool.wake()
            self.on_gone()
        log.info("sandbox %s destroyed", sandbox.id)
