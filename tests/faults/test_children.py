"""What the agent forks, in the moment between the fork and the program."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

AGENT = """
import os, signal, sys
from sandbox_worker import children
number = int(sys.argv[1])
signal.signal(number, signal.SIG_IGN)  # as the agent has it
fork = os.fork
def and_signal():
    pid = fork()
    if pid == 0: os.kill(os.getpid(), number)
    return pid
os.fork = and_signal
command = ["sh", "-c", "exit 7"]
process = children.fork({}, "/", lambda: children.execute(command, (0, 1, 2)), [])
_, status = os.waitpid(process.pid, 0)
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(), "the agent still hears"
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_comes_before_a_command_has_begun_is_not_lost(number):
    said = subprocess.run([sys.executable, "-c", AGENT, str(int(number))], text=True, capture_output=True, timeout=30)
    assert said.stdout == f"{-number}\n", said.stderr


def test_a_command_hears_every_signal():
    code = "from sandbox_worker import children\nimport os\nprocess = children.fork({}, '/', lambda: children.execute("
    code += "['sh', '-c', 'grep -E \"^Sig(Blk|Ign)\" /proc/self/status'], (0, 1, 2)), [])\nos.waitpid(process.pid, 0)\n"
    code += "print(os.read(process.output, 4096).decode())"
    said = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=30)
    masks = {name: int(mask, 16) for name, mask in (line.split(":") for line in said.stdout.splitlines() if line)}
    ours = ~(0b11 << 31)  # of 32 and 33 glibc makes what it likes: what posix_spawn starts, as make does, ignores 32
    assert {name: mask & ours for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}, said
