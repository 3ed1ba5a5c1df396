"""EmbeddedEngine.create, each step made to fail in turn: whatever was taken before is given back."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from jupyter_sandbox import cgroups, disks, ledger
from jupyter_sandbox.broker import reaper
from jupyter_sandbox.disks import LoopDisks
from jupyter_sandbox.engines import embedded, held, zygotes
from jupyter_sandbox.engines.embedded import EmbeddedEngine
from jupyter_sandbox.engines.zygotes import Fresh, Zygote
from jupyter_sandbox.errors import CapacityError, DiskSpaceError, IsolationUnavailableError, SandboxError, StartError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import channel, ext4, places
from jupyter_sandbox.host.places import Places
from jupyter_sandbox.host.stage import Stage
from jupyter_sandbox.ledger import Ledger, Record
from jupyter_sandbox.specs import Limits, Template
from sandbox_worker import linux
from tests.conftest import eventually

from .conftest import _UID_BASES, ORPHAN_TIMEOUT_S, Tree
from .test_disks import loops

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(120)]

TEMPLATE = Template(name="python", limits=Limits(disk_mib=16, disk_inodes=1024))
UID_BASE = next(_UID_BASES)


class Bench:
    """An engine with a real ledger, real disks, real groups and a fork that makes a real process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places = Places(run=directory / "run", images=directory / "images", socket=directory / "run/broker")
        places.make(self.places)
        self.ledger = Ledger(self.places.ledger)
        self.hierarchy = cgroups.find(f"test-{os.getpid()}")
        self.engine = EmbeddedEngine(
            places=self.places,
            ledger=self.ledger,
            disks=LoopDisks(self.places.images, 0, Stage(self.places.stage)),
            hierarchy=self.hierarchy,
            uid_base=UID_BASE,
            default=TEMPLATE,
        )
        self.engine._fork = self.fork
        self.children: list[subprocess.Popen[bytes]] = []
        self.before = self.descriptors()

    async def fork(self, _sandbox, _template, _listener) -> Fresh:
        child = subprocess.Popen(["sleep", "1000"])
        self.children.append(child)
        return Fresh(pid=child.pid, pidfd=os.pidfd_open(child.pid), packages=())

    async def create(self):
        return await self.engine.create(ids.new_sandbox_id(), TEMPLATE)

    @staticmethod
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def left(self) -> list[str]:
        found = [str(path) for pattern in ("ledger/*", "a/*", "k/*") for path in self.places.run.glob(pattern)]
        found += [str(path) for path in self.places.images.iterdir()]
        found += loops(self.directory)
        found += [f"group {name}" for name in (self.hierarchy.names() if self.hierarchy else ())]
        found += [f"slot {slot}" for slot in self.engine._slots.taken]
        found += [f"process {child.pid}" for child in self.children if child.poll() is None]
        found += ["descriptors"] * max(0, self.descriptors() - self.before)
        return found

    async def reap(self, known, *, dry_run: bool) -> list[str]:
        """Reap as a broker does that has these workers."""
        left = reaper.strays(await self.engine.remains(), known)
        if not dry_run:
            await reaper.destroy(left)
        return [each.what for each in left if not each.is_freed_later]

    async def assert_nothing_left(self) -> None:
        try:
            await eventually(lambda: not self.left(), 5)
        except AssertionError:
            assert self.left() == []

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        if self.hierarchy:
            for name in self.hierarchy.names():
                self.hierarchy.group(name).remove()
            self.hierarchy.remove_parents()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


async def test_a_worker_that_is_made_and_destroyed_leaves_nothing(bench):
    worker = await bench.create()
    assert bench.left()
    await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


async def test_destroy_twice_is_quiet(bench):
    worker = await bench.create()
    await bench.engine.destroy(worker)
    await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


def _failing(error: BaseException, *, after: int = 0):
    """Return a function that works `after` times by doing nothing, then raises."""
    calls = []

    def fail(*_args, **_kwargs):
        calls.append(1)
        if len(calls) > after:
            raise error

    return fail


FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")
STEPS = {
    "record": lambda bench, patch: patch(bench.ledger, "write", _failing(FULL)),
    "listener": lambda _, patch: patch(channel, "listen", _failing(BROKEN)),
    "admission": lambda _, patch: patch(LoopDisks, "_admitted", _failing(FULL)),
    "image": lambda _, patch: patch(disks.os, "posix_fallocate", _failing(FULL)),
    "mkfs": lambda _, patch: patch(ext4, "blank", _failing(StartError("mkfs.ext4: no"))),
    "attach": lambda _, patch: patch(disks, "_attach", _failing(BROKEN)),
    "mount": lambda _, patch: patch(linux, "new_filesystem", _failing(BROKEN)),
    "furnish": lambda _, patch: patch(disks.os, "mkdir", _failing(FULL)),
    "group": lambda _, patch: patch(cgroups.Hierarchy, "create", _failing(BROKEN)),
    "group limit": lambda _, patch: patch(cgroups, "_settings", lambda *_: [("pids.max", "many")]),
    "fork": lambda bench, patch: patch(bench.engine, "_fork", _failing(StartError("the zygote is gone"))),
    "second record": lambda bench, patch: patch(bench.ledger, "write", _after_first(bench.ledger.write)),
    "group member": lambda _, patch: patch(cgroups.Group, "add", _failing(OSError(errno.ESRCH, "No such process"))),
    "worker": lambda _, patch: patch(embedded, "EmbeddedWorker", _failing(BROKEN)),
}


def _after_first(write):
    calls = []

    def fail(record: Record) -> None:
        calls.append(record)
        if len(calls) > 1:
            raise FULL
        write(record)

    return fail


async def test_a_worker_that_cannot_be_recorded_is_refused_for_want_of_room(bench, monkeypatch):
    """As whoever claims one that is warm: once it was a failed start."""
    monkeypatch.setattr(ledger, "open", _failing(FULL), raising=False)
    with pytest.raises(DiskSpaceError, match="free space"):
        await bench.create()
    monkeypatch.undo()
    await bench.assert_nothing_left()


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_leaves_nothing(bench, monkeypatch, step):
    STEPS[step](bench, monkeypatch.setattr)
    with pytest.raises((SandboxError, OSError)):
        await bench.create()
    monkeypatch.undo()
    await bench.assert_nothing_left()
    await bench.engine.destroy(await bench.create())
    await bench.assert_nothing_left()


@pytest.mark.parametrize("step", ["listener", "record", "group", "second record", "group member"])
async def test_a_step_that_fails_is_an_error_of_ours(bench, monkeypatch, step):
    # once: OSError leaves the engine; claims answer internal_error, and in the pool's loop it ends the broker
    STEPS[step](bench, monkeypatch.setattr)
    with pytest.raises(SandboxError):
        await bench.create()


@pytest.mark.parametrize("step", ["disk", "group", "fork"])
async def test_a_cancelled_start_leaves_nothing(bench, monkeypatch, step):
    # once (disk, group): the thread goes on after the cancellation, and what it makes belongs to nobody
    if step == "fork":
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def fork(*args):
            waiting.set()
            await go_on.wait()
            return await bench.fork(*args)

        monkeypatch.setattr(bench.engine, "_fork", fork)
    else:
        import threading

        owner, name = (LoopDisks, "create") if step == "disk" else (cgroups.Hierarchy, "create")
        original, entered, leave = getattr(owner, name), threading.Event(), threading.Event()

        def slow(*args):
            entered.set()
            leave.wait(10)
            return original(*args)

        monkeypatch.setattr(owner, name, slow)
    creation = asyncio.create_task(bench.create())
    if step == "fork":
        await waiting.wait()
    else:
        await eventually(entered.is_set)
    creation.cancel()
    await asyncio.sleep(0)
    if step == "fork":
        go_on.set()
    else:
        leave.set()
    with pytest.raises(asyncio.CancelledError):
        await creation
    await asyncio.to_thread(lambda: None)
    await bench.assert_nothing_left()


async def test_no_slot_is_given_twice_and_none_is_lost(bench, monkeypatch):
    monkeypatch.setattr(held, "_SLOTS", 4)
    workers = [await bench.create() for _ in range(3)]
    assert sorted(worker.uid for worker in workers) == [UID_BASE + 1, UID_BASE + 2, UID_BASE + 3]
    with pytest.raises(CapacityError, match="no free uid"):
        await bench.create()
    await bench.engine.destroy(workers[1])
    workers[1] = await bench.create()
    assert workers[1].uid == UID_BASE + 2
    for worker in workers:
        await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


async def test_a_dead_worker_s_record_is_given_back(bench):
    worker = await bench.create()
    (record,) = bench.ledger.records()
    os.kill(worker.pid, signal.SIGKILL)
    bench.children[0].wait()
    assert await bench.engine.recover(record, TEMPLATE) is None
    assert list(bench.ledger.records()) == []
    await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


async def test_a_reused_pid_is_not_taken_for_the_worker(bench):
    sandbox = ids.new_sandbox_id()
    record = Record(id=sandbox, template="python", slot=1, pid=os.getpid(), started=1, owner=0)
    bench.ledger.write(record)
    assert await bench.engine.recover(record, TEMPLATE) is None
    assert list(bench.ledger.records()) == []
    await bench.assert_nothing_left()


async def test_what_belongs_to_nobody_is_found_and_reaped(bench):
    worker = await bench.create()
    stray = ids.new_sandbox_id()
    (bench.places.images / f"{stray}.img").touch()
    bench.places.agent_socket(stray).touch()
    if bench.hierarchy:
        bench.hierarchy.create(stray, TEMPLATE.limits)
    expected = [f"agent socket {stray.removeprefix('sbx_')}", f"disk image {stray}.img"]
    expected += [f"control group {stray}"] if bench.hierarchy else []
    for dry_run in (True, True, False):
        assert sorted(await bench.reap([worker.id], dry_run=dry_run)) == sorted(expected)
    assert await bench.reap([worker.id], dry_run=False) == []
    await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


async def test_a_worker_that_no_broker_knows_ends_with_all_it_has(bench):
    """Its record is lost: only its group and its socket say that it is there."""
    if bench.hierarchy is None:
        pytest.skip("no control groups can be made here")
    worker, kept = await bench.create(), await bench.create()
    bench.ledger.remove(worker.id)
    expected = [f"control group {worker.id} with 1 processes", f"agent socket {worker.id.removeprefix('sbx_')}"]
    for dry_run in (True, False):
        assert await bench.reap([kept.id], dry_run=dry_run) == expected
    assert bench.children[0].wait(10) == -signal.SIGKILL
    assert bench.children[1].poll() is None
    assert await bench.reap([kept.id], dry_run=False) == []
    for each in (worker, kept):
        await bench.engine.destroy(each)
    await bench.assert_nothing_left()


async def test_a_loop_device_and_a_mount_that_stayed_are_found_and_given_back(bench):
    name = f"{ids.new_sandbox_id()}.img"
    image = bench.places.images / name
    image.write_bytes(bytes(1 << 20))
    descriptor, device = disks._attach(image)
    image.unlink()
    os.close(descriptor)  # the kernel frees it now; while somebody has it open it stays
    await eventually(lambda: disks.loops(bench.places.images) == {})
    image.write_bytes(bytes(1 << 20))
    descriptor, device = disks._attach(image)
    image.unlink()
    assert disks.loops(bench.places.images) == {device: name}
    disks.detach(device, "another.img")
    assert disks.loops(bench.places.images) == {device: name}
    (found,) = [each for each in await bench.engine.remains() if each.is_freed_later]
    assert found.made_for == name.removesuffix(".img")
    await reaper.destroy([found])
    os.close(descriptor)
    await eventually(lambda: disks.loops(bench.places.images) == {})
    stage = bench.engine._disks.stage
    (bench.places.stage / "new").mkdir(exist_ok=True)
    mount = linux.new_filesystem("tmpfs", {"source": "left"}, 0)
    linux.attach_mount(mount, str(bench.places.stage / "new"))
    os.close(mount)
    assert stage.left() == ["new"]
    assert await bench.reap([], dry_run=False) == ["mount new"]
    assert stage.left() == []


async def test_a_group_that_cannot_be_reaped_does_not_keep_the_rest(bench, monkeypatch):
    # once: OSError from Group.remove leaves reap(), and a broker that finds such a group does not start
    if bench.hierarchy is None:
        pytest.skip("no control groups can be made here")
    worker = await bench.create()
    stray = ids.new_sandbox_id()
    bench.places.agent_socket(stray).touch()
    monkeypatch.setattr(cgroups.Group, "destroy", _failing(BROKEN))
    assert f"agent socket {stray.removeprefix('sbx_')}" in await bench.reap([], dry_run=False)
    assert not bench.places.agent_socket(stray).exists()
    await bench.engine.destroy(worker)
    await bench.assert_nothing_left()


# -- the zygote itself


async def _zygote(tree: Tree) -> Zygote:
    return await Zygote.start(TEMPLATE, tree.uid_base)


async def test_a_zygote_that_ends_while_it_starts_is_told(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(zygotes.sys, "executable", "/bin/false")
    with pytest.raises(StartError, match="the zygote"):
        await _zygote(tree)


async def test_a_zygote_that_says_nothing_is_killed(tree, tmp_path, monkeypatch):
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    monkeypatch.setattr(zygotes.sys, "executable", str(silent))
    monkeypatch.setattr(zygotes, "_START_TIMEOUT_S", 0.5)
    with pytest.raises(StartError, match="time out"):
        await _zygote(tree)


async def test_a_root_that_cannot_be_built_is_a_lack_of_isolation(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(zygotes, "environment_paths", lambda: ("/no/such/directory",))
    with pytest.raises(IsolationUnavailableError, match="doctor"):
        await _zygote(tree)
    assert tree.processes() == []


async def test_a_zygote_that_answers_too_late_leaves_no_worker(tree, tmp_path, monkeypatch):
    # the request waits in the zygote's socket; it forks later and can tell nobody
    zygote = await _zygote(tree)
    listener = channel.listen(tmp_path / "agent", kind=embedded.socket.SOCK_SEQPACKET, mode=0o600)
    try:
        os.kill(zygote.pid, signal.SIGSTOP)
        monkeypatch.setattr(zygotes, "_FORK_TIMEOUT_S", 0.3)
        with pytest.raises(StartError, match="does not answer"):
            await zygote.fork("sbx_late", listener.fileno())
        os.kill(zygote.pid, signal.SIGCONT)
        await zygote.stop()
        listener.close()
        await eventually(lambda: tree.processes() == [], ORPHAN_TIMEOUT_S)
    finally:
        listener.close()
        for pid in tree.processes():
            os.kill(pid, signal.SIGKILL)


async def test_a_zygote_that_stops_leaves_its_workers_alone(tree, tmp_path):
    zygote = await _zygote(tree)
    with channel.listen(tmp_path / "agent", kind=embedded.socket.SOCK_SEQPACKET, mode=0o600) as listener:
        fresh = await zygote.fork("sbx_one", listener.fileno())
    try:
        await zygote.stop()
        assert tree.processes() == [fresh.pid]
    finally:
        signal.pidfd_send_signal(fresh.pidfd, signal.SIGKILL)
        os.close(fresh.pidfd)
    await eventually(lambda: tree.processes() == [])
