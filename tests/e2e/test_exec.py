"""`jupyter sandbox exec`: a command in a sandbox as if it ran here, with pipes and at a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from jupyter_sandbox.broker import client
from tests.conftest import wait_until
from tests.server.brokers import nothing_is_claimed

COMMAND = (sys.executable, "-m", "jupyter_sandbox.cli")


def cli(*arguments, **kwargs):
    options = {"timeout": 90, "text": True, "capture_output": True, "check": False} | kwargs
    return subprocess.run([*COMMAND, *arguments], **options)


@pytest.fixture(scope="module")
def kept(tree):
    """A sandbox for all cases."""
    lease = asyncio.run(client.Lease.claim("python", "none", "", None))
    yield lease.sandbox
    lease.close()
    asyncio.run(nothing_is_claimed())


def test_it_passes_streams_and_status_on(kept):
    done = cli("exec", "-i", kept, "--", "sh", "-c", "cat; echo no >&2; exit 3", input="typed")
    assert (done.returncode, done.stdout, done.stderr) == (3, "typed", "no\n")


def test_it_without_input_reads_nothing_of_ours(kept):
    done = cli("exec", kept, "-e", "WORD=a b", "--cwd", "/tmp", "--", "sh", "-c", "cat; pwd; echo $WORD", input="typed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "/tmp\na b\n", "")


def test_it_carries_bytes_as_they_are(kept):
    data = bytes(range(256)) * 20_000
    done = cli("exec", "-i", kept, "--", "cat", input=data, text=False)
    assert (done.returncode, done.stdout == data) == (0, True)


@pytest.mark.parametrize(
    ("argv", "status"), [(["sh", "-c", "kill -TERM $$"], 128 + 15), (["no-such-program"], 127), (["true"], 0)]
)
def test_it_ends_as_shells_end(kept, argv, status):
    assert cli("exec", kept, "--", *argv).returncode == status


def test_a_sandbox_that_is_none_is_told(kept):
    done = cli("exec", "sbx_" + "0" * 20, "--", "true")
    assert (done.returncode, done.stderr) == (1, f"jupyter sandbox exec: no sandbox sbx_{'0' * 20}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_passes_ctrl_c_on_and_ends_its_command_with_itself(kept, number, status):
    argv = (*COMMAND, "exec", kept, "--", "sh", "-c", "echo up; exec sleep 1000")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stderr.read() == b""
    wait_until(lambda: "sleep" not in cli("exec", kept, "--", "sh", "-c", "cat /proc/[0-9]*/comm").stdout)


def test_it_ends_when_nobody_reads_its_output(kept):
    line = f"{' '.join(COMMAND)} exec {kept} -- yes | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("y\n", "")


class Person:
    """At a terminal of their own."""

    def __init__(self, *argv: str) -> None:
        self.screen, inner = pty.openpty()
        self.before = termios.tcgetattr(inner)
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.inner = inner
        self.process = subprocess.Popen(
            [*COMMAND, *argv], stdin=inner, stdout=inner, stderr=inner, start_new_session=True
        )
        self.seen = ""

    def sees(self, words: str) -> None:
        deadline = time.monotonic() + 30
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.screen], [], [], 0.1)[0]:
                self.seen += os.read(self.screen, 65536).decode()
        self.seen = self.seen.partition(words)[2]

    def types(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def resizes(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def leaves(self) -> int:
        status = self.process.wait(20)
        assert termios.tcgetattr(self.inner) == self.before, "the terminal is as it was"
        os.close(self.screen)
        os.close(self.inner)
        return status


def test_at_a_terminal_it_has_a_terminal(kept):
    person = Person(
        "exec",
        "-t",
        kept,
        "--",
        "sh",
        "-c",
        "stty size; trap 'stty size' WINCH; while :; do read x && echo got $x; done",
    )
    person.sees("30 100\r\n")
    person.types("words\r")
    person.sees("got words\r\n")
    person.resizes(7, 33)
    person.types("\r")
    person.sees("7 33\r\n")
    person.types("\x03")
    assert person.leaves() == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_a_signal_it_leaves_the_terminal_as_it_was(kept, number):
    person = Person("exec", "-t", kept, "--", "sh", "-c", "echo up; exec sleep 1000")
    person.sees("up")
    assert termios.tcgetattr(person.inner) != person.before
    person.process.send_signal(number)
    assert person.leaves() == 128 + number
