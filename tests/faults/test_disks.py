"""Disks that cannot be made: the error says why, and no image, loop device, mount or descriptor stays."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import gc
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tornado.web import HTTPError

from jupyter_sandbox import disks
from jupyter_sandbox.disks import LoopDisks, MemoryDisks
from jupyter_sandbox.errors import DiskSpaceError, StartError
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.host import ext4, idmaps
from jupyter_sandbox.host.stage import Stage
from jupyter_sandbox.specs import Limits, Workspace, WorkspaceMode
from jupyter_sandbox.workspace import Mounter
from sandbox_worker import linux
from tests.conftest import eventually, run_as, wait_until

from .conftest import claim, running_kernel, status, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(180)]

SMALL = Limits(disk_mib=16, disk_inodes=1024)
UID = 0x71FF0000


def loops(directory: Path) -> list[str]:
    """Return the loop devices that have a file of `directory`."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().startswith(str(directory)):
                found.append(backing.parts[3])
        except OSError:
            continue
    return found


def flushes_and_writes(device: str) -> tuple[int, int]:
    """Return how many of each a block device has done: Documentation/block/stat.rst of the kernel."""
    counts = Path(f"/sys/block/{device}/stat").read_text().split()
    return int(counts[15]), int(counts[4])


@pytest.fixture
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("stage"))


def mounts_below(directory: Path) -> list[str]:
    """Return the mounts that have something to do with a directory."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{directory}/" in line]


@pytest.fixture
def clean(tmp_path, tmp_path_factory):
    """Fail when something of `tmp_path` or of a stage is left on the machine."""
    gc.collect()  # or what tests before this one left is closed meanwhile, and counts
    before = len(os.listdir("/proc/self/fd"))
    mounts = mounts_below(tmp_path_factory.getbasetemp())
    yield tmp_path
    assert sorted(tmp_path.glob("*.img")) == []
    wait_until(lambda: loops(tmp_path) == [])  # the last reference to a detached mount is dropped by a kernel worker
    assert len(os.listdir("/proc/self/fd")) == before
    assert mounts_below(tmp_path_factory.getbasetemp()) == mounts


def test_a_disk_has_its_size_and_leaves_nothing(clean, stage):
    disk = LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    used, total = disk.usage()
    assert 12 << 20 < total <= 16 << 20
    assert used < 1 << 20
    assert loops(clean)
    assert sorted(clean.iterdir()) == [], "the image's name is gone while the disk is in use"
    disk.close()


@pytest.mark.parametrize(("size_mib", "inodes"), [(1, 16), (16, 1024), (1024, 65_536), (20_000, 1 << 20)])
def test_the_copy_of_a_blank_is_a_whole_file_system(tmp_path, size_mib, inodes):
    image = tmp_path / "copy.img"
    with image.open("wb") as file:
        os.ftruncate(file.fileno(), size_mib << 20)
        ext4.write_blank(file.fileno(), size_mib, inodes)
    done = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_disks_of_one_shape_are_each_empty(clean, stage):
    both = [LoopDisks(clean, 0, stage).create(name, SMALL, UID) for name in ("one", "two")]
    homes = [disk.home(HOME) for disk in both]
    os.close(os.open("mine", os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=homes[0]))
    assert [os.path.exists(f"/proc/self/fd/{home}/mine") for home in homes] == [True, False]
    for home, disk in zip(homes, both, strict=True):
        os.close(home)
        disk.close()


def test_fsync_on_a_disk_flushes_nothing_of_the_hosts(clean, stage):
    """Each flush makes the host's file system commit, for which every user of it waits; and no disk outlives the host."""
    disk = LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    (device,) = loops(clean)
    inside = disk.home(HOME)
    file = os.open("file", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=inside)
    before = flushes_and_writes(device)
    for _ in range(20):
        os.write(file, b"x" * 4096)
        os.fsync(file)
    after = flushes_and_writes(device)
    os.close(file)
    os.close(inside)
    disk.close()
    assert after[0] == before[0]
    assert after[1] >= before[1] + 20, "what is written is written, all the same"


def test_a_host_user_owns_in_its_view_what_the_worker_owns_and_the_other_way_round(clean, stage):
    disk = LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    assert disk.view(1234, 1235) is None
    disk.keep_view(1234, 1235, disk.make_view(1234, 1235))
    inside, view = disk.home(HOME), disk.view(1234, 1235)
    theirs = os.open("theirs", os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=inside)
    os.fchown(theirs, UID, UID)
    os.close(theirs)
    code = f"import os; os.close(os.open('theirs', os.O_RDWR, dir_fd={view})); os.mkdir('ours', dir_fd={view})"
    done = run_as(1234, sys.executable, "-c", code, gid=1235, pass_fds=[view])
    assert done.returncode == 0, done.stderr
    for name in (".", "ours", "theirs"):
        seen, real = os.stat(name, dir_fd=view), os.stat(name, dir_fd=inside)
        assert (seen.st_uid, seen.st_gid, real.st_uid, real.st_gid) == (1234, 1235, UID, UID)
    done = run_as(4321, sys.executable, "-c", code, pass_fds=[view])
    assert "PermissionError" in done.stderr, "it is nobody else's"
    os.close(inside)
    os.close(view)
    disk.close()


def test_a_disk_keeps_few_views_and_none_after_its_end(clean, stage):
    disk = LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    before = len(os.listdir("/proc/self/fd"))
    for uid in (1, 2, 3, 4, 5, 6, 6):
        disk.keep_view(uid, uid, disk.make_view(uid, uid))
    assert len(os.listdir("/proc/self/fd")) == before + 4
    view = disk.view(6, 6)
    assert os.fstat(view).st_uid == 6
    os.close(view)
    late = disk.make_view(1, 1)
    disk.close()
    with pytest.raises(StartError, match="gone"):
        disk.keep_view(1, 1, late)
    with pytest.raises(OSError, match="gone"):
        disk.make_view(1, 1)


def test_a_host_below_its_reserve_makes_no_disk(clean, stage):
    with pytest.raises(DiskSpaceError, match="no room for a disk of 16 MiB") as caught:
        LoopDisks(clean, 1 << 40, stage).create("one", SMALL, UID)
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("no_disk_space", 503, 5)
    assert str(clean) not in str(caught.value)


@pytest.fixture
def full_directory(tmp_path):
    """A directory on a file system of 8 MiB."""
    directory = tmp_path / "full"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_directory_makes_no_disk(full_directory, stage):
    with pytest.raises(DiskSpaceError):
        LoopDisks(full_directory, 0, stage).create("one", SMALL, UID)
    assert list(full_directory.iterdir()) == []


def test_a_directory_that_fills_up_after_the_admission_makes_no_disk(full_directory, monkeypatch, stage):
    monkeypatch.setattr(LoopDisks, "_admitted", lambda *_: contextlib.nullcontext())
    with pytest.raises(DiskSpaceError):
        LoopDisks(full_directory, 0, stage).create("one", SMALL, UID)
    assert list(full_directory.iterdir()) == []


def test_an_absent_directory_is_told(tmp_path, stage):
    with pytest.raises(StartError, match="could not be made"):
        LoopDisks(tmp_path / "absent", 0, stage).create("one", SMALL, UID)


def test_without_mkfs_the_package_to_install_is_named(clean, monkeypatch, stage):
    monkeypatch.setenv("PATH", str(clean))
    ext4.blank.cache_clear()
    with pytest.raises(StartError, match=r"mkfs\.ext4 is not installed.*e2fsprogs"):
        LoopDisks(clean, 0, stage).create("one", SMALL, UID)


def test_what_mkfs_says_is_told(clean, stage):
    with pytest.raises(StartError, match=r"mkfs\.ext4: "):
        LoopDisks(clean, 0, stage).create("one", Limits(disk_mib=1, disk_inodes=1 << 31), UID)


def _refuse(monkeypatch, request: int, number: int) -> None:
    original = fcntl.ioctl

    def ioctl(descriptor, called, *rest):
        if called == request:
            raise OSError(number, os.strerror(number))
        return original(descriptor, called, *rest)

    monkeypatch.setattr(disks.fcntl, "ioctl", ioctl)


@pytest.mark.parametrize(
    ("request_number", "number"),
    [
        (disks._LOOP_CTL_GET_FREE, errno.ENODEV),
        (disks._LOOP_CTL_GET_FREE, errno.EPERM),
        (disks._LOOP_CONFIGURE, errno.EBUSY),
        (disks._LOOP_CONFIGURE, errno.EINVAL),
    ],
    ids=["no device free", "may not", "always taken by others", "refused"],
)
def test_without_a_loop_device_there_is_no_disk(clean, monkeypatch, request_number, number, stage):
    _refuse(monkeypatch, request_number, number)
    with pytest.raises(StartError, match="could not be made"):
        LoopDisks(clean, 0, stage).create("one", SMALL, UID)


def test_a_device_taken_by_another_is_passed_over(clean, monkeypatch, stage):
    original, refusals = fcntl.ioctl, [errno.EBUSY] * 3

    def ioctl(descriptor, called, *rest):
        if called == disks._LOOP_CONFIGURE and refusals:
            raise OSError(refusals.pop(), "busy")
        return original(descriptor, called, *rest)

    monkeypatch.setattr(disks.fcntl, "ioctl", ioctl)
    LoopDisks(clean, 0, stage).create("one", SMALL, UID).close()
    assert refusals == []


MASKED = """
import sys
from pathlib import Path
from jupyter_sandbox.disks import LoopDisks
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.host.stage import Stage
from jupyter_sandbox.specs import Limits
try:
    LoopDisks(Path(sys.argv[1]), 0, Stage(Path(sys.argv[1]))).create("one", Limits(disk_mib=16, disk_inodes=1024), 0)
except StartError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "mask",
    ["mount --bind /dev/null /dev/loop-control", "mount -t tmpfs none /dev && touch /dev/null"],
    ids=["null", "gone"],
)
def test_a_container_without_loop_control_is_told(clean, mask):
    script = f'{mask} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-P", "-c", MASKED, str(clean)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the virtual disk could not be made" in done.stdout


def test_a_mount_that_is_refused_frees_the_loop_device(clean, monkeypatch, stage):
    def refuse(*_):
        raise OSError(errno.EINVAL, "create ext4: bad superblock")

    monkeypatch.setattr(linux, "new_filesystem", refuse)
    with pytest.raises(StartError, match="bad superblock"):
        LoopDisks(clean, 0, stage).create("one", SMALL, UID)


def test_a_disk_that_cannot_be_furnished_is_unmounted(clean, monkeypatch, stage):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disks.os, "chown", refuse)
    with pytest.raises(StartError, match="Input/output error"):
        LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    with pytest.raises(StartError, match="Input/output error"):
        MemoryDisks(stage).create("one", SMALL, UID)


def test_a_disk_that_cannot_be_cloned_for_a_use_is_unmounted(clean, stage, monkeypatch):
    clone, clones = linux.clone_mount, []

    def refuse_the_third(directory_fd, path=""):
        clones.append(path)
        if len(clones) % 3 == 0:
            raise OSError(errno.EINVAL, "open_tree: Invalid argument")
        return clone(directory_fd, path)

    monkeypatch.setattr(linux, "clone_mount", refuse_the_third)
    for kind in (LoopDisks(clean, 0, stage), MemoryDisks(stage)):
        with pytest.raises(StartError, match="open_tree"):
            kind.create("one", SMALL, UID)
    assert len(clones) == 6


def _clone_as_old_linux_does(directory_fd, path="", *, clone=linux.clone_mount):
    """Before 6.15 only a mount of the caller's own mount namespace can be cloned."""
    information = Path(f"/proc/self/fdinfo/{directory_fd}").read_text()
    mount_id = re.search(r"mnt_id:\s*(\d+)", information)[1]
    if not re.search(rf"(?m)^{mount_id} ", Path("/proc/self/mountinfo").read_text()):
        raise OSError(errno.EINVAL, "open_tree: Invalid argument")
    return clone(directory_fd, path)


def test_a_disk_and_its_overlay_need_no_clone_of_a_mount_that_lies_nowhere(clean, stage, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(linux, "clone_mount", _clone_as_old_linux_does)
    MemoryDisks(stage).create("one", SMALL, UID).close()
    disk = LoopDisks(clean, 0, stage).create("one", SMALL, UID)
    with pytest.raises(OSError, match="open_tree"):
        linux.clone_mount(disk.home_mounts[HOME])
    for user in (1, 2):
        disk.keep_view(user, user, disk.make_view(user, user))
    notebooks = tmp_path_factory.mktemp("notebooks")
    (notebooks / "data.csv").write_text("1,2\n")
    layers, directory = disk.layers(), os.open(notebooks, os.O_RDONLY)
    wanted = Workspace(mode=WorkspaceMode.OVERLAY, name="notebooks")
    mounter = Mounter(stage, homes=None)
    overlay = mounter.mount(wanted, directory, layers, owner=os.getuid(), uid=UID)
    read = os.open("data.csv", os.O_RDONLY, dir_fd=overlay)
    assert os.read(read, 10) == b"1,2\n"
    for descriptor in (read, overlay, layers, directory, *mounter._namespaces.values()):  # those are kept for the next
        os.close(descriptor)
    disk.close()


def test_a_disk_in_memory_has_its_size(clean, stage):
    disk = MemoryDisks(stage).create("one", SMALL, UID)
    assert disk.usage() == (0, 16 << 20)
    disk.close()


async def test_a_full_host_is_told_to_every_kind_of_client(tree, tmp_path):
    tree.configure(disk_reserve_mib=1 << 40)
    tree.start()
    with pytest.raises(DiskSpaceError) as caught:
        await claim()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)
    with pytest.raises(HTTPError, match="no room for a disk") as told:
        async with running_kernel(tmp_path):
            pass
    assert told.value.status_code == 503
    assert "no_disk_space" in told.value.reason
    now = await status()
    assert (now.claimed, now.warm) == (0, 0)
    await eventually(lambda: tree.records() == {})  # the pool tries, too, and writes before it does
    assert tree.agents() == []


async def test_a_host_that_is_full_for_a_while_recovers(tree):
    ballast = tree.directory / "ballast"
    free = os.statvfs(tree.directory)
    # one disk takes 1 GiB; what other programs write or delete meanwhile, up to 3 GB, changes nothing
    tree.configure(disk_reserve_mib=(free.f_bavail * free.f_frsize >> 20) - 4000)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 6000 << 20)
    tree.start()
    with pytest.raises(DiskSpaceError):
        await claim()
    ballast.unlink()
    await until(_warm, 60)
    (await claim()).close()


async def _warm() -> bool:
    return (await status()).warm == 1


@pytest.mark.timeout(30, method="thread")
def test_maps_for_views_that_are_made_at_once_do_not_wait_for_each_other():
    """Each child inherits the others' pipes; those who wait for a pipe to close would wait in a circle."""

    def make(number: int) -> None:
        os.close(idmaps.user_namespace(f"{UID + number} {UID} 1", f"{UID + number} {UID} 1"))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(make, number) for number in range(200)]:
            done.result()


KILLED = """
import os, signal
from jupyter_sandbox.host import idmaps
idmaps.linux.write_id_maps = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
idmaps.user_namespace("0 0 1", "0 0 1")
"""


def test_who_holds_a_namespace_ends_with_its_broker_and_holds_nothing_for_the_next():
    """Its child has copies of all descriptors: here of standard output, in a broker of the lock."""
    ended = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, timeout=60)
    assert ended.returncode == -signal.SIGKILL
