"""A container whose start its engine did not live to make: what waits in it is ended, and nothing else."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import docker.errors
import pytest

from jupyter_sandbox.engines.daemon import Daemon
from jupyter_sandbox.host import processes

ID, OTHER = "3441865c72cfb90e" * 4, "4552976d83dgc01f" * 4


@pytest.fixture
def proc(tmp_path):
    """Two processes, and what /proc would say of their control groups."""
    with subprocess.Popen(["sleep", "60"]) as meant, subprocess.Popen(["sleep", "60"]) as another:
        for process, identity in ((meant, ID), (another, OTHER)):
            (tmp_path / str(process.pid)).mkdir()
            (tmp_path / str(process.pid) / "cgroup").write_text(f"9:pids:/docker/{identity}\n0::/docker/{identity}\n")
        (tmp_path / "999999999").mkdir()  # one that has just ended
        yield tmp_path, meant, another
        another.kill()
        meant.kill()


def test_what_is_in_the_containers_group_is_killed_and_nothing_else(proc):
    directory, meant, another = proc
    processes.kill_in_group(ID, directory)
    assert meant.wait(10) == -9
    assert another.poll() is None


@pytest.mark.parametrize("name", ["", "/", "docker", ID[:12]])
def test_a_name_that_others_may_share_kills_nobody(proc, name):
    directory, meant, another = proc
    with pytest.raises(ValueError, match="no whole id"):
        processes.kill_in_group(name, directory)
    assert (meant.poll(), another.poll()) == (None, None)


class Client:
    """The engine's client, as far as it is asked."""

    def __init__(self, status: str | None) -> None:
        self._status = status

    def inspect_container(self, name: str) -> dict[str, object]:
        if self._status is None:
            raise docker.errors.NotFound(f"no such container: {name}")
        return {"Id": ID, "State": {"Status": self._status}}


@pytest.mark.parametrize(
    ("status", "killed"), [("created", [ID]), ("running", []), ("exited", []), ("paused", []), (None, [])]
)
async def test_only_of_a_container_that_did_not_start_something_is_killed(monkeypatch, status, killed):
    seen: list[str] = []
    monkeypatch.setattr(processes, "kill_in_group", seen.append)
    with ThreadPoolExecutor(1) as threads:
        await Daemon(Client(status), threads).end_start("sbx_1")
    assert seen == killed
