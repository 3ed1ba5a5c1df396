"""A sandbox that is claimed with less than its template's limits is held to that, and its siblings are not."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest

from jupyter_sandbox.broker import usage_verbs
from jupyter_sandbox.errors import ConflictError, InvalidRequestError
from sandbox_worker.protocol import AGENT_FILES
from tests.attacks.driver import call
from tests.conftest import wait_until
from tests.contract.test_recovery import reattach

LESS = {"memory_mib": 160, "cpus": 0.25, "processes": 48, "open_files": 100}
HOARD = "held = bytearray(200 << 20); print(len(held) >> 20)"
SPIN = """
import time
began, used = time.monotonic(), time.process_time()
while time.monotonic() - began < 2: pass
print((time.process_time() - used) / (time.monotonic() - began))
"""
CROWD = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0: time.sleep(60); os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(f'made {made};')
"""
OPEN = """
held = []
try:
    while True: held.append(open('/dev/null'))
except OSError as error:
    print(error.errno, len(held))
del held
"""


def said(box, code):
    return box.execute(code, 30)["out"].strip()


def used(box):
    return call(usage_verbs.GetUsage(sandbox=box.id), usage_verbs.UsageReport)


def test_clients_of_a_kernel_take_nothing_of_what_the_sandbox_may_open(broker, claim):
    """A connection is two files of the agent's: once it ended for want of them, and the sandbox with it."""
    box = claim(start=False, less={"open_files": 100})
    box.start(argv=["{python}", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--quiet"])
    assert said(box, "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))") == "(100, 100)"
    limits = Path(f"/proc/{broker.record(box.id)['pid']}/limits").read_text()
    assert re.search(rf"^Max open files +{AGENT_FILES} ", limits, re.MULTILINE), limits
    with contextlib.ExitStack() as held:
        for _ in range(60):
            held.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{box.prefix}-1")
        alive = said(box, "print('I ' + 'live')")  # the kernel itself has no file left for a new thread, and says so
        assert "I live" in alive, alive

    def opened() -> int:
        ended = re.search(r"^24 (\d+)$", said(box, OPEN), re.MULTILINE)  # around it, what it cannot do without files
        count = int(ended[1]) if ended else 0
        assert count < 100
        return count

    wait_until(opened)  # the kernel closes what is gone a little later


def test_each_limit_holds_and_siblings_have_theirs(broker, claim):
    box, sibling = claim(less=LESS), claim()
    report = used(box)
    assert (report.memory_total_bytes, report.cpus) == (160 << 20, 0.25)
    assert float(said(box, SPIN)) < 0.5
    error, opened = said(box, OPEN).split()
    assert (int(error), 0 < int(opened) < 100) == (24, True)
    made = re.search(r"made (\d+);", said(box, CROWD))  # around it, what Python says of forks beside threads
    assert 10 < int(made[1]) < 48
    box.submit(HOARD)
    end = box.end(30)
    assert (end["reason"], "160 MiB of memory" in end["message"]) == ("memory", True), end
    assert said(sibling, HOARD) == "200"


def test_lower_limits_outlive_the_broker(own_broker, claim):
    box = claim(less={"memory_mib": 160})
    own_broker.kill()
    own_broker.start()
    reattach(box)
    assert used(box).memory_total_bytes == 160 << 20
    box.submit(HOARD)
    assert "160 MiB of memory" in box.end(30)["message"]


@pytest.mark.parametrize(
    ("less", "kind", "words"),
    [
        ({"memory_mib": 1 << 20}, ConflictError, "memory_mib is 1048576, and template python allows at most"),
        ({"cpus": 64.5}, ConflictError, "cpus is 64.5, and template python allows at most"),
        ({"memory_mib": 1}, InvalidRequestError, "memory_mib is 1, and a kernel needs at least 64"),
        ({"cpus": float("nan")}, InvalidRequestError, "cpus is nan"),
        ({"processes": 0}, InvalidRequestError, "processes is 0"),
        ({"open_files": -1}, InvalidRequestError, "open_files is -1"),
    ],
)
def test_more_than_the_template_allows_or_too_little_is_refused(broker, claim, less, kind, words):
    before = broker.status().claimed
    with pytest.raises(kind, match=words):
        claim(less=less)
    assert broker.status().claimed == before
