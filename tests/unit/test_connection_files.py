"""Connection files that a killed server left are told from those of kernels that live, or are not ours."""

from __future__ import annotations

import json
import os
import time

import pytest

from jupyter_sandbox import connection_files

pytestmark = pytest.mark.unit


@pytest.fixture
def world(tmp_path):
    runtime, sockets = tmp_path / "runtime", tmp_path / "run" / "k"
    runtime.mkdir()
    sockets.mkdir(parents=True)
    return runtime, sockets


def write(runtime, name, content, age_s=3600):
    path = runtime / f"kernel-{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    then = time.time_ns() / 1e9 - age_s
    os.utime(path, (then, then))
    return path


def test_only_a_file_whose_sockets_are_gone_is_stale(world):
    runtime, sockets = world
    (sockets / "bbbbbbbbbbbb-1").touch()
    gone = write(runtime, "gone", {"transport": "ipc", "ip": f"{sockets}/aaaaaaaaaaaa"})
    write(runtime, "lives", {"transport": "ipc", "ip": f"{sockets}/bbbbbbbbbbbb"})
    write(runtime, "starts", {"transport": "ipc", "ip": f"{sockets}/cccccccccccc"}, age_s=0)
    write(runtime, "native", {"transport": "tcp", "ip": "127.0.0.1"})
    write(runtime, "another-tree", {"ip": f"{sockets.parent.parent}/other/k/aaaaaaaaaaaa"})
    assert list(connection_files.stale(runtime, sockets)) == [gone]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"ip": 3}', '{"ip": null}', '{"ip": ["x"]}', "\x00" * 10, "x" * 70_000]
)
def test_what_is_no_connection_file_is_left_alone(world, content):
    runtime, sockets = world
    write(runtime, "odd", content)
    assert list(connection_files.stale(runtime, sockets)) == []


@pytest.mark.parametrize("seat", ["../k/aaaaaaaaaaaa", "*", "a/b", "", "aaaaaaaaaaaa*"])
def test_a_name_that_is_no_seat_is_left_alone(world, seat):
    runtime, sockets = world
    write(runtime, "odd", {"ip": f"{sockets}/{seat}"})
    assert list(connection_files.stale(runtime, sockets)) == []
