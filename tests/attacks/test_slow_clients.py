"""Clients that take nothing of their answers, or send their requests a byte at a time.

The server waits 2 s for them instead of a minute. With root's broker only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.attacks import e2b_calls, rest_world
from tests.attacks.rest_world import as_person, watched

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

LARGE = "print('x' * 7_500_000)"
HASTE = """
from jupyter_sandbox import pace
pace.SILENCE_S = 2
pace.SLOWEST_BYTES_PER_S = 4 << 20
"""


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """The address of a server that waits 2 s, and for 4 MiB/s."""
    with rest_world.a_world(tmp_path_factory.mktemp("server"), HASTE) as url:
        yield url


@pytest.fixture
def rest(hasty, jp_asyncio_loop):
    made = as_person(hasty, "alice")
    yield made
    jp_asyncio_loop.run_until_complete(released(made))


async def released(rest):
    for sandbox in (await rest.get()).body["sandboxes"]:
        await rest.delete(sandbox["id"])


class Raw:
    """A connection that sends what it is told, and reads only when it is asked to."""

    def __init__(self, url: str) -> None:
        self._at = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)

    async def open(self, *lines: str, body: bytes = b"") -> Raw:
        await asyncio.get_running_loop().sock_connect(self._socket, (self._at.hostname, self._at.port))
        head = "\r\n".join((*lines, "Host: localhost", "Authorization: token alice", "", ""))
        await self.send(head.encode() + body)
        return self

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def rest(self) -> bytes:
        """What comes until the server hangs up."""
        got = []
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16):
                got.append(data)
        return b"".join(got)

    def is_hung_up_on(self) -> bool:
        """Whether the server closed its end, by what the host's kernel says of it: a full window keeps that from us."""
        own = f"{self._socket.getsockname()[1]:04X}"
        rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
        return not any(row[2].endswith(f":{own}") and row[3] == "01" for row in rows)  # 01: established

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def raw(hasty):
    """Open connections; they are closed with the test."""
    made = []

    async def connect(*lines, body=b""):
        made.append(Raw(hasty))
        return await made[-1].open(*lines, body=body)

    yield connect
    for each in made:
        each.close()


async def hung_up(connections, within_s=60.0):
    """Wait until the server hung up on all of them."""
    async with asyncio.timeout(within_s):
        while not all(each.is_hung_up_on() for each in connections):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)


async def detached(context, code):
    """The path of an execution that is over and kept."""
    reply = await context.start(code, detached=True)
    assert reply.status == 202, reply
    path = f"/api/sandboxes/{'/'.join(context.parts)}/executions/{reply.body['id']}"
    async with asyncio.timeout(30):
        while (found := await context.rest.get(*path.split("/")[3:])).body["state"] != "ended":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert found.body["outcome"] == "ok", found.body["outcome"]
    return path


async def test_answers_that_nobody_reads_are_few_and_hung_up_on(hasty, rest, raw):
    """Ten clients ask for 7.5 MB that they do not read: the server holds some of it, for so long as it waits."""
    path = await detached(await rest.context(), LARGE)
    async with watched(hasty, busy_s=float("inf")):
        stalled = [await raw(f"GET {path} HTTP/1.1", "Connection: close") for _ in range(10)]
        assert (await rest.get("openapi.json")).status == 200, "small answers do not wait"
        await hung_up(stalled)
    assert len((await rest.get(*path.split("/")[3:])).body["outputs"][0]["text"]) == 7_500_001


async def other_context(url):
    """The id of a new one of the contexts API."""
    headers = {"Authorization": "token alice"} | e2b_calls.UNARY
    return json.loads((await e2b_calls.ask(url, "POST", "api/v1/contexts", headers, "{}")).body)["context_id"]


@pytest.mark.parametrize("surface", ["sandboxes", "interpreter", "contexts"])
async def test_results_that_nobody_reads_are_few_and_hung_up_on(hasty, rest, raw, surface):
    """Sixteen clients run code that says 7.5 MB, and read nothing of it.

    Three answers are on their way, two wait, and what runs or is told takes as much again for a moment.
    """
    context = await rest.context()
    path = {
        "sandboxes": f"/api/sandboxes/{'/'.join(context.parts)}/executions",
        "interpreter": f"/api/v1/execute?user_uuid={uuid.uuid4()}",
        "contexts": f"/api/v1/contexts/{await other_context(hasty)}/execute",
    }[surface]
    body = json.dumps({"code": LARGE}).encode()
    fields = ("Connection: close", "X-Auth-Token: alice", "Content-Type: application/json")
    lines = (f"POST {path} HTTP/1.1", *fields, f"Content-Length: {len(body)}")
    async with watched(hasty, busy_s=float("inf"), growth_mib=96):
        await hung_up([await raw(*lines, body=body) for _ in range(16)])
    assert await context.printed("print('free')", timeout_s=20) == "free\n"


async def test_a_stream_that_nobody_reads_is_hung_up_on_and_frees_its_kernel(rest, raw):
    context = await rest.context()
    await context.printed("1")
    body = json.dumps({"code": f"{LARGE}\nwhile True: pass"}).encode()
    stalled = await raw(
        f"POST /api/sandboxes/{'/'.join(context.parts)}/executions HTTP/1.1",
        "Accept: application/x-ndjson",
        f"Content-Length: {len(body)}",
        body=body,
    )
    await hung_up([stalled])
    assert await context.printed("print('free')", timeout_s=20) == "free\n"


async def test_a_stream_of_quiet_code_stays_open(rest, raw):
    """Longer than the server waits for who takes nothing: there is nothing to take."""
    context = await rest.context()
    body = json.dumps({"code": "import time; time.sleep(5); print('done')"}).encode()
    quiet = await raw(
        f"POST /api/sandboxes/{'/'.join(context.parts)}/executions HTTP/1.1",
        "Accept: application/x-ndjson",
        "Connection: close",
        f"Content-Length: {len(body)}",
        body=body,
    )
    async with asyncio.timeout(30):
        said = await quiet.rest()
    assert b"done" in said
    assert b'"outcome":"ok"' in said


@contextlib.asynccontextmanager
async def a_box(url):
    """A sandbox of E2B's."""
    headers = {"X-API-Key": "alice"} | e2b_calls.UNARY
    made = await e2b_calls.ask(url, "POST", "e2b/v2/sandboxes", headers, '{"templateID": "base"}')
    box = json.loads(made.body)
    yield box
    await e2b_calls.ask(url, "DELETE", f"e2b/sandboxes/{box['sandboxID']}", headers)


def e2b_call(box, path, kind, body):
    """The lines and the body of a request to E2B's data plane."""
    fields = e2b_calls.allowed(box, {"Content-Type": kind, "Content-Length": str(len(body))})
    return [f"POST /e2b/sbx/{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]


@pytest.mark.parametrize("method", ["Start", "Connect"])
async def test_output_of_a_command_that_nobody_reads_is_hung_up_on_and_the_command_goes_on(hasty, raw, method):
    async with a_box(hasty) as box:
        message = {"process": {"cmd": "/usr/bin/yes"}, "tag": "talkative"}
        if method == "Connect":
            async with e2b_calls.running(hasty, box, "exec yes", tag="talkative"):
                pass
            message = {"process": {"tag": "talkative"}}
        body = e2b_calls.envelope(message)
        lines = e2b_call(box, f"process.Process/{method}", "application/connect+json", body)
        async with watched(hasty):
            stalled = [await raw(*lines, body=body) for _ in range(1 if method == "Start" else 10)]
            await hung_up(stalled)
        listed = await e2b_calls.ask(
            hasty, "POST", "e2b/sbx/process.Process/List", e2b_calls.allowed(box, e2b_calls.UNARY), "{}"
        )
        assert len(json.loads(listed.body)["processes"]) == 1


async def test_output_of_e2bs_code_that_nobody_reads_is_hung_up_on_and_interrupted(hasty, raw):
    async with a_box(hasty) as box:
        body = json.dumps({"code": f"{LARGE}\nwhile True: pass"}).encode()
        await hung_up([await raw(*e2b_call(box, "execute", "application/json", body), body=body)])
        body = json.dumps({"code": "print('free')"})
        async with asyncio.timeout(20):
            answer = await e2b_calls.ask(
                hasty, "POST", "e2b/sbx/execute", e2b_calls.allowed(box, e2b_calls.UNARY), body
            )
        assert b'"free\\n"' in answer.body


async def test_a_stream_of_a_quiet_command_stays_open(hasty, raw):
    """Longer than the server waits for who takes nothing: there is nothing to take."""
    async with a_box(hasty) as box:
        body = e2b_calls.envelope({"process": {"cmd": "/bin/sh", "args": ["-c", "sleep 5; echo done"]}})
        quiet = await raw(
            *e2b_call(box, "process.Process/Start", "application/connect+json", body), "Connection: close", body=body
        )
        async with asyncio.timeout(30):
            assert b'"exitCode":0' in await quiet.rest()


@pytest.mark.parametrize("line", ["POST /api/sandboxes", "PUT /api/sandboxes/{}/files/dripped"])
@pytest.mark.parametrize("length", ["Content-Length: 20000", "Transfer-Encoding: chunked"])
async def test_a_body_that_drips_is_given_up(rest, raw, line, length):
    """A byte each tenth of a second is never silent for long, and never ends."""
    sandbox = (await rest.claimed())["id"]
    slow = await raw(f"{line.format(sandbox)} HTTP/1.1", length)
    piece = b"1\r\n \r\n" if "chunked" in length else b" "

    async def drip():
        while True:
            await slow.send(piece)
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        await hung_up([slow])
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])
    assert (await rest.get(sandbox, "files", "dripped")).status == 404
