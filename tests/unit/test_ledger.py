"""The ledger: what was written is read again by the next broker, and what is no record is swept away."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from jupyter_sandbox import ledger as ledger_module
from jupyter_sandbox.errors import DiskSpaceError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.ledger import Ledger, Record

pytestmark = pytest.mark.unit

ONE = ids.SandboxId("sbx_" + "1" * 20)
TWO = ids.SandboxId("sbx_" + "2" * 20)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "ledger"


@pytest.fixture
def ledger(directory):
    return Ledger(directory)


def full(sandbox: ids.SandboxId) -> Record:
    return Record(
        id=sandbox,
        template="python",
        slot=7,
        pid=42,
        started=99,
        owner=1000,
        workspace="/workspace/é\n",
        created_at="2026-01-01T00:00:00+00:00",
        paused=True,
    )


def test_the_directory_is_ours_alone(ledger, directory):
    assert directory.stat().st_mode & 0o777 == 0o700


def test_records_are_read_as_they_were_written(ledger, directory):
    bare = Record(id=TWO, template="r", slot=1)
    ledger.write(full(ONE))
    ledger.write(bare)
    assert list(Ledger(directory).records()) == [full(ONE), bare]
    assert bare.owner is None


def test_owner_zero_is_an_owner(ledger):
    ledger.write(Record(id=ONE, template="python", slot=1, owner=0))
    (record,) = ledger.records()
    assert record.owner == 0


def test_a_second_write_replaces_the_first(ledger, directory):
    ledger.write(Record(id=ONE, template="python", slot=1))
    ledger.write(full(ONE))
    assert list(ledger.records()) == [full(ONE)]
    assert len(list(directory.iterdir())) == 1


def test_a_failed_write_keeps_the_old_record(ledger, directory, monkeypatch):
    ledger.write(full(ONE))

    def full_disk(path, mode, **how):
        file = open(path, mode, **how)  # noqa: SIM115 - who called closes it
        write = file.write

        def some(text):
            write(text[:7])
            raise OSError(28, "No space left on device")

        file.write = some
        return file

    monkeypatch.setattr(ledger_module, "open", full_disk, raising=False)
    with pytest.raises(DiskSpaceError, match="No space"):
        ledger.write(Record(id=ONE, template="other", slot=9))
    monkeypatch.undo()
    assert list(ledger.records()) == [full(ONE)]
    assert len(list(directory.iterdir())) == 1


def test_remove_twice_is_quiet(ledger, directory):
    ledger.write(full(ONE))
    ledger.remove(ONE)
    ledger.remove(ONE)
    assert list(directory.iterdir()) == []


def _text(**changes: object) -> str:
    return json.dumps(asdict(full(ONE)) | changes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{ONE}.json", ""),
        (f"{ONE}.json", "{"),
        (f"{ONE}.json", "null"),
        (f"{ONE}.json", "[]"),
        (f"{ONE}.json", "{}"),
        (f"{ONE}.json", "[" * 100_000),
        (f"{ONE}.json", _text()[:-20]),
        (f"{ONE}.json", _text(unknown=1)),
        (f"{ONE}.json", _text(id=TWO)),
        (f"{ONE}.json", _text(id="../../etc/passwd")),
        (f"{ONE}.json", _text(id=None)),
        (f"{ONE}.new", _text()),
        (f"{TWO}.json", _text()),
        ("passwd", _text()),
        # once: wrong types are taken for a record, and the broker that recovers it dies of a TypeError
        (f"{ONE}.json", _text(pid="42")),
        (f"{ONE}.json", _text(slot=None)),
        (f"{ONE}.json", _text(template=["python"])),
        (f"{ONE}.json", _text(owner="root")),
        (f"{ONE}.json", _text(workspace=7)),
        (f"{ONE}.json", _text(paused="yes")),
    ],
)
def test_what_is_no_record_is_removed_and_hides_no_other(ledger, directory, name, text):
    good = Record(id=ids.SandboxId("sbx_" + "f" * 20), template="python", slot=1)
    ledger.write(good)
    (directory / name).write_text(text)
    assert list(ledger.records()) == [good]
    assert [path.name for path in directory.iterdir()] == [f"{good.id}.json"]


def test_bytes_that_are_no_text_are_no_record(ledger, directory):
    (directory / f"{ONE}.json").write_bytes(b"\xff\xfe\x00" * 100)
    assert list(ledger.records()) == []
    assert list(directory.iterdir()) == []


def test_a_directory_among_the_records_hides_no_other(ledger, directory):
    # once: unlink() of a directory raises, and no broker starts any more
    (directory / "lost+found").mkdir()
    ledger.write(full(ONE))
    assert list(ledger.records()) == [full(ONE)]


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O"), MemoryError()]
)
def test_a_record_that_cannot_be_read_now_stays_and_is_told_once(ledger, directory, monkeypatch, caplog, error):
    # once: it was removed, and the sandbox of a living owner was reaped
    ledger.write(full(ONE))
    ledger.write(Record(id=TWO, template="r", slot=1))
    read = Path.read_bytes

    def fail(path):
        if path.stem == ONE:
            raise error
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    for _ in range(2):
        assert [record.id for record in ledger.records()] == [TWO]
    assert ledger.unread == {ONE}
    assert caplog.text.count("cannot be read now") == 1
    monkeypatch.undo()
    assert [record.id for record in ledger.records()] == [ONE, TWO]
    assert ledger.unread == set()


def test_a_record_that_is_gone_is_not_waited_for(ledger, monkeypatch):
    ledger.unread |= {ONE, TWO}
    ledger.write(full(TWO))
    ledger.remove(ONE)
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.unlink() or (_ for _ in ()).throw(FileNotFoundError))
    assert list(ledger.records()) == []
    assert ledger.unread == set()
