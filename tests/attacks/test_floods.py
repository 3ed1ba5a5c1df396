"""Floods of one owner's kernel, while another owner works: what the server takes, and when the flood's own client has an end.

How much slower the other one is, is measured by `python -m benchmarks.noise`: a machine that runs tests is not quiet.
With root's broker only: what a kernel sends does not depend on the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.attacks import rest_world
from tests.attacks.rest_world import as_person, watched
from tests.server.notebook import V1, Notebook
from tests.tries import tries

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

DEADLINE_S = 5
SHOW = "from IPython.display import display\nfor _ in range({}): display({{'text/plain': 'x' * {}}}, raw=True)"
FLOODS = {
    "1 GB of text": "for _ in range(1000): print('x' * 1_000_000, flush=True)",
    "1 GB of text in lines": "for _ in range(10_000_000): print('x' * 100)",
    "500 MB of displays": SHOW.format(100, 5_000_000),
    "100 displays of 10 MB": SHOW.format(100, 10_000_000),
    "comms without end": "from comm import create_comm\nwhile True: create_comm(target_name='t', data={'x': 'x' * 100})",
}

STEADY = "import time\nwhile True: print('x' * 1_000_000, flush=True); time.sleep(0.01)"
"""Without a pause what nobody has taken yet fills the kernel's memory now and then, which ends it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The address of a server that waits 2 s for a websocket that takes nothing."""
    with rest_world.a_world(tmp_path_factory.mktemp("server"), "c.SandboxExtension.slow_reader_s = 2\n") as url:
        yield url


@contextlib.asynccontextmanager
async def beside(world):
    """Somebody else executes again and again while this is open, and must come to an end each time, at last once more."""
    bob = as_person(world, "bob")
    victim = await bob.context()
    assert await victim.printed("print(0)") == "0\n"
    count = 0

    async def work():
        nonlocal count
        while True:
            assert await victim.printed(f"print({count})") == f"{count}\n"
            count += 1

    working = asyncio.create_task(work())
    try:
        yield
        assert not working.done(), working.exception()
        assert count > 0
    finally:
        working.cancel()
        await asyncio.wait([working])
        assert (await bob.delete(victim.sandbox_id)).status == 204


@contextlib.asynccontextmanager
async def flooding(world):
    """A context of alice's whose sandbox has the memory for it."""
    alice = as_person(world, "alice")
    sandbox = await alice.claimed(template="attacker")
    context = await alice.context(sandbox["id"])
    await context.printed("1")
    try:
        yield context
    finally:
        assert (await alice.delete(sandbox["id"])).status == 204


@pytest.mark.parametrize("code", FLOODS.values(), ids=FLOODS)
async def test_a_flood_has_an_end_in_time_and_another_owner_works_meanwhile(world, code):
    for attempt in tries(DEADLINE_S + 1, at_most_s=6 * DEADLINE_S):
        async with flooding(world) as context, beside(world), watched(world, busy_s=float("inf")):
            with attempt:
                execution = await context.execute(code, timeout_s=DEADLINE_S)
        assert execution["outcome"] in {"ok", "timeout", "output_limit"}


@pytest.mark.parametrize("flood", ["1 GB of text", "100 displays of 10 MB"])
async def test_a_flood_of_events_that_nobody_reads_has_an_end_in_time(world, flood):
    """The client asks for events, and reads none."""
    for attempt in tries(DEADLINE_S + 1, at_most_s=6 * DEADLINE_S):
        async with flooding(world) as context, beside(world), watched(world, busy_s=float("inf")):
            await asked_for_events(world, context, FLOODS[flood], attempt)


async def asked_for_events(world, context, code, attempt):
    """Ask for the events of code, read none of them, and measure how long it runs."""
    address = urlsplit(world)
    body = json.dumps({"code": code, "timeout_s": DEADLINE_S}).encode()
    path = "/".join(("/api/sandboxes", *context.parts, "executions"))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\nAccept: application/x-ndjson\r\n"
    _, writer = await asyncio.open_connection(address.hostname, address.port, limit=4096)
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        with attempt:
            await until_executions(context, lambda found: found)
            await until_executions(context, lambda found: not found)
    finally:
        writer.close()


async def until_executions(context, is_it):
    """Wait for what is true of the executions that are not over."""
    async with asyncio.timeout(60):
        while not is_it((await context.rest.get(*context.parts, "executions")).body["executions"]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def opened(world, context):
    """The websocket of a context, as alice."""
    url = f"{world}api/kernels/{context.id}/channels".replace("http", "ws", 1)
    opening = HTTPRequest(url, headers={"Authorization": "token alice"})
    return Notebook(await websocket_connect(opening, subprotocols=[V1], max_message_size=64 << 20), V1)


async def test_text_without_end_goes_through_little_memory_to_who_reads_it(world):
    async with flooding(world) as context, watched(world, busy_s=float("inf")):
        notebook = await opened(world, context)
        await notebook.answers()
        running = notebook.start(STEADY)
        got = 0

        async def read():
            nonlocal got
            while True:
                got += len(await notebook._websocket.read_message())  # the notebook itself would keep all of them

        reading = asyncio.create_task(read())  # also while the other one ends: who reads nothing for 2 s is hung up on
        async with beside(world):
            await asyncio.sleep(DEADLINE_S)
        reading.cancel()
        assert got > 1_000_000
        assert (await context.rest.post(*context.parts, "interrupt")).status == 204
        assert (await notebook.finish(running)).reply["ename"] == "KeyboardInterrupt"
        await notebook.closed()


@pytest.mark.parametrize("size", [10_000_000, 8_000_000, 5_000_000], ids=["10 MB", "8 MB", "5 MB"])
async def test_a_hundred_large_messages_to_a_websocket_that_is_not_read_take_little_memory(world, size):
    """Those of 10 MB are above the limit of one message, the others below, which wait until it is hung up on."""
    async with flooding(world) as context:
        notebook = await opened(world, context)
        await notebook.answers()
        async with watched(world, busy_s=float("inf")):
            running = notebook.start(SHOW.format(100, size))
            async with beside(world):
                await asyncio.sleep(DEADLINE_S)
        if size < 8 << 20:
            with pytest.raises(AssertionError, match="closed"):
                await notebook.finish(running)
        else:
            assert (await notebook.finish(running)).status == "ok"
        again = await opened(world, context)
        await again.answers()
        assert (await again.execute("6 * 7")).value == "42"
        await again.closed()
        await notebook.closed()
