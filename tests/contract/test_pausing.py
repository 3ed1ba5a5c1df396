"""A paused sandbox keeps its files, memory and processes and runs nothing, whatever made its worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import SandboxPausedError, UnknownSandboxError
from tests.conftest import wait_until

COUNTER = """
import threading, time
counted = 0
def count():
    global counted
    while True:
        counted += 1
        time.sleep(0.001)
threading.Thread(target=count, daemon=True).start()
"""


def pause(box):
    asyncio.run(box.lease.pause())


def resume(box):
    asyncio.run(box.lease.resume())


def said(box, code):
    reply = box.execute(code)
    assert reply["status"] == "ok", reply
    return reply["out"].strip()


def used(pid):
    """The processor time of a process, clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def kernel_of(broker, box):
    """The host pid of a kernel: the largest process beside its agent."""
    namespace = os.readlink(f"/proc/{broker.record(box.id)['pid']}/ns/pid")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append((int(Path(f"/proc/{pid}/statm").read_text().split()[1]), int(pid)))
        except OSError:
            continue
    return max(found)[1]


def test_everything_is_as_it_was_when_a_sandbox_is_resumed(broker, claim):
    box = claim()
    said(box, "kept = 41\nopen('/sandbox/file', 'w').write('text')")
    said(box, COUNTER)
    pause(box)
    assert box.row().paused
    assert broker.record(box.id)["paused"]
    pid = kernel_of(broker, box)
    before = used(pid)
    assert box.execute("kept", timeout=1)["status"] == "timeout"
    assert used(pid) == before
    resume(box)
    assert not box.row().paused
    assert not broker.record(box.id)["paused"]
    assert said(box, "print(kept + 1, open('/sandbox/file').read(), counted > 0)") == "42 text True"
    first = int(said(box, "print(counted)"))
    wait_until(lambda: int(said(box, "print(counted)")) > first)


def test_pausing_and_resuming_twice_is_quiet(broker, claim):
    box = claim()
    for change in (resume, pause, pause, resume, resume):
        change(box)
    assert said(box, "print(1)") == "1"


def test_what_needs_a_process_of_a_paused_sandbox_is_refused_at_once(broker, claim):
    box = claim()
    pause(box)
    began = time.monotonic()
    kernel = verbs.StartKernel(sandbox=box.id, seat="0" * 12, argv=None, env={}, cwd=None, key="k")
    for ask in (
        lambda: box.command(["true"]),
        lambda: box.signal(signal.SIGINT),
        lambda: asyncio.run(client.call(kernel, verbs.KernelStarted)),
        lambda: asyncio.run(client.call(verbs.ReadLog(sandbox=box.id, kernel=box.seat), verbs.Log)),
    ):
        with pytest.raises(SandboxPausedError, match=f"{box.id} is paused"):
            ask()
    assert time.monotonic() - began < 5
    assert "0" * 12 not in broker.record(box.id)["seats"]


def test_files_of_a_paused_sandbox_are_read_and_written_from_the_host(broker, claim):
    box = claim()
    said(box, "open('/sandbox/inside', 'w').write('inside')")
    pause(box)
    assert box.file("reading", "/sandbox/inside") == "inside"
    box.file("write", "/sandbox/outside", "outside")
    resume(box)
    assert said(box, "print(open('/sandbox/outside').read())") == "outside"


def test_a_command_that_runs_is_paused_and_goes_on(broker, claim):
    box = claim()

    waits = "echo begun > /sandbox/begun; until [ -e /sandbox/go ]; do sleep 0.01; done; echo done"

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(box.command, ["sh", "-c", waits])
        wait_until(lambda: exists(box, "begun"))
        pause(box)
        box.file("write", "/sandbox/go", "")
        with pytest.raises(TimeoutError):
            running.result(0.5)
        resume(box)
        assert running.result(20) == {"status": 0, "out": "done\n"}


def exists(box, name):
    directory = box.disk()
    try:
        return name in os.listdir(directory)
    finally:
        os.close(directory)


def test_a_kernel_that_is_killed_while_it_is_paused_ends_when_it_is_resumed(broker, claim):
    box = claim()
    pause(box)
    box.signal(signal.SIGKILL)
    assert box.end(timeout=0.5) is None
    resume(box)
    assert box.end()["reason"] == "requested"


def test_a_paused_sandbox_ends_at_once_and_leaves_nothing(broker, claim):
    box = claim()
    said(box, COUNTER)
    pid = broker.record(box.id)["pid"]
    pause(box)
    began = time.monotonic()
    box.release()
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{pid}").exists()
    assert box.id not in broker.listed()
    assert broker.reap() == ()


def test_a_paused_sandbox_whose_client_dies_is_destroyed(broker, claim):
    box = claim()
    pid = broker.record(box.id)["pid"]
    pause(box)
    box.lease.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_a_paused_worker_that_is_killed_is_lost_when_it_is_resumed(broker, claim):
    box = claim()
    pause(box)
    broker.kill_worker(box.id)
    with contextlib.suppress(UnknownSandboxError):  # with control groups of version 2 it is lost at once
        resume(box)
    assert box.end()["reason"] == "lost"


def test_a_sandbox_is_still_paused_when_its_broker_was_killed(own_broker, claim):
    box = claim()
    said(box, f"kept = 1\n{COUNTER}")
    pause(box)
    own_broker.kill()
    assert box.execute("kept", timeout=0.5)["status"] == "timeout"
    own_broker.start()
    box.lease.listen()
    asyncio.run(box.lease.reattach())
    assert box.lease.loss is None
    assert box.lease.is_paused
    assert box.row().paused
    assert own_broker.reap() == ()
    pid = kernel_of(own_broker, box)
    before = used(pid)
    assert box.execute("kept", timeout=1)["status"] == "timeout"
    assert used(pid) == before
    resume(box)
    assert said(box, "print(kept)") == "1"


def test_a_paused_sandbox_that_nobody_attaches_to_again_is_destroyed(own_broker, claim):
    box = claim()
    pid = own_broker.record(box.id)["pid"]
    pause(box)
    own_broker.kill()
    own_broker.recover_grace_s = 1
    own_broker.start()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 15)
    assert own_broker.reap() == ()


def test_a_broker_that_is_interrupted_takes_what_is_paused_along(own_broker, claim):
    box = claim()
    pid = own_broker.record(box.id)["pid"]
    pause(box)
    os.kill(own_broker.pid(), signal.SIGINT)
    wait_until(lambda: own_broker.pid() is None)
    assert not Path(f"/proc/{pid}").exists()
    assert own_broker.leftovers() == []
