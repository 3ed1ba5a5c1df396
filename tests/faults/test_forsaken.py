"""A real worker whose broker says nothing any more ends by itself, with all that runs in it, after twice its lease."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.conftest import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(120)]

LEASE_S = 2
"""Instead of 450 s: for broker, zygote and agents, which are the real ones otherwise."""
LATE_S = 20
"""On a machine with other work."""

BROKER = """
import runpy, sys
from sandbox_worker import protocol
protocol.LEASE_S = {lease_s}
sys.argv, sys.executable = ["jupyter_sandbox.broker"], {python!r}
runpy.run_module("jupyter_sandbox.broker", run_name="__main__", alter_sys=True)
"""
ZYGOTE = """#!{python} -P
import runpy
from sandbox_worker import protocol
protocol.LEASE_S = {lease_s}
runpy.run_module("sandbox_worker.zygote", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def worker(tree, tmp_path):
    """The pid of a claimed worker; its broker has a short lease."""
    python, broker = tmp_path / "python", tmp_path / "broker.py"
    python.write_text(ZYGOTE.format(python=sys.executable, lease_s=LEASE_S))
    python.chmod(0o755)
    broker.write_text(BROKER.format(python=str(python), lease_s=LEASE_S))
    tree.start(sys.executable, "-P", str(broker))
    _, sandbox = tree.client()
    return tree.records()[sandbox]["pid"]


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_whose_broker_stopped_or_died_ends_by_itself(tree, worker, number):
    healthy = time.monotonic()
    while time.monotonic() - healthy < 3 * LEASE_S:
        assert worker in tree.agents(), "it is renewed as long as its broker is well"
        time.sleep(0.1)
    broker, (client,) = tree.brokers[-1], tree.clients
    client.send_signal(signal.SIGSTOP)  # it neither gives the sandbox back nor starts another broker
    began = time.monotonic()
    os.kill(broker.pid, number)
    client.kill()
    try:
        wait_until(lambda: worker not in tree.agents(), 2 * LEASE_S + LATE_S)
        assert time.monotonic() - began > LEASE_S, "not as soon as its broker is silent"
        wait_until(lambda: tree.agents() == [], LATE_S)  # what is warm, too
    finally:
        if number == signal.SIGSTOP:
            broker.kill()
    tree.wait_for_end()
    wait_until(lambda: tree.processes() == [])
    tree.start()  # with what is left of files, mounts and loop devices
    wait_until(lambda: worker not in {record.get("pid") for record in tree.records().values()})
