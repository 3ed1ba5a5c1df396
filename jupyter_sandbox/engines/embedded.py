"""Engine `embedded`: workers are forked from a zygote straight into Linux namespaces. It needs nothing installed.

As root every worker has a host uid of its own, an ext4 disk and control groups. Without root the broker lives in a
user namespace of its own (see `broker.app`): the same namespaces and filters, a tmpfs as disk, rlimits where no
groups are delegated.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from typing import TYPE_CHECKING

from jupyter_sandbox.disks import Disk
from jupyter_sandbox.engines import Remains, host_languages
from jupyter_sandbox.engines.held import (
    KILL_TIMEOUT_S,
    NO_CORE,
    HeldWorker,
    Slots,
    recovered,
    remains,
)
from jupyter_sandbox.engines.zygotes import Fresh, PackageTimes, Zygote, are_stale
from jupyter_sandbox.errors import NotSupportedError, SandboxError, StartError
from jupyter_sandbox.host import channel, processes, tasks
from jupyter_sandbox.ledger import Ledger, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_sandbox.cgroups import Group, Hierarchy
    from jupyter_sandbox.disks import Disks
    from jupyter_sandbox.engines import Worker
    from jupyter_sandbox.guards.ids import SandboxId
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.specs import Limits, Template

log = logging.getLogger(__name__)


class EmbeddedWorker(HeldWorker):
    """A worker made of namespaces."""

    def __init__(
        self,
        *,
        sandbox: SandboxId,
        template: Template,
        slot: int,
        uid_base: int | None,
        pid: int,
        pidfd: int,
        disk: Disk | None,
        group: Group | None,
        packages: PackageTimes = (),
    ) -> None:
        """Own `pidfd`, `disk` and `group`; `packages`: of what it has imported, not known after a recovery."""
        super().__init__(
            sandbox=sandbox,
            template=template,
            slot=slot,
            uid=_host_uid(uid_base, slot),
            inner_uid=0 if uid_base is None else slot,
            pid=pid,
            pidfd=pidfd,
            disk=disk,
            group=group,
        )
        self._packages = packages

    def is_current(self) -> bool:
        """See Worker: what it imported is what a kernel would import now."""
        return not are_stale(self._packages)

    def rlimits(self) -> dict[str, int]:
        """See Worker. Without control groups, processes and memory are limited here too, per process at least."""
        limits = {"RLIMIT_NOFILE": self.limits.open_files, "RLIMIT_CORE": NO_CORE}
        if self.group is None:
            limits |= {"RLIMIT_NPROC": self.limits.processes, "RLIMIT_DATA": self.limits.memory_mib << 20}
        return limits

    async def attach(self, mounts: Mapping[str, int]) -> dict[str, int]:
        """See Worker. The agent is root of its namespace until it is bound."""
        return dict(mounts)


class EmbeddedEngine:
    """See the module."""

    name = "embedded"

    def __init__(
        self,
        *,
        places: Places,
        ledger: Ledger,
        disks: Disks,
        hierarchy: Hierarchy | None,
        uid_base: int | None,
        default: Template,
    ) -> None:
        """`uid_base`: first host uid of the range, None without root. `default`: the template to be ready for."""
        self._places = places
        self._ledger = ledger
        self._disks = disks
        self._hierarchy = hierarchy
        self._uid_base = uid_base
        self._default = default
        self._zygotes: dict[str, Zygote] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._slots = Slots(uid_base)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See Engine. What a dead broker left needs nothing of a zygote, and does not wait for it."""
        if any(record.owner is not None for record in self._ledger.records()):
            tasks.spawn(self._tasks, self._warm_up())
        else:
            await self._zygote(self._default)

    async def stop(self) -> None:
        """See Engine."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for zygote in self._zygotes.values():
            await zygote.stop()
        self._zygotes.clear()
        if self._hierarchy:
            await asyncio.to_thread(self._hierarchy.remove_parents)

    async def forget(self, template: Template) -> None:
        """See Engine: its zygote."""
        async with self._starting.setdefault(template.name, asyncio.Lock()):
            zygote = self._zygotes.get(template.name)
            if zygote is not None and zygote.serves(template):
                del self._zygotes[template.name]
                await zygote.stop()

    def notes(self) -> list[str]:
        """See Engine."""
        notes = [f"disk: {self._disks.kind}"]
        if self._hierarchy:
            notes.append(f"limits: control groups version {self._hierarchy.version}")
        else:
            notes.append("limits: rlimits only (no control group may be made here): memory and processes, no cpu share")
        for name, zygote in self._zygotes.items():
            notes.append(f"zygote of {name}: pid {zygote.pid}, kernels start {zygote.ready.start_mode}")
            notes += zygote.ready.notes
        return notes

    async def languages(self) -> tuple[str, ...]:
        """See Engine: those of this machine, as far as workers see it."""
        return await asyncio.to_thread(host_languages.of_this_host)

    async def create(self, sandbox: SandboxId, template: Template) -> Worker:
        """See Engine. The order is: record, listener, disk, group, fork; each undone if a later one fails.

        The disk is made meanwhile: nobody needs it before the worker is bound.
        """
        try:
            return await self._create(sandbox, template)
        except OSError as error:
            raise StartError(f"a worker could not be made: {error}") from error

    async def _create(self, sandbox: SandboxId, template: Template) -> Worker:
        async with contextlib.AsyncExitStack() as undo:
            slot = self._slots.take(sandbox)
            undo.callback(self._slots.free, sandbox)
            uid = _host_uid(self._uid_base, slot)
            self._ledger.write(Record(id=sandbox, template=template.name, slot=slot, engine=self.name))
            undo.callback(self._ledger.remove, sandbox)
            path = self._places.agent_socket(sandbox)
            undo.callback(path.unlink, missing_ok=True)
            listener = undo.enter_context(channel.listen(path, kind=socket.SOCK_SEQPACKET, mode=0o600))
            making_disk = tasks.begin(
                undo, asyncio.to_thread(self._disks.create, sandbox, template.limits, uid), Disk.close
            )
            group = None
            if self._hierarchy:
                making = asyncio.to_thread(self._hierarchy.create, sandbox, template.limits)
                group = await tasks.take(undo, making, lambda made: asyncio.to_thread(made.remove))
            fresh = await tasks.take(undo, self._fork(sandbox, template, listener.fileno()), _end)
            self._ledger.write(
                Record(
                    id=sandbox,
                    template=template.name,
                    slot=slot,
                    pid=fresh.pid,
                    started=processes.start_time(fresh.pid),
                    engine=self.name,
                )
            )
            if group:
                await asyncio.to_thread(group.add, fresh.pid)  # the kernel may wait for forks of others
            worker = EmbeddedWorker(
                sandbox=sandbox,
                template=template,
                slot=slot,
                uid_base=self._uid_base,
                pid=fresh.pid,
                pidfd=fresh.pidfd,
                disk=await asyncio.shield(making_disk),
                group=group,
                packages=fresh.packages,
            )
            undo.pop_all()
            listener.close()
            return worker

    async def recover(self, record: Record, template: Template) -> Worker | None:
        """See Engine. What belonged to a worker that does not live is given back."""
        group = self._hierarchy.group(record.id) if self._hierarchy else None
        uid = self._uid_base and self._uid_base + record.slot
        found = await recovered(record, self._slots, self._disks.stage, uid)
        if found is None:
            await self._give_back(record.id, group)
            self._slots.free(record.id)
            return None
        pidfd, disk = found
        return EmbeddedWorker(
            sandbox=record.id,
            template=template,
            slot=record.slot,
            uid_base=self._uid_base,
            pid=record.pid,
            pidfd=pidfd,
            disk=disk,
            group=group,
        )

    async def destroy(self, worker: Worker) -> None:
        """See Engine."""
        if not isinstance(worker, EmbeddedWorker) or worker.pidfd == -1:
            return
        await worker.end()
        await self._give_back(worker.id, worker.group)
        self._slots.free(worker.id)

    async def narrow(self, worker: Worker, limits: Limits) -> None:
        """See Engine: by its control group, or by the rlimits that it is bound with."""
        group = worker.group if isinstance(worker, EmbeddedWorker) else None
        if group is None and limits.cpus != worker.limits.cpus:
            raise NotSupportedError("cpus cannot be limited here: the broker may make no control group")
        if isinstance(worker, EmbeddedWorker):
            worker.require_less(limits)
        if group is not None and self._hierarchy is not None:
            try:
                await tasks.whole(asyncio.to_thread(self._hierarchy.hold, group, limits))
            except OSError as error:
                raise StartError(f"{worker.id} could not be held to lower limits: {error}") from error
        worker.limits = limits

    async def pause(self, worker: Worker) -> None:
        """See Engine: by the freezer of its control group."""
        group = worker.group if isinstance(worker, EmbeddedWorker) else None
        if group is None or not group.can_freeze:
            raise NotSupportedError(
                "sandboxes cannot be paused here: the broker may make no control group that freezes"
            )
        try:
            await tasks.whole(asyncio.to_thread(group.freeze))
        except OSError as error:
            raise StartError(f"{worker.id} could not be frozen: {error}") from error

    async def resume(self, worker: Worker) -> None:
        """See Engine."""
        if isinstance(worker, EmbeddedWorker) and worker.group:
            try:
                worker.group.thaw()
            except OSError as error:
                raise StartError(f"{worker.id} could not be thawed: {error}") from error

    async def remains(self) -> list[Remains]:
        """See Engine."""
        found = []
        if self._hierarchy:
            for name in sorted(self._hierarchy.names()):
                group = self._hierarchy.group(name)
                inside = len(group.processes())
                what = f"control group {name}" + (f" with {inside} processes" if inside else "")
                remove = functools.partial(asyncio.to_thread, group.destroy)
                found.append(Remains(what=what, made_for=name, remove=remove))
        return found + await asyncio.to_thread(remains, self._places, self._disks.stage)

    async def _give_back(self, sandbox: SandboxId, group: Group | None) -> None:
        if group:
            try:
                await asyncio.to_thread(group.remove)
            except OSError as error:
                log.warning("control group of %s stays: %s", sandbox, error)
        self._places.agent_socket(sandbox).unlink(missing_ok=True)
        self._ledger.remove(sandbox)

    async def _fork(self, sandbox: SandboxId, template: Template, listener: int) -> Fresh:
        """Fork from the template's zygote; a zygote that has died meanwhile is replaced once."""
        zygote = await self._zygote(template)
        try:
            return await zygote.fork(sandbox, listener)
        except StartError:
            if zygote.is_alive():
                raise
            log.warning("the zygote of template %s died; starting another", template.name)
        return await (await self._zygote(template)).fork(sandbox, listener)

    async def _zygote(self, template: Template) -> Zygote:
        async with self._starting.setdefault(template.name, asyncio.Lock()):
            zygote = self._zygotes.get(template.name)
            if zygote is not None and not zygote.serves(template):
                await zygote.stop()
            if zygote is None or not zygote.is_alive():
                zygote = await Zygote.start(template, self._uid_base)
                self._zygotes[template.name] = zygote
            elif zygote.is_stale():
                await self._renew(template, zygote)
                zygote = self._zygotes.get(template.name, zygote)
            elif zygote.is_old() and not self._tasks:
                tasks.spawn(self._tasks, self._renew(template, zygote))
            return zygote

    async def _warm_up(self) -> None:
        """Have the zygote that is needed first; who claims learns why there is none."""
        try:
            await self._zygote(self._default)
        except SandboxError as error:
            log.warning("no zygote of template %s: %s", self._default.name, error)

    async def _renew(self, template: Template, old: Zygote) -> None:
        """Replace an old zygote without making anybody wait."""
        try:
            fresh = await Zygote.start(template, self._uid_base)
        except Exception:
            log.exception("the zygote of template %s could not be renewed; the old one goes on", template.name)
            old.take_for_current()
            return
        if self._zygotes.get(template.name) is not old:  # the template is another by now, or none
            await fresh.stop()
            return
        self._zygotes[template.name] = fresh
        await old.stop()


async def _end(fresh: Fresh) -> None:
    """Kill a worker that nobody will have; its group and disk can be given back once it has ended."""
    processes.kill(fresh.pidfd)
    await processes.ended(fresh.pidfd, KILL_TIMEOUT_S)
    os.close(fresh.pidfd)


def _host_uid(uid_base: int | None, slot: int) -> int:
    """Return the host uid of a slot; without root all workers are the broker's own user."""
    return os.getuid() if uid_base is None else uid_base + slot
