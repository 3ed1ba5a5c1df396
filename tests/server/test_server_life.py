"""A server's beginning and end: what it holds while it lives, and what is left when it stops or is killed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client
from tests.conftest import eventually, stop_broker
from tests.server.brokers import nothing_is_claimed, sandboxes
from tests.server.server_process import a_server, request
from tests.server.ticker import Ticker
from tests.tries import tries

KERNELS = 5
BLOCKED_S = 0.1


async def test_a_stopped_server_leaves_no_sandbox_and_no_broker(own_tree, jp_serverapp, new_notebook):
    notebook = await new_notebook()
    await notebook.run("1")
    assert own_tree.pid() is not None
    await jp_serverapp._cleanup()
    await eventually(lambda: own_tree.pid() is None, timeout_s=30)
    assert own_tree.leftovers() == []


async def test_a_server_that_never_started_a_kernel_lets_its_broker_go(own_tree, jp_serverapp):
    await jp_serverapp.extension_manager.start_all_extensions()
    await eventually(lambda: "serves with engine" in own_tree.log(), timeout_s=30)
    await jp_serverapp._cleanup()
    await eventually(lambda: own_tree.pid() is None, timeout_s=30)
    assert own_tree.leftovers() == []


async def test_a_server_that_stops_while_its_broker_starts_is_not_held_up(
    own_tree, jp_config_dir, jp_serverapp, monkeypatch
):
    """A broker that serves too late to be told to go, goes because nobody needs it."""
    (jp_config_dir / "jupyter_sandbox_config.py").write_text("c.BrokerApp.idle_exit_s = 4\n")
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: complaints.append(str(unraisable.exc_value)))
    await jp_serverapp.extension_manager.start_all_extensions()
    await asyncio.sleep(0.05)  # enough to start its process, not enough for it to serve
    async with asyncio.timeout(20):  # a broker has a minute to start
        await jp_serverapp._cleanup()
    gc.collect()  # a forgotten child process is a ResourceWarning, and warnings are errors
    assert [complaint for complaint in complaints if "subprocess" in complaint] == []
    await eventually(lambda: own_tree.pid() is None, timeout_s=30)


async def test_a_broker_and_the_next_one_stay_as_long_as_their_server(
    own_tree, jp_config_dir, jp_serverapp, monkeypatch
):
    """Its warm workers with it: who comes after a quiet minute does not wait for a new broker."""
    monkeypatch.setattr("jupyter_sandbox.broker_presence._LOOK_S", 0.1)
    (jp_config_dir / "jupyter_sandbox_config.py").write_text("c.BrokerApp.idle_exit_s = 1\n")
    await jp_serverapp.extension_manager.start_all_extensions()
    await eventually(lambda: "serves with engine" in own_tree.log(), timeout_s=30)
    first = own_tree.pid()
    await asyncio.sleep(4)
    assert own_tree.pid() == first is not None
    stop_broker()
    await asyncio.sleep(1)
    assert own_tree.pid() is None  # to look for one starts none
    (await client.Lease.claim("python", "none", "", None)).close()
    second = own_tree.pid()
    await asyncio.sleep(4)
    assert own_tree.pid() == second is not None
    await jp_serverapp._cleanup()
    await eventually(lambda: own_tree.pid() is None, timeout_s=30)


async def test_a_stopping_server_leaves_the_sandboxes_of_others(tree, jp_serverapp, new_notebook):
    lease = await client.Lease.claim("python", "none", "", None)
    try:
        await (await new_notebook()).run("1")
        await jp_serverapp._cleanup()
        assert [sandbox.sandbox for sandbox in await sandboxes()] == [lease.sandbox]
    finally:
        lease.close()


async def test_the_ticker_sees_a_blocked_loop():
    async with Ticker() as ticker:
        await asyncio.sleep(0.02)
        time.sleep(2)
        await asyncio.sleep(0.02)
    assert ticker.longest_block_s() > BLOCKED_S


@pytest.mark.timeout(180)
async def test_starting_kernels_does_not_block_the_servers_loop(jp_fetch, start_kernel, open_notebook):
    await start_kernel()  # imports and caches are paid for
    for attempt in tries(BLOCKED_S):
        async with Ticker() as ticker:
            kernel_ids = await asyncio.gather(*(start_kernel() for _ in range(KERNELS)))
            notebooks = await asyncio.gather(*(open_notebook(kernel_id) for kernel_id in kernel_ids))
            said = await asyncio.gather(*(notebook.run("print('here')") for notebook in notebooks))
            await asyncio.gather(*(jp_fetch("api", "kernels", kernel_id, method="DELETE") for kernel_id in kernel_ids))
        assert said == ["here\n"] * KERNELS
        attempt.took_s = ticker.longest_block_s()


def worker_of(tree, sandbox: str) -> int:
    """The pid 1 of a sandbox's worker."""
    (record,) = tree.directory.glob(f"*/ledger/*{sandbox.removeprefix('sbx_')}*")
    return json.loads(record.read_text())["pid"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_server_that_ends_frees_its_sandboxes(tree, tmp_path, number):
    """At once when it is told to end, after `recover_grace_s` when it could come back."""
    with a_server(tree, tmp_path) as (process, url):
        for _ in range(2):
            await request(f"{url}api/kernels", "POST", {"name": "sandbox-python"})
        living = await sandboxes()
        workers = [worker_of(tree, sandbox.sandbox) for sandbox in living]
        assert len(workers) == 2
        process.send_signal(number)
        if number == signal.SIGINT:
            process.send_signal(number)  # the second is the answer to `Shut down this Jupyter server (y/[n])?`
        await nothing_is_claimed()
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        await eventually(lambda: process.poll() is not None)


INTERRUPTER = """
import os, signal
from tornado import web

@web.stream_request_body
class Interrupter(web.RequestHandler):
    def check_xsrf_cookie(self):
        pass

    def data_received(self, chunk):
        os.kill(os.getpid(), signal.SIGINT)

    def post(self):
        self.finish("{}")

def _load_jupyter_server_extension(server):
    server.web_app.add_handlers(".*", [(server.base_url + "interrupter", Interrupter)])
"""


async def test_a_server_that_is_interrupted_while_it_reads_a_request_ends(tree, tmp_path):
    """Once: without a terminal the interrupt was logged as a failure of the request, and the server went on for ever."""
    (tmp_path / "interrupter.py").write_text(INTERRUPTER)
    with a_server(tree, tmp_path, "--ServerApp.jpserver_extensions=interrupter=True") as (process, url):
        await request(f"{url}api/kernels", "POST", {"name": "sandbox-python"})
        with contextlib.suppress(Exception):  # it may be gone before it answers
            await request(f"{url}interrupter", "POST", {"name": "x"})
        await nothing_is_claimed()
        await eventually(lambda: process.poll() is not None)


async def test_a_server_started_by_an_operator_says_that_sandboxes_are_ready(tree, tmp_path):
    with a_server(tree, tmp_path) as (process, url):
        assert "sandbox-python" in (await request(f"{url}api/kernelspecs"))["kernelspecs"]
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read().decode()
    assert re.search(r"Sandbox kernels are ready \(engine \w+, broker pid ", said)
    assert "Traceback" not in said
