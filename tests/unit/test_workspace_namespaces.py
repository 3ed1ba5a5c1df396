"""User namespaces for idmapped mounts are kept, the last ones only."""

from __future__ import annotations

import os

import pytest

from jupyter_sandbox import workspace
from jupyter_sandbox.host import idmaps
from jupyter_sandbox.host.stage import Stage

pytestmark = pytest.mark.unit


@pytest.fixture
def made(monkeypatch):
    made: list[tuple[str, str]] = []

    def make(uid_map: str, gid_map: str) -> int:
        made.append((uid_map, gid_map))
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(idmaps, "user_namespace", make)
    return made


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_one_is_made_for_the_same_maps(made, stage):
    mounter = workspace.Mounter(stage, homes=None)
    first = mounter._namespace("0 1 1", "0 1 1")
    assert mounter._namespace("0 1 1", "0 1 1") == first
    assert mounter._namespace("0 2 1", "0 1 1") != first
    assert mounter._namespace("0 1 1", "0 2 1") != first
    assert made == [("0 1 1", "0 1 1"), ("0 2 1", "0 1 1"), ("0 1 1", "0 2 1")]


def test_of_many_the_last_are_kept_and_the_others_closed(made, stage):
    mounter = workspace.Mounter(stage, homes=None)
    kept = mounter._namespace("kept", "")
    gone = mounter._namespace("gone", "")
    for number in range(workspace._KEPT_NAMESPACES - 1):
        mounter._namespace("kept", "")
        fresh = mounter._namespace(str(number), "")
        assert is_open(fresh)
    assert is_open(kept)
    assert not is_open(gone) or gone == fresh
    assert len(mounter._namespaces) == workspace._KEPT_NAMESPACES
    mounter._namespace("gone", "")
    assert made.count(("gone", "")) == 2
    assert made.count(("kept", "")) == 1
