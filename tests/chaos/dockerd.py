"""A container engine of a test's own, which nobody else uses: it can be stopped and killed, and comes back.

The image of workers is taken from the engine that `DOCKER_HOST` names. Needs root and `dockerd`.
"""

from __future__ import annotations

import contextlib
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

RESTORES = "--live-restore"
START_S = 30
COPY_S = 300


class Dockerd:
    """A container engine in a directory of its own, started again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/socket"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = dict(os.environ)  # not that of a system whose clock is another

    def restart(self) -> None:
        """Kill it and start it again; it restores what lives."""
        self.end(signal.SIGKILL)
        self.start(RESTORES)

    def start(self, *options: str) -> None:
        """Start it and wait until it answers; what was killed needs a second start sometimes, as systemd gives it."""
        where = self.directory
        # It takes the bridge of other engines away when it wants none, so it gets a network of its own.
        command = ["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false", *options]
        command += ["--host", self.address, "--data-root", str(where / "data")]
        command += ["--exec-root", str(where / "exec"), "--pidfile", str(where / "pid")]
        for _ in range(3):
            with (where / "log").open("ab") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
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
        dockerd.start(RESTORES)
        dockerd.take_image()
        os.environ[daemon.HOST_VARIABLE] = dockerd.address
        yield dockerd
    finally:
        dockerd.close()
        os.environ.pop(daemon.HOST_VARIABLE, None)
        if before is not None:
            os.environ[daemon.HOST_VARIABLE] = before
