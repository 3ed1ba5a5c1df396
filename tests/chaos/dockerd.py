"""A container engine of a test's own, which nobody else uses, and what is done to it: it stops, dies and comes back.

The image of workers is taken from the engine that `DOCKER_HOST` names. Needs root and `dockerd`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from jupyter_sandbox.engines import daemon, image
from tests.chaos.system import Answer, System
from tests.conftest import wait_until

SANDBOXES = 2
START_S = 30
BACK_S = 60
COPY_S = 300


class Dockerd:
    """A container engine in a directory of its own, started again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it and wait until it answers; what was killed needs a second start sometimes, as systemd gives it."""
        where = self.directory
        # It takes the bridge of other engines away when it wants none, so it gets a network of its own.
        command = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false", *options]
        command += ["--host", self.address, "--data-root", str(where / "data")]
        command += ["--exec-root", str(where / "exec"), "--pidfile", str(where / "pid")]
        for _ in range(3):
            with (where / "log").open("ab") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            deadline = time.monotonic() + START_S
            while self.process.poll() is None and time.monotonic() < deadline:
                if self.answers():
                    return
                time.sleep(0.1)
            self.end(signal.SIGKILL)
            (where / "pid").unlink(missing_ok=True)
        raise AssertionError((where / "log").read_text()[-2000:])

    def answers(self) -> bool:
        """Whether it serves."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(START_S)
            caller.connect(self.address.removeprefix("unix://"))
            caller.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in caller.recv(64)
        return False

    def take_image(self) -> None:
        """Copy the image of workers from the engine that the environment names."""
        with (
            contextlib.closing(docker.APIClient(daemon.address(), timeout=COPY_S)) as theirs,
            contextlib.closing(docker.APIClient(self.address, timeout=COPY_S)) as ours,
        ):
            for told in ours.load_image(theirs.get_image(image.DEFAULT)):
                assert "error" not in told, told

    def end(self, number: int) -> None:
        """End it by a signal and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()

    def close(self) -> None:
        """Leave nothing of it."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGTERM)
        for path in Path("/proc").glob("[0-9]*/cmdline"):  # containerd and its shims, which it does not always end
            with contextlib.suppress(OSError):
                if str(self.directory).encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
        mounts = [*self.directory.glob("exec/netns/*"), self.directory / "data"]
        subprocess.run(["umount", *map(str, mounts)], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def a_daemon() -> Iterator[Dockerd]:
    """One that restores what lives and has the image of workers; `DOCKER_HOST` names it."""
    dockerd = Dockerd(Path(tempfile.mkdtemp(prefix="jsbd", dir="/tmp")))
    before = os.environ.get(daemon.HOST_VARIABLE)
    try:
        dockerd.start("--live-restore")
        dockerd.take_image()
        os.environ[daemon.HOST_VARIABLE] = dockerd.address
        yield dockerd
    finally:
        dockerd.close()
        os.environ.pop(daemon.HOST_VARIABLE, None)
        if before is not None:
            os.environ[daemon.HOST_VARIABLE] = before


class Counter:
    """A sandbox whose code counts."""

    def __init__(self, system: System) -> None:
        self._system = system
        made = system.request("POST", body={"template": "small"})
        assert made.status == 201, made
        self.id = made.body["id"]
        self._context = system.request("POST", self.id, "contexts", body={}).body["id"]
        self.said = 0
        self.count()

    def count(self) -> None:
        """One more; what was counted before is still there."""
        code = "n = globals().get('n', 0) + 1; print(n)"
        where = (self.id, "contexts", self._context, "executions")
        answer = self._system.request("POST", *where, body={"code": code, "timeout_s": 20})
        self.said += 1
        assert answer.body["outputs"][0]["text"] == f"{self.said}\n", answer


def refusal(system: System) -> Answer:
    """Claim until that is refused; release what was got."""
    got = []
    try:
        while True:
            began = time.monotonic()
            answer = system.request("POST", body={"template": "small"})
            if answer.status != 201:
                print(f"  a claim was refused after {time.monotonic() - began:.2f} s: {answer.body['message']}")
                return answer
            got.append(answer.body["id"])
    finally:
        for each in got:
            system.request("DELETE", each)


def outage(system: System, dockerd: Dockerd, number: signal.Signals) -> None:
    """End the engine, which restores what lives, and start it again: nobody who has a sandbox notices."""
    print(f"{number.name} with live-restore")
    counters = [Counter(system) for _ in range(SANDBOXES)]
    dockerd.end(number)
    for each in counters:
        each.count()
    refused = refusal(system)
    assert (refused.status, refused.code, (refused.retry_after or "").isdigit()) == (503, "engine_unavailable", True)
    dockerd.start("--live-restore")
    _claimable(system)
    for each in counters:
        each.count()
        assert system.request("DELETE", each.id).status == 204


def end_of_all(system: System, dockerd: Dockerd) -> None:
    """End an engine that takes its containers along: their owners are told, and new ones come when it is back."""
    print("SIGTERM without live-restore")
    dockerd.end(signal.SIGTERM)
    dockerd.start()
    _claimable(system)
    counters = [Counter(system) for _ in range(SANDBOXES)]
    dockerd.end(signal.SIGTERM)
    wait_until(lambda: not system.listed() & {each.id for each in counters}, BACK_S)
    for each in counters:
        gone = system.request("GET", each.id)
        assert (gone.status, gone.code) == (404, "unknown_sandbox"), gone
    told = [json.loads(line) for line in system.audit.read_text().splitlines()]
    ended = {event["sandbox_id"]: event["reason"] for event in told if "/sandbox_ended/" in event["__schema__"]}
    assert [ended[each.id] for each in counters] == ["lost"] * SANDBOXES
    dockerd.start()
    _claimable(system)


def _claimable(system: System) -> None:
    began = time.monotonic()
    wait_until(lambda: system.request("GET", "readyz").status == 200, BACK_S)

    def claimed() -> bool:
        made = system.request("POST", body={"template": "small"})
        return made.status == 201 and system.request("DELETE", made.body["id"]).status == 204

    wait_until(claimed, BACK_S)
    print(f"  a sandbox could be claimed {time.monotonic() - began:.1f} s after the engine was back")
