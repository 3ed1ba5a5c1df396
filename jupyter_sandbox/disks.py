"""The virtual disk of a worker, whose size is the quota.

With root: an ext4 image, every block of it reserved on the host, on a loop device. Without: a tmpfs of fixed size.
Either is mounted by descriptor, at no path that the host sees; the image's name is removed as soon as the loop device
holds it. So whoever dies, and however, leaves no mount, loop device or file: the kernel frees them with the last
descriptor and the last process of the worker.

Linux before 6.15 clones no mount that lies nowhere. So a new disk is attached for a moment, in the mount namespace of
the caller, and cloned there once for each use that will come.

Layout of a disk: `home` shows as /sandbox and as /home/user; `upper` and `work` belong to the workspace overlay and
are not visible there. Sources: loop(4), LOOP_CONFIGURE in linux/loop.h, ext4(5), mke2fs(8), tmpfs(5), open_tree(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from jupyter_sandbox.errors import DiskSpaceError, StartError
from jupyter_sandbox.guards.paths import HOME, HOMES
from jupyter_sandbox.host import elsewhere, ext4, idmaps, readings
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.host.stage import Stage
    from jupyter_sandbox.specs import Limits

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CLR_FD: Final = 0x4C01
_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_FILE_NAME: Final = slice(56, 120)
_LO_FLAGS_AUTOCLEAR: Final = 4
_LO_FLAGS_DIRECT_IO: Final = 16
_ATTEMPTS: Final = 64
_MAX_VIEWS: Final = 4
_PARTS: Final = ("home", "upper", "work")
_WORKER_ATTRIBUTES: Final = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_HOST_ATTRIBUTES: Final = _WORKER_ATTRIBUTES | linux.MOUNT_ATTR_NOEXEC | linux.MOUNT_ATTR_NOSYMFOLLOW


@dataclass(eq=False, kw_only=True)
class Disk:
    """One disk, held by descriptors of detached mounts of it. A mount can be attached once.

    `uid` is the host uid that owns its files; None when that is the one user whom the broker serves. `home_mounts`, one
    for each of HOMES, and `layers_mount` are for the worker; a disk that was recovered has none, since its worker has
    them.
    """

    uid: int | None
    stage: Stage
    view_mount: int
    home_mounts: dict[str, int] = field(default_factory=dict)
    layers_mount: int | None = None
    _views: dict[tuple[int, int], int] = field(default_factory=dict)
    """Mounts of the same files for host users and groups."""
    _is_closed: bool = False
    _keeping: threading.Lock = field(default_factory=threading.Lock)
    """For `_views` and `_is_closed`; nobody holds it for long."""
    _cloning: threading.Lock = field(default_factory=threading.Lock)

    def home(self, target: str) -> int:
        """Return a new descriptor of the mount that the worker sees at `target`, one of HOMES."""
        return _another(self.home_mounts.get(target))

    def layers(self) -> int:
        """Return a new descriptor of the mount that holds an overlay's `upper` and `work`."""
        return _another(self.layers_mount)

    def view(self, uid: int, gid: int) -> int | None:
        """Return a directory descriptor of the same files for a host user, or None before `keep_view`.

        No symlink is followed through it, and that user and whoever lives in the sandbox are one person there: what one
        writes the other owns.
        """
        with self._keeping:
            mount = self._views.get((uid, gid))
            if mount is None:
                return None
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)

    def make_view(self, uid: int, gid: int) -> int:
        """Return a mount for `keep_view`. Blocking: call it in a thread. Raises OSError."""
        mount = self._clone_view()
        try:
            if self.uid is None:
                linux.set_mount_attributes(mount, _HOST_ATTRIBUTES)
            else:
                namespace = idmaps.user_namespace(f"{self.uid} {uid} 1", f"{self.uid} {gid} 1")
                try:
                    attributes = _HOST_ATTRIBUTES | linux.MOUNT_ATTR_IDMAP
                    linux.set_mount_attributes(mount, attributes, user_namespace=namespace)
                finally:
                    os.close(namespace)
        except BaseException:
            os.close(mount)
            raise
        return mount

    def _clone_view(self) -> int:
        """Return a clone of `view_mount`, and put another in its place: it has been attached now."""
        with self._cloning:
            if self._is_closed:
                raise OSError(errno.EBADF, "the disk is gone")
            with contextlib.ExitStack() as undo, self.stage.attached(view=self.view_mount):
                mount = linux.clone_mount(self.view_mount)
                undo.callback(os.close, mount)
                spare = linux.clone_mount(self.view_mount)
                undo.pop_all()
            os.dup2(spare, self.view_mount, inheritable=False)
            os.close(spare)
            return mount

    def keep_view(self, uid: int, gid: int, mount: int) -> None:
        """Take over what `make_view` made; raises StartError when the disk was closed meanwhile."""
        with self._keeping:
            if self._is_closed:
                os.close(mount)
                raise StartError("the disk is gone")
            kept = self._views.pop((uid, gid), None) if len(self._views) < _MAX_VIEWS else self._views.popitem()[1]
            if kept is not None:
                os.close(kept)
            self._views[uid, gid] = mount

    def usage(self) -> tuple[int, int]:
        """Return used and total bytes."""
        status = os.fstatvfs(self.view_mount)
        return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_blocks * status.f_frsize

    def close(self) -> None:
        """Let go; the disk ends when the worker does. Blocking: call it in a thread."""
        with self._cloning, self._keeping:
            self._is_closed = True
            for mount in (self.view_mount, *self.home_mounts.values(), self.layers_mount, *self._views.values()):
                if mount is not None:
                    os.close(mount)
            self._views.clear()


def _another(mount: int | None) -> int:
    if mount is None:
        raise OSError(errno.EBADF, "the worker has its disk already")
    return os.dup(mount)


def recovered(pidfd: int, uid: int | None, stage: Stage) -> Disk:
    """Return the disk of a worker that outlived its broker, where the worker, which `pidfd` holds, sees it.

    Blocking. Raises OSError when there is none, or it is not the worker's.
    """
    mount = elsewhere.clone(pidfd, HOME)
    try:
        owner = os.stat(".", dir_fd=mount).st_uid
        if uid not in (None, owner):
            raise OSError(errno.EPERM, f"what lies at {HOME} belongs to {owner}")
    except BaseException:
        os.close(mount)
        raise
    return Disk(uid=uid, stage=stage, view_mount=mount)


class Disks(Protocol):
    """Makes disks. Blocking: call it in a thread."""

    kind: str
    stage: Stage

    def create(self, name: str, limits: Limits, uid: int) -> Disk:
        """Make an empty disk whose files belong to host uid `uid`; raises DiskSpaceError or StartError."""


class LoopDisks:
    """Disks as ext4 images. Needs root."""

    kind = "ext4 image on a loop device, all blocks reserved"

    def __init__(self, directory: Path, reserve_mib: int, stage: Stage, *, percent: int = 100) -> None:
        """Make images in `directory` as long as its file system keeps `reserve_mib` free, and no more is in use."""
        self._directory = directory
        self._reserve_mib, self._percent = reserve_mib, percent
        self._promised_mib = 0
        """What was admitted and is not taken yet."""
        self._admitting = threading.Lock()
        self.stage = stage

    def create(self, name: str, limits: Limits, uid: int) -> Disk:
        """See Disks."""
        image = self._directory / f"{name}.img"
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(image.unlink, missing_ok=True)
                with self._admitted(limits.disk_mib):
                    _reserve(image, limits.disk_mib)
                loop = _attach(image)
                undo.callback(os.close, loop[0])
                ext4.write_blank(loop[0], limits.disk_mib, limits.disk_inodes)
                mount = linux.new_filesystem("ext4", {"source": loop[1], **ext4.MOUNT_OPTIONS}, _WORKER_ATTRIBUTES)
                undo.callback(os.close, mount)
                os.chown(".", uid, uid, dir_fd=mount)
                return _furnished(mount, uid, self.stage, owner=uid)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskSpaceError(
                    f"no room for a disk of {limits.disk_mib} MiB on the host; release sandboxes or free disk space",
                    retry_after_s=5,
                ) from error
            raise StartError(f"the virtual disk could not be made: {error}") from error

    @contextlib.contextmanager
    def _admitted(self, size_mib: int) -> Iterator[None]:
        """Let an image be written within this. Raises OSError ENOSPC; what others were admitted to counts, too."""
        with self._admitting:
            space = readings.disk(self._directory)
            wanted_mib = size_mib + self._promised_mib
            if not space.holds(wanted_mib, percent=self._percent, reserve_mib=self._reserve_mib):
                raise OSError(errno.ENOSPC, f"{space.free_mib} MiB free, {wanted_mib} MiB and the reserve needed")
            self._promised_mib += size_mib
        try:
            yield
        finally:
            with self._admitting:
                self._promised_mib -= size_mib


def _reserve(image: Path, size_mib: int) -> None:
    """Take every block of a new image."""
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_mib << 20)
    finally:
        os.close(descriptor)


class MemoryDisks:
    """Disks in memory, for brokers without root. Their pages count against the memory of the host."""

    kind = "tmpfs of fixed size"

    def __init__(self, stage: Stage) -> None:
        """Furnish new disks on `stage`."""
        self.stage = stage

    def create(self, name: str, limits: Limits, uid: int) -> Disk:
        """See Disks."""
        options: dict[str, str | None] = {"size": f"{limits.disk_mib}m", "nr_inodes": str(limits.disk_inodes)}
        try:
            mount = linux.new_filesystem("tmpfs", {"source": name, "mode": "755", **options}, _WORKER_ATTRIBUTES)
            try:
                return _furnished(mount, uid, self.stage, owner=None)
            finally:
                os.close(mount)
        except OSError as error:
            raise StartError(f"the virtual disk could not be made: {error}") from error


def _furnished(mount: int, uid: int, stage: Stage, *, owner: int | None) -> Disk:
    """Return the disk on the new file system `mount`, whose parts belong to host uid `uid`. Uses `mount` up."""
    for part in _PARTS:
        os.mkdir(part, 0o755, dir_fd=mount)
        os.chown(part, uid, uid, dir_fd=mount)
    with contextlib.ExitStack() as undo, stage.attached(new=mount):
        clones = []
        for part in ("", "home", *["home"] * len(HOMES)):
            clones.append(linux.clone_mount(mount, part))
            undo.callback(os.close, clones[-1])
        layers, view, *homes = clones
        undo.pop_all()
    home_mounts = dict(zip(HOMES, homes, strict=True))
    return Disk(uid=owner, stage=stage, view_mount=view, home_mounts=home_mounts, layers_mount=layers)


def _attach(image: Path) -> tuple[int, str]:
    """Attach `image` to a free loop device; return the device's descriptor and path.

    The device detaches by itself with its last user. Raises OSError ENODEV when no device can be had.
    """
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):  # somebody else may take the device between the two calls
                path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(device, _LOOP_CONFIGURE, _loop_config(backing, image.name))
                except OSError as error:
                    os.close(device)
                    if error.errno != errno.EBUSY:
                        raise
                else:
                    return device, path
        finally:
            os.close(control)
    finally:
        os.close(backing)
    raise OSError(errno.ENODEV, "no free loop device")


def loops(directory: Path) -> dict[str, str]:
    """Return the loop devices that hold images of `directory`, each with the name of its image."""
    found = {}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it was detached meanwhile
            image = Path(backing.read_text().strip().removesuffix(" (deleted)"))
            if image.parent == directory:
                found[f"/dev/{backing.parts[3]}"] = image.name
    return found


def detach(device: str, image: str) -> None:
    """Detach a loop device if it holds `image`, at the latest when its last user ends. Raises OSError."""
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        information = bytearray(232)
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, information)
        if information[_LOOP_FILE_NAME].rstrip(b"\0") == image.encode()[:63]:  # else it is another's by now
            fcntl.ioctl(descriptor, _LOOP_CLR_FD)
    finally:
        os.close(descriptor)


def _loop_config(backing: int, name: str) -> bytes:
    flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
    info = struct.pack("<5Q4I64s64s32s2Q", *[0] * 5, 0, 0, 0, flags, name.encode()[:63], b"", b"", 0, 0)
    return struct.pack("<II", backing, ext4.BLOCK) + info + bytes(64)
