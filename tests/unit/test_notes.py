"""Notes are read as they were written, and what no server writes is no note."""

from __future__ import annotations

import json

import pytest

from jupyter_sandbox import notes
from sandbox_worker.protocol import CurveKeys

pytestmark = pytest.mark.unit

KERNEL = notes.KernelNote(
    kernel_id="0b5f1ad2-6c35-4b0f-93ad-1b3c5a7d9e11",
    kernel_name="sandbox-python",
    owner="user alice",
    hides_files=True,
    key="0" * 64,
    curve=CurveKeys(public="a" * 40, secret="b" * 40),
    environment={"LANG": "C.UTF-8", "JPY_SESSION_NAME": "/home/é\udcff/a.ipynb"},
    cwd="/home/é",
    guest=notes.Guest(directory="/sandbox/x", environment={"COLOUR": "green"}),
    sessions=(notes.Session(id="1", path="a.ipynb", name=None, type="notebook"),),
)
SANDBOX = notes.SandboxNote(
    owner="*",
    timeout_s=900,
    length_s=60,
    ends_at=12345.5,
    is_renewed_by_use=True,
    metadata={"naïve": "\ud800\n\0"},
    env={"A": "b"},
    key="k",
    parts={"tokens": "{}"},
)


def test_notes_are_read_as_they_were_written():
    assert notes.kernel(notes.text_of(KERNEL)) == KERNEL
    assert notes.sandbox(notes.text_of(SANDBOX)) == SANDBOX


def test_no_secret_of_a_note_is_in_its_repr():
    shown = repr(KERNEL) + repr(SANDBOX)
    assert not any(secret in shown for secret in (KERNEL.key, "b" * 40, "green", "tokens"))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1", '"x"', "[" * 100_000, '{"key": 1', "\udcff"])
@pytest.mark.parametrize("read", [notes.kernel, notes.sandbox])
def test_what_is_no_note_is_none(read, text):
    assert read(text) is None


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_id": "../../../../etc/cron.d/x"},
        {"kernel_id": "a-b-c-d-e/../x"},
        {"kernel_id": ""},
        {"kernel_id": None},
        {"kernel_name": "x" * 401},
        {"kernel_name": ["sandbox-python"]},
        {"owner": "x" * 401},
        {"owner": 0},
        {"hides_files": 1},
        {"key": "0" * 63},
        {"key": "g" * 64},
        {"key": "0" * 64 + "\n"},
        {"curve": {"public": "a" * 40, "secret": "short"}},
        {"environment": {"BAD NAME": "x"}},
        {"environment": {"LONG": "x" * 30_000}},
        {"environment": {"A": 1}},
        {"environment": {f"N{number}": "" for number in range(300)}},
        {"cwd": "/a\0b"},
        {"guest": {"directory": "/etc", "environment": {}}},
        {"guest": {"directory": "/sandbox/../etc", "environment": {}}},
        {"guest": {"directory": None, "environment": {"=": "x"}}},
        {"sessions": [{"id": str(number), "path": "", "name": "", "type": ""} for number in range(17)]},
        {"sessions": [{"id": "x" * 401, "path": "", "name": "", "type": ""}]},
        {"sessions": [{"id": "1"}]},
        {"prefix": "/run/elsewhere"},
        {"seat": "0" * 12},
    ],
    ids=str,
)
def test_a_kernel_that_no_server_notes_is_none(change):
    assert notes.kernel(json.dumps(json.loads(notes.text_of(KERNEL)) | change)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"owner": ""},
        {"owner": "x" * 401},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"length_s": 0},
        {"length_s": float("inf")},
        {"ends_at": float("inf")},
        {"ends_at": float("nan")},
        {"ends_at": "soon"},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"env": None},
        {"key": 1},
        {"parts": {str(number): "" for number in range(17)}},
        {"template": "python"},
    ],
    ids=str,
)
def test_a_sandbox_that_no_server_notes_is_none(change):
    assert notes.sandbox(json.dumps(json.loads(notes.text_of(SANDBOX)) | change)) is None
