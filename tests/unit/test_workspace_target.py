"""Where a notebook's directory shows inside: one plain component below /workspace, whatever the directory is called."""

from __future__ import annotations

import posixpath

import pytest

from jupyter_sandbox import workspace
from jupyter_sandbox.guards import processes
from jupyter_sandbox.specs import Workspace, WorkspaceMode

pytestmark = pytest.mark.unit


def target(name: str) -> str:
    return workspace.target(Workspace(mode=WorkspaceMode.OVERLAY, name=name))


@pytest.mark.parametrize("name", ["notes", "My Notebooks", "données", "日本語", "a.b-c_d", "...", "~", "$HOME", "`id`"])
def test_usual_names_stay(name):
    assert target(name) == f"/workspace/{name}"


@pytest.mark.parametrize("name", ["", ".", "..", " ", "\u2003", "  .. ", " . "])
def test_names_that_are_none_become_notebook(name):
    assert target(name) == "/workspace/notebook"


HOSTILE = [
    "../etc",
    "/etc/passwd",
    "a/../../..",
    "a\0b",
    "a\nb",
    "a\x1b[31mb",
    "a\x7fb",
    "a\u202egnp.exe",
    "a\u2066b",
    "x" * 10_000,
    "日" * 100,
    "日" * 42 + "ab" + "日",
    "./" * 50,
    "caf\udce9",  # once: a directory named in Latin-1 (surrogateescape) makes target() raise UnicodeEncodeError
    "\ud800",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_one_short_plain_component(name):
    where = target(name)
    top, component = posixpath.split(where)
    assert top == "/workspace"
    assert component not in ("", ".", "..")
    assert 0 < len(component.encode()) <= 128
    assert not any(ord(character) < 32 or character in "/\x7f\u202e\u2066" for character in component)
    assert processes.working_directory(where) == where
