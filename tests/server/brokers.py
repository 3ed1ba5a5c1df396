"""A broker tree of a test suite's own, with templates that are small enough to fill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.errors import BrokerUnavailableError
from jupyter_sandbox.host import places
from tests.conftest import leftovers

TEMPLATES = {
    "small-memory": "min_idle = 0\n[limits]\nmemory_mib = 256\n",
    "small-disk": "min_idle = 0\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n",
    "many-processors": "min_idle = 0\n[limits]\ncpus = 512.0\n",
    "three-places": "min_idle = 0\nmax_total = 3\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n",
    "twenty-places": "min_idle = 2\nmax_total = 20\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n",
    "only-one": "min_idle = 0\nmax_total = 1\n[limits]\ndisk_mib = 64\n",
}


class Tree:
    """A directory with everything of one broker. Nothing here may rely on this process's own environment."""

    def __init__(self, engine: str | None = None) -> None:
        self.engine = engine or os.environ[ENGINE_VARIABLE]
        self.variables: dict[str, str] = {}
        self.arguments: list[str] = []
        self.recover_grace_s = 5  # of servers that tests kill nobody comes back
        self.directory = Path(tempfile.mkdtemp(prefix="jsbt", dir="/tmp"))
        self.directory.chmod(0o755)
        self.templates = self.directory / "templates"
        self.templates.mkdir()
        for name, text in TEMPLATES.items():
            (self.templates / f"{name}.toml").write_text(text)
        shared = self.directory / "shared"
        shared.mkdir()
        (shared / "set.csv").write_text("3,4")
        share = f'min_idle = 0\n[[shares]]\nsource = "{shared}"\ntarget = "/workspace/data"\n'
        (self.templates / "with-share.toml").write_text(share)
        self._keeper: socket.socket | None = None

    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this tree."""
        return (
            os.environ | {places.DIRECTORY_VARIABLE: str(self.directory), ENGINE_VARIABLE: self.engine} | self.variables
        )

    def start(self, *prefix: str) -> None:
        """Start a broker that knows our templates and does not go before `stop`, unless it is running."""
        if self._keeper is not None and self.pid() is not None:
            return
        self._forget()
        command = [*prefix, sys.executable, "-P", "-m", "jupyter_sandbox.broker", "--background"]
        command += ["--BrokerApp.idle_exit_s=0"]
        command += [f"--BrokerApp.recover_grace_s={self.recover_grace_s}"]
        command += [f"--BrokerApp.template_directories={self.templates}", *self.arguments]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        self._keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper.connect(str(next(self.directory.glob("*/broker"))))

    def pid(self) -> int | None:
        """The pid of the broker, by the lock that it holds."""
        locks = set()
        for lock in self.directory.glob("*/lock"):
            status = lock.stat()
            locks.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[5] in locks and int(fields[4]) > 0:  # never signal a group
                return int(fields[4])
        return None

    def kill_worker(self, sandbox: str) -> None:
        """Kill the pid 1 of a sandbox's worker, as a crash would."""
        (record,) = self.directory.glob(f"*/ledger/*{sandbox.removeprefix('sbx_')}*")
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)

    def log(self) -> str:
        """What the broker wrote."""
        return "".join(log.read_text() for log in self.directory.glob("*/broker.log"))

    def stop(self) -> None:
        """Stop the broker with everything that it owns; fails when something of it stays on this machine."""
        self._forget()
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 30
        while (self.pid() is not None or self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        left, log = self.leftovers(), self.log()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"the broker left {left}\n{log[-4000:]}"

    def leftovers(self) -> list[str]:
        """What on this machine still belongs to this tree."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(places.DIRECTORY_VARIABLE, str(self.directory))
            return leftovers(self.directory)

    def _forget(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()


async def sandboxes() -> list[verbs.Summary]:
    """The sandboxes that live in the tree that the environment names; none without a broker."""
    try:
        return list((await client.call(verbs.List(after=""), verbs.Listing, start=False)).sandboxes)
    except BrokerUnavailableError:
        return []


async def nothing_is_claimed(timeout_s: float = 20) -> None:
    """Wait until every sandbox has been given back."""
    left = None
    try:
        async with asyncio.timeout(timeout_s):
            while left := await sandboxes():  # noqa: ASYNC110 - another process has no event for it
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still claimed: {left}") from None
