"""What engines share: a worker whose pid 1 is held by a pidfd, the uids of workers, and what lies on the host for them.

No engine lives here and nothing here makes a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import disks
from jupyter_sandbox.engines import Remains, Usage
from jupyter_sandbox.errors import CapacityError, ConflictError
from jupyter_sandbox.host import processes

if TYPE_CHECKING:
    from jupyter_sandbox.cgroups import Group
    from jupyter_sandbox.disks import Disk
    from jupyter_sandbox.guards.ids import SandboxId
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.host.stage import Stage
    from jupyter_sandbox.ledger import Record
    from jupyter_sandbox.specs import Limits, Template

KILL_TIMEOUT_S: Final = 10
NO_CORE: Final = 1
"""Limit of core files, bytes. Not 0: a crash would still start the host's core handler, if that is a pipe; core(5)."""
_SLOTS: Final = 65535
_NOT_NOW: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

log = logging.getLogger(__name__)


class HeldWorker:
    """The part of a Worker that its pidfd, disk and control group tell."""

    def __init__(
        self,
        *,
        sandbox: SandboxId,
        template: Template,
        slot: int,
        uid: int,
        inner_uid: int,
        pid: int,
        pidfd: int,
        disk: Disk | None,
        group: Group | None,
    ) -> None:
        """Own `pidfd` and `disk`."""
        self.id = sandbox
        self.limits: Limits = template.limits
        self.slot = slot
        self.uid = uid
        self.inner_uid = inner_uid
        self.pid = pid
        self.pidfd = pidfd
        self.disk = disk
        self.group = group
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        self.ended.set()

    def is_current(self) -> bool:
        """See Worker. What a broker makes workers of, as an image, is the same until its end."""
        return True

    def out_of_memory_kills(self) -> int:
        """See Worker."""
        return self.group.out_of_memory_kills() if self.group else 0

    def usage(self) -> Usage:
        """See Worker."""
        used, total = self.disk.usage() if self.disk else (None, self.limits.disk_mib << 20)
        return Usage(
            cpu_s=self.group.cpu_s() if self.group else None,
            memory_bytes=self.group.memory_bytes() if self.group else None,
            memory_cache_bytes=self.group.memory_cache_bytes() if self.group else None,
            disk_bytes=used,
            disk_total_bytes=total,
        )

    def require_less(self, limits: Limits) -> None:
        """Raise ConflictError if it uses more memory than `limits` allow: control groups of version 2 would kill it."""
        used = self.usage()
        needed = (used.memory_bytes or 0) - (used.memory_cache_bytes or 0)
        if needed > limits.memory_mib << 20:
            least = -(-needed >> 20)
            raise ConflictError(f"memory_mib is {limits.memory_mib}, and a new sandbox of this template uses {least}")

    def network_namespace(self) -> int:
        """See Worker."""
        return processes.network_namespace(self.pid, self.pidfd)

    async def gone(self) -> None:
        """See Worker."""
        await self.ended.wait()

    async def end(self) -> None:
        """Kill pid 1, wait until it has ended, and let go of pidfd and disk. Call it once, while `pidfd` is open."""
        pidfd, self.pidfd = self.pidfd, -1
        processes.kill(pidfd)
        if self.group:
            with contextlib.suppress(OSError):
                self.group.thaw()  # or a frozen process never learns that it was killed
        asyncio.get_running_loop().remove_reader(pidfd)
        if not await processes.ended(pidfd, KILL_TIMEOUT_S):
            log.error("worker %s did not end within %d s of SIGKILL", self.id, KILL_TIMEOUT_S)
        self.ended.set()
        os.close(pidfd)
        disk, self.disk = self.disk, None
        if disk:  # in a thread: this is when the disk is unmounted and its loop device given back
            await asyncio.to_thread(disk.close)


async def recovered(record: Record, slots: Slots, stage: Stage, uid: int | None) -> tuple[int, Disk | None] | None:
    """Return pidfd and disk of a worker that outlived its broker, or None when it does not live; see `open_recorded`.

    Raises OSError when the machine does not let us look now. `uid` as in `Disk`.
    """
    pidfd = open_recorded(record, slots)
    if pidfd is None:
        return None
    try:
        return pidfd, await _recovered_disk(stage, record, pidfd, uid)
    except BaseException:
        os.close(pidfd)
        raise


async def _recovered_disk(stage: Stage, record: Record, pidfd: int, uid: int | None) -> Disk | None:
    """Return the disk of a claimed worker, or None."""
    if record.owner is None:
        return None
    try:
        return await asyncio.to_thread(disks.recovered, pidfd, uid, stage)
    except OSError as error:
        if error.errno in _NOT_NOW:
            raise
        log.warning("the disk of %s can be reached from inside only: %s", record.id, error)
        return None


class Slots:
    """Offsets in the range of host uids that no two living workers share.

    The host is asked, too, as which uids processes run: a dead broker may have left a worker whose record, which tells
    its slot, cannot be read just now. One that was never claimed need not run as its own, but is nobody's either.
    """

    def __init__(self, uid_base: int | None = None) -> None:
        """`uid_base`: first host uid of the range; None if all workers have the same, and nothing tells by them."""
        self._uid_base = uid_base
        self.taken: dict[SandboxId, int] = {}

    def take(self, sandbox: SandboxId) -> int:
        """Return a free one for a new worker; raises CapacityError."""
        taken = {*self.taken.values()}
        slot = next((slot for slot in range(1, _SLOTS) if slot not in taken and not self._is_in_use(slot)), None)
        if slot is None:
            raise CapacityError("no free uid for another worker", retry_after_s=5)
        self.taken[sandbox] = slot
        return slot

    def _is_in_use(self, slot: int) -> bool:
        return self._uid_base is not None and processes.run_as(self._uid_base + slot)

    def keep(self, sandbox: SandboxId, slot: int) -> None:
        """Mark the slot of a worker that a dead broker left as taken."""
        self.taken[sandbox] = slot

    def free(self, sandbox: SandboxId) -> None:
        """Give back the one of a worker; quiet when it has none."""
        self.taken.pop(sandbox, None)


def open_recorded(record: Record, slots: Slots) -> int | None:
    """Return a pidfd of the worker that a dead broker recorded, or None when it does not live; keep its slot if it may.

    Raises OSError when the machine does not let us look now.
    """
    try:
        pidfd = processes.open_living(record.pid, record.started) if record.pid else None
    except OSError:
        slots.keep(record.id, record.slot)
        raise
    if pidfd is not None:
        slots.keep(record.id, record.slot)
    return pidfd


def remains(places: Places, stage: Stage) -> list[Remains]:
    """Return what is on the host for workers of any engine. Blocking: call it in a thread."""
    found = [
        Remains(what=f"mount {target}", made_for=target, remove=functools.partial(asyncio.to_thread, stage.clear))
        for target in stage.left()
    ]
    for device, image in sorted(disks.loops(places.images).items()):
        remove = functools.partial(asyncio.to_thread, disks.detach, device, image)
        what = f"loop device {device} of {image}"
        found.append(Remains(what=what, made_for=_worker(image), remove=remove, is_freed_later=True))
    for path in sorted((places.run / "a").iterdir()):
        remove_socket = functools.partial(path.unlink, missing_ok=True)
        found.append(Remains(what=f"agent socket {path.name}", made_for=f"sbx_{path.name}", remove=remove_socket))
    for path in sorted(places.images.glob("*.img")):
        remove_image = functools.partial(path.unlink, missing_ok=True)
        found.append(Remains(what=f"disk image {path.name}", made_for=_worker(path.name), remove=remove_image))
    return found


def _worker(image: str) -> str:
    return image.removesuffix(".img")
