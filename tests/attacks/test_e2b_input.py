"""Streams of input of E2B's protocols, from clients that send too much, too slowly, nonsense, or no end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct

import pytest

from jupyter_sandbox.surfaces.e2b.inputs import MAX_STREAMS
from jupyter_sandbox.web import MAX_BODY_BYTES
from tests.attacks.e2b_calls import STREAM, UNARY, allowed, ask, chunk, envelope, running
from tests.attacks.rest_world import watched
from tests.server.raw_http import opened, received

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PATH = "e2b/sbx/process.Process/StreamInput"
CHUNKED = STREAM | {"Transfer-Encoding": "chunked"}
KEEPALIVE = envelope({"keepalive": {}})
NO_PID = 999_999_999


def start(pid) -> bytes:
    return envelope({"start": {"process": {"pid": pid}}})


def data(text: bytes) -> bytes:
    return envelope({"data": {"input": {"stdin": base64.b64encode(text).decode()}}})


def told(body: bytes) -> list[tuple[int, dict]]:
    """The flags and messages of a whole answer."""
    found = []
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        assert len(body) >= 5 + size
        found.append((flags, json.loads(body[5 : 5 + size])))
        body = body[5 + size :]
    return found


ALL_IS_WELL = [(0, {}), (2, {})]


def code(body: bytes) -> str:
    ((flags, message),) = told(body)
    assert flags == 2
    return message["error"]["code"]


@contextlib.asynccontextmanager
async def streaming(world, box):
    """An open stream of input; its client hangs up in the end."""
    reader, writer = await opened(world, "POST", f"/{PATH}", allowed(box, CHUNKED))
    try:
        yield reader, writer
    finally:
        writer.close()


async def sent(world, box, *bodies) -> bytes:
    """The body of the answer to a whole stream."""
    async with streaming(world, box) as (reader, writer):
        for body in bodies:
            writer.write(chunk(body))
        writer.write(chunk(b""))
        return (await received(reader, writer)).body


async def pids(world, box):
    listed = await ask(world, "POST", "e2b/sbx/process.Process/List", allowed(box, UNARY), b"{}")
    return [each["pid"] for each in json.loads(listed.body)["processes"]]


BAD = {
    "nothing": (b"", "invalid_argument"),
    "data first": (data(b"x"), "invalid_argument"),
    "a sign of life first": (KEEPALIVE + data(b"x"), "invalid_argument"),
    "no command": (envelope({"start": {}}), "not_found"),
    "a command that is none": (envelope({"start": {"process": "x"}}), "not_found"),
    "a command that is not there": (start(NO_PID) + data(b"x"), "not_found"),
    "a tag that nothing has": (envelope({"start": {"process": {"tag": "x"}}}), "not_found"),
    "a start that is none": (envelope({"start": []}), "invalid_argument"),
    "no message": (envelope({}), "invalid_argument"),
    "no json": (envelope(b"{"), "invalid_argument"),
    "no object": (envelope(b"[]"), "invalid_argument"),
    "deep": (envelope(b'{"start": ' + b"[" * 50_000), "invalid_argument"),
    "cut in its head": (b"\0\0", "invalid_argument"),
    "cut in its message": (start(NO_PID)[:-1], "invalid_argument"),
    "packed": (envelope({"start": {}}, 1), "invalid_argument"),
    "an end": (envelope({}, 2), "invalid_argument"),
    "flags that there are not": (envelope({"start": {}}, 0x80), "invalid_argument"),
    "four gigabytes": (b"\0\xff\xff\xff\xff", "resource_exhausted"),
    "one byte too many": (struct.pack(">BI", 0, MAX_BODY_BYTES + 1), "resource_exhausted"),
}
BAD_LATER = {
    "a second start": (start, "invalid_argument"),
    "two things in one": (
        lambda pid: envelope({"start": {"process": {"pid": pid}}, "keepalive": {}}),
        "invalid_argument",
    ),
    "no base64": (lambda _: envelope({"data": {"input": {"stdin": "\u00e9"}}}), "invalid_argument"),
    "data that is none": (lambda _: envelope({"data": "x"}), "invalid_argument"),
    "packed": (lambda _: envelope({"keepalive": {}}, 1), "invalid_argument"),
    "an end": (lambda _: envelope({}, 2), "invalid_argument"),
    "cut": (lambda _: data(b"x")[:-1], "invalid_argument"),
    "four gigabytes": (lambda _: b"\0\xff\xff\xff\xff", "resource_exhausted"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_stream_that_is_none_reaches_no_command(world, make, case):
    box = await make("alice")
    body, expected = BAD[case]
    async with watched(world, busy_s=0.5):
        assert code(await sent(world, box, body)) == expected


async def test_what_goes_wrong_later_ends_the_stream_and_nothing_else(world, make):
    box = await make("alice")
    async with running(world, box, "cat") as cat:
        for case, (bad, expected) in BAD_LATER.items():
            answer = await sent(world, box, start(cat.pid), data(b"right\n"), bad(cat.pid), data(b"wrong\n"))
            assert (case, code(answer)) == (case, expected)
            assert await cat.says() == b"right\n"
        assert told(await sent(world, box, start(cat.pid), data(b"last\n"))) == ALL_IS_WELL
        assert await cat.says() == b"last\n"


async def test_only_commands_of_the_sandbox_are_fed(world, make):
    box, other = await make("alice"), await make("bob")
    async with running(world, box, "cat") as cat:
        assert code(await sent(world, other, start(cat.pid), data(b"x"))) == "not_found"
        assert told(await sent(world, box, start(cat.pid), data(b"mine"))) == ALL_IS_WELL
        assert await cat.says() == b"mine"


async def test_a_stream_that_comes_byte_by_byte_is_one(world, make):
    box = await make("alice")
    async with running(world, box, "cat") as cat:
        body = start(cat.pid) + KEEPALIVE + data(b"slow") + KEEPALIVE
        assert told(await sent(world, box, *(body[at : at + 1] for at in range(len(body))))) == ALL_IS_WELL
        assert await cat.says() == b"slow"


async def test_who_is_refused_hears_that_while_he_sends_and_is_hung_up_on(world, make):
    box = await make("alice")
    async with streaming(world, box) as (reader, writer):
        writer.write(chunk(start(NO_PID)))
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        assert code(await reader.readexactly(size)) == "not_found"
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_who_sends_all_before_he_listens_hears_why_it_was_refused(world, make):
    box = await make("alice")
    async with streaming(world, box) as (reader, writer):
        writer.write(chunk(start(NO_PID)))
        for _ in range(32):
            writer.write(chunk(data(bytes(1 << 18))))
            await writer.drain()
        writer.write(chunk(b""))
        assert code((await received(reader, writer)).body) == "not_found"


async def test_a_million_signs_of_life_do_not_hold_up_the_loop(world, make):
    box = await make("alice")
    async with running(world, box, "cat") as cat, watched(world):
        answer = await sent(world, box, start(cat.pid), *[KEEPALIVE * 10_000] * 20, data(b"then"))
        assert told(answer) == ALL_IS_WELL
        assert await cat.says() == b"then"


async def test_a_command_that_does_not_read_makes_its_client_wait_and_costs_no_memory(world, make):
    box = await make("alice")
    async with running(world, box, "sleep 1000") as sleeper, streaming(world, box) as (_, writer), watched(world):
        writer.write(chunk(start(sleeper.pid)))
        piece, count = chunk(data(bytes(1 << 20))), 0
        with contextlib.suppress(TimeoutError):
            while count < 200:
                writer.write(piece)
                async with asyncio.timeout(2):
                    await writer.drain()
                count += 1
        assert count < 200
        other = json.dumps({"process": {"pid": sleeper.pid}, "input": {"stdin": "eA=="}})
        refused = await ask(world, "POST", "e2b/sbx/process.Process/SendInput", allowed(box, UNARY), other)
        assert refused.code == 429
        writer.transport.abort()
    assert await pids(world, box) == [sleeper.pid]


async def test_who_hangs_up_ends_his_stream_alone_and_gives_its_place_back(world, make):
    box = await make("alice")
    async with running(world, box, "cat") as cat:
        async with contextlib.AsyncExitStack() as held:
            for number in range(MAX_STREAMS):
                _, writer = await held.enter_async_context(streaming(world, box))
                writer.write(chunk(start(cat.pid) + data(b"%d" % number)))
                assert await cat.says() == b"%d" % number
            assert code(await sent(world, box, start(cat.pid))) == "resource_exhausted"
        async with asyncio.timeout(20):
            while (answer := told(await sent(world, box, start(cat.pid), data(b"again")))) != ALL_IS_WELL:
                assert answer[0][1]["error"]["code"] == "resource_exhausted"
        assert await cat.says() == b"again"
    assert await pids(world, box) == [cat.pid]


async def test_a_stream_ends_at_the_time_that_its_client_gave(world, make):
    box = await make("alice")
    headers = allowed(box, CHUNKED, {"Connect-Timeout-Ms": "300"})
    async with running(world, box, "cat") as cat:
        reader, writer = await opened(world, "POST", f"/{PATH}", headers)
        writer.write(chunk(start(cat.pid)))
        assert code((await received(reader, writer)).body) == "deadline_exceeded"
    assert await pids(world, box) == [cat.pid]


async def test_a_paused_command_is_fed_nothing(world, make):
    box = await make("alice")
    path, key = f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"} | UNARY
    async with running(world, box, "cat") as cat, streaming(world, box) as (reader, writer):
        writer.write(chunk(start(cat.pid) + data(b"before")))
        assert await cat.says() == b"before"
        assert (await ask(world, "POST", f"{path}/pause", key, b"{}")).code == 204
        writer.write(chunk(data(b"meanwhile")) + chunk(b""))
        assert code((await received(reader, writer)).body) == "unavailable"
        assert (await ask(world, "POST", f"{path}/resume", key, b"{}")).code == 201
        assert told(await sent(world, box, start(cat.pid), data(b"after"))) == ALL_IS_WELL
        assert await cat.says() == b"after"


async def test_what_is_no_stream_is_no_stream_of_input(world, make):
    box = await make("alice")
    for kind in (UNARY, {"Content-Type": "application/connect+proto"}, {}):
        assert (await ask(world, "POST", PATH, allowed(box, kind), b"{}")).code == 415
