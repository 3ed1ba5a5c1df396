"""Streams of E2B's protocols in which nothing happens say that they are still there, as often as is asked, within reason."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from jupyter_sandbox.surfaces.e2b.process import KEEPALIVE_S as USUAL_S
from tests.attacks.e2b_calls import STREAM, UNARY, allowed, envelope, envelopes
from tests.server.raw_http import opened, received

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

STREAMS = {
    "Start": ("process.Process/Start", {"process": {"cmd": "/bin/sleep", "args": ["1000"]}}),
    "Connect": ("process.Process/Connect", {"process": {"tag": "sleeper"}}),
    "WatchDir": ("filesystem.Filesystem/WatchDir", {"path": "."}),
}
SLEEPER = {"process": {"cmd": "/bin/sleep", "args": ["1000"]}, "tag": "sleeper"}
EVERY_SECOND = {"Keepalive-Ping-Interval": "1"}
EVERY_MOMENT = {"Keepalive-Ping-Interval": "0"}


@contextlib.asynccontextmanager
async def streaming(world, box, method, message, headers):
    body = envelope(message)
    fields = allowed(box, STREAM, {"Content-Length": str(len(body))}, headers)
    reader, writer = await opened(world, "POST", f"/e2b/sbx/{method}", fields)
    writer.write(body)
    try:
        async with contextlib.aclosing(envelopes(reader)) as told:
            yield told
    finally:
        writer.close()


@pytest.mark.parametrize("headers", [EVERY_SECOND, EVERY_MOMENT], ids=["every second", "as often as can be"])
@pytest.mark.parametrize("kind", STREAMS)
async def test_a_silent_stream_says_that_it_is_there_as_often_as_is_asked(world, make, jp_asyncio_loop, kind, headers):
    box, (method, message) = await make("alice"), STREAMS[kind]
    async with streaming(world, box, "process.Process/Start", SLEEPER, {}) as sleeper:
        await anext(sleeper)
        began = jp_asyncio_loop.time()
        async with streaming(world, box, method, message, headers) as told:
            found = [await anext(told)]
            async with asyncio.timeout(USUAL_S - 1):
                found += [await anext(told) for _ in range(2)]
            took_s = jp_asyncio_loop.time() - began
    assert [next(iter(each.get("event", each))) for _, each in found] == ["start", "keepalive", "keepalive"]
    assert took_s > 1.5, "nobody gets more than one a second"


async def test_an_execution_that_says_nothing_is_told_to_go_on_every_five_seconds(world, make):
    box = await make("alice")
    body = json.dumps({"code": "import time; time.sleep(6)"}).encode()
    fields = allowed(box, UNARY, {"Content-Length": str(len(body))})
    reader, writer = await opened(world, "POST", "/e2b/sbx/execute", fields)
    writer.write(body)
    raw = await received(reader, writer)
    assert raw.body.count(b'{"type":"keepalive"}\n') >= 1
