"""Engine `docker`: each worker is a hardened container of the worker image. Needs root and a Docker or Podman socket.

The daemon makes and removes containers; everything else is as in the embedded engine. The agent's listener is bound by
the host and handed over once, on a socket in a directory that the container sees read-only; mounts are attached from
outside, since the container has no capability; life and death are told by a pidfd of pid 1, not by the daemon, so
that sandboxes go on, and can be ended, while the daemon is away. What it could not remove then is removed later.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import socket
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import cgroups
from jupyter_sandbox._version import __version__
from jupyter_sandbox.disks import Disk
from jupyter_sandbox.engines import Remains, container, image, suitability
from jupyter_sandbox.engines.daemon import Daemon, socket_exists
from jupyter_sandbox.engines.held import NO_CORE, HeldWorker, Slots, recovered, remains
from jupyter_sandbox.errors import (
    EngineUnavailableError,
    IsolationUnavailableError,
    ProtocolError,
    SandboxError,
    StartError,
)
from jupyter_sandbox.host import channel, elsewhere, processes, tasks
from jupyter_sandbox.host.channel import Channel
from jupyter_sandbox.ledger import Ledger, Record
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jupyter_sandbox.disks import Disks
    from jupyter_sandbox.engines import Worker
    from jupyter_sandbox.guards.ids import SandboxId
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.specs import Limits, Template

_READY_TIMEOUT_S: Final = 60
_SETTLE_TIMEOUT_S: Final = 90

log = logging.getLogger(__name__)


class DockerWorker(HeldWorker):
    """A worker that is a container."""

    def rlimits(self) -> dict[str, int]:
        """See Worker. The container has them already, but for open files: its agent may have more, and lowers them."""
        return {
            "RLIMIT_NOFILE": self.limits.open_files,
            "RLIMIT_NPROC": self.limits.processes,
            "RLIMIT_CORE": NO_CORE,
        }

    async def attach(self, mounts: Mapping[str, int]) -> dict[str, int]:
        """See Worker. All of them, from outside."""
        try:
            await tasks.whole(
                asyncio.to_thread(
                    elsewhere.attach,
                    self.pidfd,
                    dict(mounts),
                    away=(container.HAND_OVER,),
                    inodes=container.inode_limits(self.limits),
                    seal=container.SEALED,
                )
            )
        except OSError as error:
            raise StartError(f"the mounts of {self.id} could not be attached: {error}") from error
        return {}


class DockerEngine:
    """See the module."""

    name = "docker"

    def __init__(
        self,
        *,
        places: Places,
        ledger: Ledger,
        disks: Disks,
        uid_base: int,
        image_name: str = image.DEFAULT,
        runtime: str = "",
    ) -> None:
        """`uid_base`: first host uid of the range; `runtime`: OCI runtime, empty for the daemon's default."""
        self._places = places
        self._ledger = ledger
        self._disks = disks
        self._uid_base = uid_base
        self._image = image_name
        self._host = container.Host(
            image=image_name,
            instance=places.instance,
            version=__version__,
            runtime=runtime,
        )
        self._slots = Slots(uid_base)
        self._creating: set[str] = set()
        self._owed: set[str] = set()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._daemon: Daemon | None = None
        self._notes: list[str] = []
        self._ready: protocol.Ready | None = None
        self._languages: tuple[str, ...] = ()

    async def start(self) -> None:
        """See Engine."""
        try:
            self._daemon = await Daemon.connect()
            version, info = await self._daemon.version(), await self._daemon.info()
        except EngineUnavailableError as error:
            raise IsolationUnavailableError(
                "no container engine answers at its socket: start it, or use the engine `embedded`"
            ) from error
        labels = await self._daemon.image_labels(self._image)
        wrong = suitability.refusal(info, self._host.runtime) or image.misfit(self._image, labels)
        if wrong:
            raise IsolationUnavailableError(wrong)
        self._languages = image.languages(labels or {})
        status, own_limits = self._daemon.process()
        open_files, most_processes = suitability.highest(status, own_limits)
        self._host = dataclasses.replace(
            self._host,
            open_files=open_files,
            processes=most_processes,
            remaps=suitability.remaps(info),
            processors=suitability.processors(info),
            profile=self._write_profile() if suitability.is_podman(version) else "",
        )
        self._notes = [
            suitability.summary(version, info),
            f"image {self._image}" + (f", runtime {self._host.runtime}" if self._host.runtime else ""),
            f"disk: {self._disks.kind}",
            *(weakness.fact for weakness in suitability.weaknesses(version, info, suitability.capabilities(status))),
        ]

    def _write_profile(self) -> str:
        self._places.profile.write_text(json.dumps(container.seccomp_profile()))
        return str(self._places.profile)

    async def forget(self, template: Template) -> None:
        """See Engine. Each container is made on its own."""

    async def stop(self) -> None:
        """See Engine. Workers that are being made, or unmade after a cancellation, need the daemon until the end."""
        try:
            async with asyncio.timeout(_SETTLE_TIMEOUT_S):
                await self._settled.wait()
        except TimeoutError:
            log.error("the engine stops while workers are being made: %s", ", ".join(sorted(self._creating)))
        if self._sweeps:
            await asyncio.wait(self._sweeps)
        if self._daemon:
            self._daemon.close()

    def notes(self) -> list[str]:
        """See Engine."""
        notes = list(self._notes)
        if self._ready:
            notes.append(f"kernels start {self._ready.start_mode}")
            notes += self._ready.notes
        return notes

    async def languages(self) -> tuple[str, ...]:
        """See Engine: those of the image, by its label."""
        return self._languages

    async def create(self, sandbox: SandboxId, template: Template) -> Worker:
        """See Engine. The order is: record, listener, disk, container, hand-over; each undone if a later one fails."""
        self._creating.add(sandbox)
        self._settled.clear()
        try:
            worker = await self._create(sandbox, template)
            if self._owed and not self._sweeps:  # the daemon is back
                tasks.spawn(self._sweeps, self._sweep(), "remove what the daemon could not")
            return worker
        except OSError as error:
            raise StartError(f"a worker could not be made: {error}") from error
        finally:
            self._creating.discard(sandbox)
            if not self._creating:
                self._settled.set()

    async def _create(self, sandbox: SandboxId, template: Template) -> Worker:
        async with contextlib.AsyncExitStack() as undo:
            slot = self._slots.take(sandbox)
            undo.callback(self._slots.free, sandbox)
            uid = self._uid_base + slot
            self._ledger.write(Record(id=sandbox, template=template.name, slot=slot, engine=self.name))
            undo.callback(self._ledger.remove, sandbox)
            path = self._places.agent_socket(sandbox)
            undo.callback(path.unlink, missing_ok=True)
            listener = undo.enter_context(channel.listen(path, kind=socket.SOCK_SEQPACKET, mode=0o600))
            making = asyncio.to_thread(self._disks.create, sandbox, template.limits, uid)
            disk = await tasks.take(undo, making, Disk.close)
            directory = self._places.hand_over(sandbox)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            door = undo.enter_context(_furnish(directory, uid))
            config = container.container_config(
                sandbox=sandbox, template=template, uid=uid, hand_over=str(directory), host=self._host
            )
            undo.push_async_callback(self._remove, sandbox)
            await self._reach().create(sandbox, config)
            pid = await self._reach().start(sandbox)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            undo.callback(processes.kill, pidfd)
            started = processes.start_time(pid)
            self._ledger.write(
                Record(id=sandbox, template=template.name, slot=slot, pid=pid, started=started, engine=self.name)
            )
            self._ready = await _hand_over(door, pid, pidfd, listener)
            worker = self._held(sandbox, template, slot=slot, pid=pid, pidfd=pidfd, disk=disk)
            undo.pop_all()
            door.close()
            listener.close()
            shutil.rmtree(directory, ignore_errors=True)
            return worker

    async def recover(self, record: Record, template: Template) -> Worker | None:
        """See Engine. What belonged to a worker that does not live is given back."""
        found = await recovered(record, self._slots, self._disks.stage, self._uid_base + record.slot)
        if found is None:
            await self._give_back(record.id)
            self._slots.free(record.id)
            return None
        pidfd, disk = found
        return self._held(record.id, template, slot=record.slot, pid=record.pid, pidfd=pidfd, disk=disk)

    def _held(
        self, sandbox: SandboxId, template: Template, *, slot: int, pid: int, pidfd: int, disk: Disk | None
    ) -> DockerWorker:
        uid = self._uid_base + slot  # there is no user namespace: inside it is the same
        return DockerWorker(
            sandbox=sandbox,
            template=template,
            slot=slot,
            uid=uid,
            inner_uid=uid,
            pid=pid,
            pidfd=pidfd,
            disk=disk,
            group=cgroups.of_process(pid),
        )

    async def destroy(self, worker: Worker) -> None:
        """See Engine. The worker ends even while the daemon is away; its empty container goes when that is back."""
        if not isinstance(worker, DockerWorker) or worker.pidfd == -1:
            return
        await worker.end()
        await self._give_back(worker.id, has_run=True)
        self._slots.free(worker.id)

    async def narrow(self, worker: Worker, limits: Limits) -> None:
        """See Engine. The daemon does it; open files are limited as the worker is bound."""
        if isinstance(worker, DockerWorker):
            worker.require_less(limits)
        await self._reach().update(worker.id, container.resources(limits, self._host))
        worker.limits = limits

    async def pause(self, worker: Worker) -> None:
        """See Engine. The daemon does it, so that whoever looks at the container sees that it is paused."""
        await self._reach().pause(worker.id)

    async def resume(self, worker: Worker) -> None:
        """See Engine."""
        await self._reach().resume(worker.id)

    async def remains(self) -> list[Remains]:
        """See Engine."""
        label = f"{container.INSTANCE}={self._places.instance}"
        found = []
        for name, labels in sorted((await self._reach().containers(label)).items()):
            worker, remove = labels.get(container.SANDBOX, ""), functools.partial(self._remove, name)
            found.append(Remains(what=f"container {name}", made_for=worker, remove=remove))
        for path in sorted((self._places.run / "h").iterdir()):
            remove = functools.partial(asyncio.to_thread, shutil.rmtree, path, ignore_errors=True)
            found.append(Remains(what=f"hand-over directory {path.name}", made_for=f"sbx_{path.name}", remove=remove))
        found += await asyncio.to_thread(remains, self._places, self._disks.stage)
        return [each for each in found if each.made_for not in self._creating]

    async def _give_back(self, sandbox: SandboxId, *, has_run: bool = False) -> None:
        await self._remove(sandbox, has_run=has_run)
        shutil.rmtree(self._places.hand_over(sandbox), ignore_errors=True)
        self._places.agent_socket(sandbox).unlink(missing_ok=True)
        self._ledger.remove(sandbox)

    async def _remove(self, name: str, *, has_run: bool = False) -> None:
        """Remove a container; what the daemon cannot do now is tried again when it is back, and by every reap.

        `has_run`: the daemon saw it start and end, so nothing of it can be left that it forgets.
        """
        try:
            if not has_run:
                await self._reach().end_start(name)
            await self._reach().remove(name)
        except (SandboxError, TimeoutError) as error:
            self._owed.add(name)
            log.warning("container %s stays for now: %s", name, str(error) or "time out")
        else:
            self._owed.discard(name)

    async def _sweep(self) -> None:
        for name in list(self._owed):
            await self._remove(name)

    def _reach(self) -> Daemon:
        if self._daemon is None:
            raise EngineUnavailableError("the engine has not started")
        return self._daemon


async def unfit(image_name: str, runtime: str = "") -> str | None:
    """Return why this engine cannot be used here, or None when a daemon answers and image and runtime fit."""
    if not socket_exists():
        return "there is no container engine's socket"
    try:
        daemon = await Daemon.probe()
    except SandboxError as error:
        return str(error)
    try:
        refusal = suitability.refusal(await daemon.info(), runtime)
        return refusal or image.misfit(image_name, await daemon.image_labels(image_name))
    except SandboxError as error:
        return str(error)
    finally:
        daemon.close()


def _furnish(directory: Path, uid: int) -> socket.socket:
    """Make a hand-over directory that only we may write; return the listener of its socket."""
    directory.mkdir(mode=0o711)
    for name, text in container.public_files(uid).items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o444)
    return channel.listen(directory / "socket", kind=socket.SOCK_SEQPACKET, mode=0o600, owner=uid)


async def _hand_over(door: socket.socket, pid: int, pidfd: int, listener: socket.socket) -> protocol.Ready:
    """Wait for the agent that is pid 1 of the container and give it `listener`; raises StartError."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_converse(door, pid, listener))
    loop.add_reader(pidfd, work.cancel)  # it ended: nobody will connect any more
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await asyncio.wait([work])
        if work.cancelled():
            raise StartError("the agent ended while its container started; the image may be damaged: build it again")
        return work.result()
    except TimeoutError as error:  # which is an OSError, too
        raise StartError(f"the agent was not ready within {_READY_TIMEOUT_S} s") from error
    except (OSError, ProtocolError) as error:
        raise StartError(f"the agent did not take its listener: {error}") from error
    finally:
        loop.remove_reader(pidfd)
        work.cancel()
        await asyncio.wait([work])


async def _converse(door: socket.socket, pid: int, listener: socket.socket) -> protocol.Ready:
    accepted, _ = await asyncio.get_running_loop().sock_accept(door)
    agent = Channel(accepted, protocol.FROM_CONTAINER)
    try:
        if agent.peer_pid() != pid:
            raise ProtocolError("the process that connected is not pid 1 of the container")
        match await agent.receive():
            case (protocol.Ready() as ready, []):
                await agent.send(protocol.Serve(), [listener.fileno()])
                return ready
            case (protocol.Failed(reason=reason), []):
                raise StartError(f"the agent could not start: {reason}")
        raise ProtocolError("the agent says something else than it should")
    finally:
        agent.close()
