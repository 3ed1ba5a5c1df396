"""What the attack tests share: brokers of our own, as root or not, and sandboxes to attack from."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.engines import daemon
from jupyter_sandbox.host import places

USER = 12345
STRANGER = 23456
ANSWER_TIMEOUT_S = 50  # below the limit of a test, whose fixtures would wait for ever
REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT_SECRET = "s3cret-of-the-server"
HOME_SECRET = "s3cret-of-the-home"

TINY = """
description = "Small, so that its limits are near"
preload = ["numpy.random", "multiprocessing.process", "ssl"]
min_idle = 1
[limits]
memory_mib = 256
cpus = 1.0
processes = 64
open_files = 256
disk_mib = 24
disk_inodes = 512
tmp_mib = 8
shm_mib = 4
"""

PRELUDE = r'''
import ctypes as _ctypes, errno as _errno, json as _json, os, socket, subprocess, sys, stat
_libc = _ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    """The error name of a system call, or its result."""
    _ctypes.set_errno(0)
    value = _libc.syscall(_ctypes.c_long(number), *[_ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return _errno.errorcode.get(_ctypes.get_errno(), str(_ctypes.get_errno())) if value == -1 else value
def attempt(function, *arguments, **keywords):
    """The error name of a Python call, or `done`; for text and numbers the value."""
    try:
        value = function(*arguments, **keywords)
    except OSError as error:
        return _errno.errorcode.get(error.errno, str(error))
    except BaseException as error:
        return type(error).__name__
    return value if isinstance(value, (str, int, list)) else "done"
def read(path, size=200000):
    with open(path, "rb") as file:
        return file.read(size).decode("latin-1")
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def shell(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=15)
    return done.stdout + done.stderr
def tell(value):
    print("<<<" + _json.dumps(value) + ">>>")
'''


class Refusal(Exception):
    """The client process got an error."""

    def __init__(self, answer):
        super().__init__(answer["error"])
        self.kind, self.code = answer["kind"], answer["code"]


class Host:
    """A user of this machine with a broker directory and a client process."""

    def __init__(
        self,
        uid: int,
        directory: Path,
        *,
        variables: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        config: str = "",
    ) -> None:
        """`prefix`: a command before the client's; `config`: text of the broker's configuration file."""
        self.uid, self.directory, self.prefix = uid, directory, prefix
        self.engine = os.environ[ENGINE_VARIABLE] if uid == 0 else "embedded"
        self.home = directory / "home"
        config_directory = directory / "config"
        (config_directory / "sandbox-templates").mkdir(parents=True)
        (config_directory / "sandbox-templates/tiny.toml").write_text(TINY)
        (config_directory / "jupyter_sandbox_config.py").write_text(config)
        self.home.mkdir()
        (self.home / ".ssh").mkdir(mode=0o700)
        (self.home / ".ssh/id_rsa").write_text(HOME_SECRET)
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, uid, uid)
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            "JUPYTER_CONFIG_DIR": str(config_directory),
            "JUPYTER_PLATFORM_DIRS": "1",
            "SECRET_TOKEN": ENVIRONMENT_SECRET,
            places.DIRECTORY_VARIABLE: str(directory),
            ENGINE_VARIABLE: self.engine,
            daemon.HOST_VARIABLE: daemon.address(),
            **(variables or {}),
        }
        self.process: subprocess.Popen[str] | None = None

    @property
    def is_privileged(self) -> bool:
        return self.uid == 0

    def become(self) -> list[str]:
        if self.is_privileged:
            return []
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--"]

    def run(self, order: str, /, **values):
        """Run code in the client process; return what it assigned to `result`. Raises Refusal."""
        if self.process is None:
            driver = str(Path(__file__).with_name("driver.py"))
            self.process = subprocess.Popen(
                [*self.prefix, *self.become(), sys.executable, driver],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.variables,
                cwd=self.directory,
            )
        self.process.stdin.write(json.dumps({"do": order, "with": values}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            self.process.kill()
        line = self.process.stdout.readline()
        if not line:
            self._forget_process()
            raise AssertionError("the client process died, or hung and was killed")
        answer = json.loads(line)
        if "error" in answer:
            raise Refusal(answer)
        return answer["result"]

    def sandbox(
        self, template="python", mode="none", directory=None, name=None, *, network=((), ()), start=True
    ) -> Sandbox:
        """Claim a sandbox and start a kernel in it; `network`: what is denied, and excepted from that."""
        number = self.run(
            "box = Sandbox(template, mode, directory, name, network); result = len(SANDBOXES) - 1",
            template=template,
            mode=mode,
            directory=directory and str(directory),
            name=name,
            network=network,
        )
        box = Sandbox(self, number)
        if start:
            box.start()
        return box

    def broker_pid(self) -> int:
        return self.run("result = call(verbs.Status(), verbs.StatusReport).pid")

    def socket_path(self) -> Path:
        """The socket of the broker that runs here."""
        return next(path / "broker" for path in self.directory.iterdir() if (path / "lock").exists())

    def stop(self) -> None:
        """Stop the broker, which destroys everything, and the client."""
        if self.process is not None:
            with contextlib.suppress(Refusal):
                pid = self.run("result = call(verbs.Status(), verbs.StatusReport, start=False).pid")
                os.kill(pid, 2)
                wait_until(lambda: not Path(f"/proc/{pid}").exists())
            self._forget_process()

    def leave(self) -> None:
        """End the client process and leave the broker to others."""
        if self.process is not None:
            self._forget_process()

    def _forget_process(self) -> None:
        process, self.process = self.process, None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


class Sandbox:
    """A sandbox in the client process, seen from a test."""

    def __init__(self, host: Host, number: int) -> None:
        self.host, self.number = host, number

    def do(self, expression: str, /, **values):
        """Evaluate `box.…` in the client process."""
        return self.host.run(f"box = SANDBOXES[box_number]; result = {expression}", box_number=self.number, **values)

    @property
    def id(self) -> str:
        return self.do("box.id")

    @property
    def cwd(self) -> str:
        return self.do("box.cwd")

    def start(self, argv=None, *, wait=True) -> None:
        self.do("box.start(argv, wait)", argv=argv, wait=wait)
        if wait and argv is None:
            assert self.execute(PRELUDE)["status"] == "ok"

    def execute(self, code: str, timeout: float = 20) -> dict[str, str]:
        return self.do("box.execute(code, timeout)", code=code, timeout=timeout)

    def submit(self, code: str) -> None:
        self.do("box.submit(code)", code=code)

    def probe(self, code: str, timeout: float = 20):
        """Run code that calls `tell(value)`; return the value."""
        reply = self.execute(code, timeout)
        assert "<<<" in reply["out"], reply
        return json.loads(reply["out"].rpartition("<<<")[2].partition(">>>")[0])

    def ask(self, expression: str):
        """The value of an expression inside."""
        return self.probe(f"tell({expression})")

    def command(self, *argv: str, terminal: bool = False) -> dict:
        return self.do("box.command(argv, terminal=terminal)", argv=list(argv), terminal=terminal)

    def file(self, operation: str, *arguments, **keywords):
        """What the files service answers in the client process. Raises Refusal."""
        return self.do(
            "box.file(operation, *arguments, **keywords)",
            operation=operation,
            arguments=list(arguments),
            keywords=keywords,
        )

    def end(self, timeout: float = 20) -> dict | None:
        return self.do("box.end(timeout)", timeout=timeout)

    def release(self) -> None:
        self.do("box.release()")


def make_host(uid: int, **kwargs) -> Host:
    directory = Path(tempfile.mkdtemp(prefix="jsba", dir="/tmp"))
    directory.chmod(0o755)
    return Host(uid, directory, **kwargs)


@contextlib.contextmanager
def running_host(uid: int, **kwargs):
    host = make_host(uid, **kwargs)
    try:
        yield host
    finally:
        host.stop()
        shutil.rmtree(host.directory, ignore_errors=True)


def wait_until(condition, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0
