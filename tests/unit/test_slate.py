"""The slate: what is under way is found again by the next server, and by nobody else meanwhile."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, replace

import pytest

from jupyter_sandbox import slate
from jupyter_sandbox.slate import Chalked, Slate

pytestmark = pytest.mark.unit

CELL = Chalked(id="m1", context_id="k", session="s", header={"msg_id": "m1", "msg_type": "execute_request"})
DETACHED = Chalked(
    id="exe_" + "1" * 20,
    context_id="k",
    owner="*",
    sandbox_id="sbx_" + "1" * 20,
    detached=True,
    accepted_at="2026-01-01T00:00:00+00:00",
    timeout_s=60,
    began=False,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sandbox-server-x.slate"


def left_after(path, *steps) -> tuple[Chalked, ...]:
    """What the next server finds when this one took these steps and was killed."""
    now = Slate(path)
    for step in steps:
        step(now)
    now.close()  # the lock goes with the process; nothing else does
    after = Slate(path)
    after.close()
    return after.left


def test_what_is_under_way_is_left(path):
    assert left_after(path) == ()
    assert left_after(path, lambda now: now.write(CELL), lambda now: now.write(DETACHED)) == (CELL, DETACHED)


def test_what_was_wiped_off_is_not(path):
    assert left_after(path, lambda now: now.write(CELL), lambda now: now.wipe("m1"), lambda now: now.wipe("m1")) == ()


def test_what_was_left_stays_until_it_is_wiped_off(path):
    assert left_after(path, lambda now: now.write(CELL)) == (CELL,)
    assert left_after(path) == (CELL,)
    assert left_after(path, lambda now: now.wipe("m1")) == ()


def test_the_last_word_counts(path):
    began = replace(DETACHED, began=True)
    assert left_after(path, lambda now: now.write(DETACHED), lambda now: now.write(began)) == (began,)


def test_it_has_one_owner_at_a_time(path):
    first = Slate(path)
    with pytest.raises(BlockingIOError):
        Slate(path)
    first.write(CELL)
    first.close()
    first.close()
    second = Slate(path)
    assert second.left == (CELL,)
    second.close()


def test_nothing_is_written_after_it_was_closed(path):
    now = Slate(path)
    now.write(CELL)
    now.close()
    now.wipe("m1")
    now.write(DETACHED)
    after = Slate(path)
    after.close()
    assert after.left == (CELL,)


def test_others_of_the_machine_cannot_read_it(path):
    now = Slate(path)
    now.write(CELL)
    now.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_does_not_grow(path, monkeypatch):
    monkeypatch.setattr(slate, "_MAX_FILE", 10_000)
    now = Slate(path)
    now.write(DETACHED)
    for number in range(500):
        now.write(replace(CELL, id=str(number)))
        now.wipe(str(number))
        assert path.stat().st_size <= 11_000
    now.close()
    after = Slate(path)
    after.close()
    assert after.left == (DETACHED,)


def test_the_oldest_goes_when_there_are_too_many(path, monkeypatch):
    monkeypatch.setattr(slate, "_MAX_OPEN", 3)
    steps = [lambda now, number=number: now.write(replace(CELL, id=str(number))) for number in range(5)]
    assert [each.id for each in left_after(path, *steps)] == ["2", "3", "4"]


def test_it_is_written_anew_now_and_then_and_not_with_each_line(path, monkeypatch):
    # once: what was under way alone was more than the file may have, so that each line cost a whole file
    monkeypatch.setattr(slate, "_MAX_FILE", 10_000)
    now, files = Slate(path), set()
    for number in range(400):
        now.write(replace(DETACHED, id=str(number)))
        files.add(path.stat().st_ino)
        assert path.stat().st_size <= 11_000
    assert len(files) < 40
    now.close()
    after = Slate(path)
    after.close()
    assert [each.id for each in after.left][-10:] == [str(number) for number in range(390, 400)]


def test_a_file_that_cannot_be_written_anew_costs_no_execution(path, monkeypatch):
    # once: its descriptor was closed twice, the second time that of whoever had got the number
    monkeypatch.setattr(slate, "_MAX_FILE", 1000)
    before = len(os.listdir("/proc/self/fd"))
    now = Slate(path)
    path.with_suffix(".new").mkdir()
    for number in range(20):
        now.write(replace(CELL, id=str(number)))
    with pytest.raises(BlockingIOError):
        Slate(path)
    now.close()
    assert len(os.listdir("/proc/self/fd")) == before


class Disk:
    """What is written to it is cut off after `room` bytes, or refused when there are none."""

    def __init__(self, monkeypatch, number: int = errno.ENOSPC) -> None:
        self.room, self._number, self._write = 0, number, os.write
        monkeypatch.setattr(slate.os, "write", self.write)

    def write(self, file: int, data: bytes) -> int:
        if data and not self.room:
            raise OSError(self._number, os.strerror(self._number))
        written = self._write(file, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 30])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_server_that_starts_on_a_full_disk_has_its_name_and_what_was_left(path, monkeypatch, caplog, room, number):
    # once: without a slate it had no name, and all its sandboxes ended; what was cut off took the place of the whole
    assert left_after(path, lambda now: now.write(CELL), lambda now: now.write(DETACHED)) == (CELL, DETACHED)
    disk = Disk(monkeypatch, number)
    disk.room = room
    assert left_after(path) == (CELL, DETACHED)
    assert left_after(path) == (CELL, DETACHED)
    assert not path.with_suffix(".new").exists()
    now = Slate(path)
    caplog.set_level("INFO")
    caplog.clear()
    now.write(replace(CELL, id="m2"))
    now.wipe("m1")
    assert caplog.text == "", "it was told"
    disk.room = 1 << 20
    now.wipe(DETACHED.id)
    assert "is written again" in caplog.text
    now.write(replace(CELL, id="m3"))
    now.close()
    after = Slate(path)
    after.close()
    assert [each.id for each in after.left] == ["m2", "m3"]


def test_a_slate_that_cannot_be_read_costs_no_name(path, caplog):
    path.mkdir()
    now = Slate(path)
    assert now.left == ()
    assert "cannot be read" in caplog.text
    with pytest.raises(BlockingIOError):
        Slate(path)
    now.close()


@pytest.mark.parametrize("room", [0, 30])
def test_a_disk_that_becomes_full_costs_no_line_before_and_none_after(path, monkeypatch, caplog, room):
    # once: nothing was written down any more, and half a line spoilt the next
    now = Slate(path)
    now.write(CELL)
    disk = Disk(monkeypatch)
    disk.room = room
    for number in range(3):
        now.write(replace(CELL, id=str(number)))
    assert caplog.text.count("cannot be written") == 1
    assert slate._read(path) == {"m1": CELL}
    disk.room = 1 << 20
    now.wipe("0")
    now.close()
    after = Slate(path)
    after.close()
    assert [each.id for each in after.left] == ["m1", "1", "2"]


def test_a_full_disk_is_told_once_though_an_empty_slate_needs_no_room(path, monkeypatch, caplog):
    now = Slate(path)
    Disk(monkeypatch)
    for _ in range(3):
        now.write(CELL)
        now.wipe("m1")
    assert caplog.text.count("cannot be written") == 1
    assert path.read_bytes() == b""
    now.close()


@pytest.mark.parametrize("header", [{"x": "y" * 5000}])
def test_what_is_too_long_is_not_written_down(path, header):
    assert left_after(path, lambda now: now.write(replace(CELL, header=header))) == ()
    assert left_after(path, lambda now: now.write(replace(CELL, id="x" * 201))) == ()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(asdict(CELL) | {"id": "x" * 201}).encode(),
        json.dumps(asdict(CELL) | {"header": {"a": 1}}).encode(),
        json.dumps(asdict(CELL) | {"header": []}).encode(),
        json.dumps(asdict(DETACHED) | {"sandbox_id": "../.."}).encode(),
        json.dumps(asdict(DETACHED) | {"timeout_s": "long"}).encode(),
        json.dumps(asdict(DETACHED) | {"unknown": 1}).encode(),
        json.dumps(asdict(CELL)).encode()[:-5],
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_says_nothing_hides_no_other(path, line):
    good = json.dumps(asdict(DETACHED)).encode()
    path.write_bytes(b"\n".join([line, good, line]))
    assert left_after(path) == (DETACHED,)
