"""The files service when it is interrupted, killed, or has somebody else in the same directory: the old file or the new."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from jupyter_sandbox import errors
from jupyter_sandbox.files import BLOCK, Files
from jupyter_sandbox.host import beneath, deletion
from jupyter_sandbox.host.beneath import Draft, Kind, View
from tests.server.ticker import Ticker
from tests.tries import tries

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

BOX = "sbx_00000000000000000000"


@pytest.fixture
def disk(tmp_path):
    """A directory that stands for a disk; fails when a descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    yield tmp_path
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def files(disk):
    async def open_disk(sandbox: str) -> int:
        assert sandbox == BOX
        return os.open(disk, os.O_RDONLY | os.O_DIRECTORY)

    return Files(open_disk)


async def of(*pieces: bytes):
    for piece in pieces:
        yield piece


async def content(files, path, **keywords):
    async with files.reading(BOX, path, **keywords) as reading:
        data = b"".join([block async for block in reading])
    assert len(data) == reading.size
    return data


async def test_what_is_written_is_read_whole_and_in_ranges(files, disk):
    data = os.urandom(3 * BLOCK + 5)
    entry = await files.write(BOX, "dir/file", of(data[:7], data[7:BLOCK], b"", data[BLOCK:]), parents=True)
    assert (entry.name, entry.kind, entry.size_bytes, entry.mode) == ("file", Kind.FILE, len(data), 0o644)
    assert await content(files, "/sandbox/dir/file") == data
    assert await content(files, "dir/file", start=BLOCK - 1, size=BLOCK + 2) == data[BLOCK - 1 : 2 * BLOCK + 1]
    assert await content(files, "dir/file", start=-4) == data[-4:]
    assert await content(files, "dir/file", start=-(10**9), size=2) == data[:2]
    assert await content(files, "dir/file", start=len(data)) == b""
    assert await content(files, "dir/file", start=1, size=10**15) == data[1:]
    for start, size in ((len(data) + 1, None), (0, -1)):
        with pytest.raises(errors.FileRangeError):
            await content(files, "dir/file", start=start, size=size)
    assert os.listdir(disk / "dir") == ["file"]


async def test_an_upload_that_is_cancelled_leaves_the_old_file_and_nothing_else(files, disk):
    (disk / "file").write_text("old")
    begun = asyncio.Event()

    async def slow():
        yield bytes(BLOCK)
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(files.write(BOX, "file", slow()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (disk / "file").read_text() == "old"
    assert os.listdir(disk) == ["file"]


async def test_an_upload_that_is_cancelled_twice_closes_nothing_that_a_thread_still_writes_to(files, disk, monkeypatch):
    writing, go_on, closed_meanwhile = threading.Event(), threading.Event(), []
    real = beneath.Draft.write

    def slow(draft, data):
        writing.set()
        go_on.wait(30)
        try:
            os.fstat(draft._file)
        except OSError as error:
            closed_meanwhile.append(error)
        real(draft, data)

    monkeypatch.setattr(beneath.Draft, "write", slow)
    task = asyncio.create_task(files.write(BOX, "file", of(b"x")))
    await asyncio.to_thread(writing.wait, 30)
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed_meanwhile == []
    assert os.listdir(disk) == []


async def test_an_upload_whose_source_breaks_off_leaves_the_old_file(files, disk):
    (disk / "file").write_text("old")

    async def broken():
        yield bytes(2 * BLOCK)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.write(BOX, "file", broken())
    assert (disk / "file").read_text() == "old"
    assert os.listdir(disk) == ["file"]


async def test_an_upload_above_its_limit_ends_at_the_limit(files, disk):
    taken = 0

    async def endless():
        nonlocal taken
        while True:
            taken += 1
            yield bytes(BLOCK)

    with pytest.raises(errors.FileTooLargeError):
        await files.write(BOX, "file", endless(), max_bytes=3 * BLOCK)
    assert taken == 4
    assert os.listdir(disk) == []
    assert (await files.write(BOX, "file", of(bytes(3 * BLOCK)), max_bytes=3 * BLOCK)).size_bytes == 3 * BLOCK
    files.max_file_mib = 1
    with pytest.raises(errors.FileTooLargeError):
        await files.write(BOX, "file", endless(), max_bytes=3 * BLOCK)


WRITER = """
import os, sys
from jupyter_sandbox.host.beneath import Draft, View
view = View(sandbox='sbx', directory=os.open(sys.argv[1], os.O_RDONLY))
print('ready', flush=True)
number = 0
while True:
    draft = Draft(view, ('file',))
    for _ in range(4): draft.write(bytes([65 + number % 26]) * 50_000)
    draft.publish(replace=True)
    draft.close()
    number += 1
"""


async def test_a_writer_killed_at_any_moment_leaves_a_whole_file_and_the_next_one_sweeps(files, disk):
    for seed in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(disk)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(random.Random(seed).randrange(30)):
            (disk / "file").exists()
        await asyncio.to_thread(_wait_for, disk / "file")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        data = (disk / "file").read_bytes()
        assert len(data) == 200_000
        assert len(set(data)) == 1, "not partly old"
        await files.write(BOX, "file", of(b"next"))
        assert os.listdir(disk) == ["file"]


def _wait_for(path):
    while not path.exists() or path.stat().st_size < 200_000:
        pass


async def test_what_a_writer_left_that_was_killed_between_two_calls_is_swept_by_the_next(files, disk, monkeypatch):
    (disk / "file").write_text("old")

    def killed(*_args, **_keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(beneath.os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            _publish(disk, b"new")
    assert len(os.listdir(disk)) == 2
    assert (disk / "file").read_text() == "old"
    await files.write(BOX, "file", of(b"next"))
    assert os.listdir(disk) == ["file"]


def _publish(disk, data):
    view = View(sandbox=BOX, directory=os.open(disk, os.O_RDONLY))
    draft = Draft(view, ("file",))
    try:
        draft.write(data)
        draft.publish(replace=True)
    finally:
        draft.close()
        os.close(view.directory)


def test_many_writers_of_one_name_leave_one_of_their_files_whole(disk):
    failures = []

    def write(number):
        try:
            for _ in range(40):
                _publish(disk, bytes([number]) * 10_000)
        except errors.SandboxError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(disk) == ["file"]
    assert len(set((disk / "file").read_bytes())) == 1


async def test_a_directory_that_is_deleted_during_an_upload_ends_it_with_an_error(files, disk):
    async def undermined():
        yield b"x"
        os.rmdir(disk / "dir")

    (disk / "dir").mkdir()
    with pytest.raises(errors.UnknownFileError):
        await files.write(BOX, "dir/file", undermined())
    assert os.listdir(disk) == []


async def test_what_is_put_in_the_way_during_an_upload_is_replaced_or_reported(files, disk, tmp_path):
    async def crossed(make):
        yield b"new"
        make()

    await files.write(BOX, "link", crossed(lambda: os.symlink("/etc/passwd", disk / "link")))
    assert (disk / "link").read_text() == "new"
    assert not (disk / "link").is_symlink()
    with pytest.raises(errors.FileConflictError):
        await files.write(BOX, "directory", crossed(lambda: os.mkdir(disk / "directory")))
    with pytest.raises(errors.FileConflictError):
        await files.write(BOX, "taken", crossed((disk / "taken").touch), replace=False)
    assert sorted(os.listdir(disk)) == ["directory", "link", "taken"]


async def test_a_file_keeps_its_permissions_when_it_is_replaced(files, disk):
    (disk / "program").touch(mode=0o755)
    entry = await files.write(BOX, "program", of(b"#!"))
    assert entry.mode == 0o755
    assert (disk / "program").stat().st_mode & 0o7777 == 0o755


async def test_directories_are_made_once(files, disk):
    assert await files.make_directory(BOX, "a/b/c", parents=True) is True
    assert await files.make_directory(BOX, "a/b/c", parents=True) is False
    assert await files.make_directory(BOX, "a") is False
    with pytest.raises(errors.UnknownFileError):
        await files.make_directory(BOX, "x/y")
    (disk / "file").touch()
    for path in ("file", "file/x"):
        with pytest.raises(errors.FileConflictError):
            await files.make_directory(BOX, path, parents=True)


async def test_a_move_replaces_only_when_it_is_asked_to(files, disk):
    (disk / "one").write_text("1")
    (disk / "two").write_text("2")
    (disk / "dir/sub").mkdir(parents=True)
    with pytest.raises(errors.FileConflictError):
        await files.move(BOX, "one", "two")
    await files.move(BOX, "one", "two", replace=True)
    assert (disk / "two").read_text() == "1"
    await files.move(BOX, "two", "dir/two")
    for source, target, error in (
        ("one", "x", errors.UnknownFileError),
        ("dir/two", "nowhere/x", errors.UnknownFileError),
        ("dir", "dir/sub/dir", errors.FileConflictError),
    ):
        with pytest.raises(error):
            await files.move(BOX, source, target)
    with pytest.raises(errors.InvalidRequestError):
        await files.move(BOX, "/sandbox", "x")


async def test_a_deletion_that_is_cancelled_stops(files, disk, monkeypatch):
    for number in range(200):
        (disk / f"dir/{number}").mkdir(parents=True)
    loop, real, taken = asyncio.get_running_loop(), deletion._is_gone, 0

    def counted(place, name):
        nonlocal taken
        taken += 1
        if taken == 15:
            loop.call_soon_threadsafe(task.cancel)
        return real(place, name)

    monkeypatch.setattr(deletion, "STEP", 10)
    monkeypatch.setattr(deletion, "_is_gone", counted)
    told = []
    monkeypatch.setattr(files, "_emit", told.append)
    task = asyncio.create_task(files.delete(BOX, "dir", recursive=True))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(os.listdir(disk / "dir")) > 150
    assert [event.whole for event in told] == [False]
    await files.delete(BOX, "dir", recursive=True)
    assert os.listdir(disk) == []
    assert [event.whole for event in told] == [False, True]


async def test_a_deletion_gives_up_on_a_directory_that_is_filled_as_fast(files, disk, monkeypatch):
    monkeypatch.setattr(deletion, "MAX_NAMES", 200)
    real = deletion._is_gone

    def refilled(place, name):
        gone = real(place, name)
        with os.fdopen(os.open(f"{random.random()}", os.O_CREAT | os.O_WRONLY, dir_fd=place)):
            return gone

    (disk / "dir").mkdir()
    (disk / "dir/file").touch()
    monkeypatch.setattr(deletion, "_is_gone", refilled)
    with pytest.raises(errors.FileChangedError):
        await files.delete(BOX, "dir", recursive=True)


async def test_what_cannot_be_done_says_why_and_leaves_no_descriptor(files, disk):
    (disk / "dir").mkdir()
    (disk / "dir/file").touch()
    with pytest.raises(errors.UnknownFileError, match=f"there is no /sandbox/x in sandbox {BOX}"):
        await content(files, "x")
    with pytest.raises(errors.FileConflictError, match="is a directory"):
        await content(files, "dir")
    with pytest.raises(errors.FileConflictError, match="is a directory"):
        await files.write(BOX, "dir", of(b"x"))
    with pytest.raises(errors.FileConflictError, match="not empty"):
        await files.delete(BOX, "dir")
    with pytest.raises(errors.FileConflictError, match="no directory"):
        await files.listing(BOX, "dir/file")
    with pytest.raises(errors.UnknownFileError):
        await files.delete(BOX, "x")
    for limit in (0, 1001):
        with pytest.raises(errors.InvalidRequestError):
            await files.listing(BOX, ".", limit=limit)


async def test_a_sandbox_that_is_gone_is_told_by_every_operation():
    async def gone(sandbox: str) -> int:
        raise errors.UnknownSandboxError(f"no sandbox {sandbox}")

    files = Files(gone)
    for call in (
        files.stat(BOX, "x"),
        files.listing(BOX, "."),
        content(files, "x"),
        files.write(BOX, "x", of(b"")),
        files.make_directory(BOX, "x"),
        files.move(BOX, "x", "y"),
        files.delete(BOX, "x"),
    ):
        with pytest.raises(errors.UnknownSandboxError):
            await call


async def test_large_files_and_directories_do_not_block_the_event_loop(files, disk):
    async def zeros():
        for _ in range(200):
            yield bytes(BLOCK)

    for attempt in tries(0.1):
        (disk / "dir").mkdir()
        for number in range(30_000):
            first = disk / f"dir/{number}" if number % 10_000 else _made(disk / f"{number}")
            os.link(first, disk / f"dir/{number + 1}")
        async with Ticker() as ticker:
            await files.write(BOX, "large", zeros())
            async with files.reading(BOX, "large") as reading:
                assert sum([len(block) async for block in reading]) == 200 * BLOCK
            assert len((await files.listing(BOX, "dir")).entries) == 1000
            await files.delete(BOX, "dir", recursive=True)
        attempt.took_s = ticker.longest_block_s()


def _made(path):
    path.touch()
    return path
