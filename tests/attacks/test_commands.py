"""Evil commands and evil clients of commands over REST. With root's broker only, as in `test_rest_executions`."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import pytest

from jupyter_sandbox.broker import commands
from jupyter_sandbox.broker.sandbox import Command, Sandbox
from jupyter_sandbox.errors import ProtocolError
from jupyter_sandbox.specs import Limits
from jupyter_sandbox.templates import BUILT_IN
from sandbox_worker import protocol
from tests.attacks.rest_world import watched

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

ENDLESS = {
    "lines": "yes",
    "both streams": "yes & exec yes >&2",
    "one byte at a time": "while :; do printf x; done",
    "escapes of a terminal": "yes \"$(printf '\\033[2J\\033]0;x\\007\\033[?1049h\\033P+q\\033\\134\\0337')\"",
    "no text": "cat /dev/urandom",
    "a pipe as large as pipes get": "exec python3 -c "
    "'import fcntl\nfcntl.fcntl(1, 1031, 1 << 20)\nwhile True: print(\"x\" * 100_000)'",
}


@pytest.fixture
def sandbox(rest, jp_asyncio_loop):
    """The id of a sandbox."""
    return jp_asyncio_loop.run_until_complete(rest.claimed())["id"]


async def running(rest, sandbox, line, **body):
    reply = await rest.post(sandbox, "commands", body={"line": line, "detached": True, **body})
    assert reply.status == 202, reply
    return reply.body["id"]


async def ended(rest, sandbox, command):
    reply = await rest.get(sandbox, "commands", command, params={"wait_s": 20})
    assert reply.body["state"] == "ended"
    return reply.body


@pytest.mark.parametrize(
    ("name", "terminal"),
    [
        *((name, None) for name in ENDLESS),
        *((name, {"rows": 24, "columns": 80}) for name in ("lines", "escapes of a terminal")),
    ],
    ids=[*ENDLESS, "lines at a terminal", "escapes at one"],
)
async def test_endless_output_takes_bounded_memory_and_no_turn_of_others(world, rest, sandbox, name, terminal):
    line = ENDLESS[name]
    async with watched(world):
        reply = await rest.post(
            sandbox, "commands", body={"line": line, "timeout_s": 1.5, "max_output_bytes": 10_000, "terminal": terminal}
        )
    command = reply.body
    assert command["outcome"] == "timeout"
    for piece in command["output"]:
        written = command["written_bytes"][piece["stream"]]
        size = len((piece["text"] or "").encode()) or len(piece["base64"] or "") * 3 // 4
        assert size <= 10_002
        if written > 20_000:
            assert written - 10_000 <= piece["offset"] <= written, "what is missing is counted to the byte"


@pytest.mark.parametrize("how", ["POST", "GET"])
async def test_a_client_that_reads_nothing_makes_the_command_wait_and_not_the_server_grow(world, rest, sandbox, how):
    address = urlsplit(world)
    path = f"/api/sandboxes/{sandbox}/commands"
    body = json.dumps({"line": "yes", "timeout_s": 3}).encode()
    if how == "GET":
        path, body = f"{path}/{await running(rest, sandbox, 'yes', timeout_s=3)}", b""
    head = f"{how} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\nAccept: application/x-ndjson\r\n"
    async with watched(world):
        _, writer = await asyncio.open_connection(address.hostname, address.port, limit=4096)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        async with asyncio.timeout(10):
            while "running" in {  # noqa: ASYNC110 - another process
                each["state"] for each in (await rest.get(sandbox, "commands")).body["commands"]
            }:
                await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_client_that_hangs_up_ends_its_command_and_not_a_detached_one(world, rest, sandbox, accept):
    kept = await running(rest, sandbox, "exec sleep 1000")
    address = urlsplit(world)
    body = json.dumps({"line": "echo go; exec sleep 1000"}).encode()
    head = f"POST /api/sandboxes/{sandbox}/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\n"
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{head}Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()

    async def known():
        return [each["id"] for each in (await rest.get(sandbox, "commands")).body["commands"]]

    async with asyncio.timeout(10):
        while len(await known()) < 2:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
        writer.close()
        while await known() != [kept]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    processes = await rest.post(sandbox, "commands", body={"line": "cat /proc/[0-9]*/comm"})
    assert processes.body["output"][0]["text"].split().count("sleep") == 1


async def test_a_command_that_reads_nothing_is_given_so_much_and_no_more(world, rest, sandbox):
    command = await running(rest, sandbox, "exec sleep 1000", stdin=True)
    async with watched(world):
        replies = [
            await rest.post(sandbox, "commands", command, "stdin", body={"text": "x" * (1 << 16)}) for _ in range(10)
        ]
    assert {reply.status for reply in replies} == {204, 429}
    assert replies[-1].code == "busy"


async def test_daemons_keep_neither_a_command_nor_a_descriptor_and_end_with_their_sandbox(rest, sandbox):
    daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nwhile True: print('x' * 100, flush=True)"
    for _ in range(5):
        began = time.monotonic()
        reply = await rest.post(sandbox, "commands", body={"argv": ["python3", "-c", daemon]})
        assert (reply.body["outcome"], reply.body["exit_code"]) == ("ok", 0)
        assert time.monotonic() - began < 5
    assert (await rest.delete(sandbox)).status == 204


async def test_a_burst_of_starts_is_bounded_and_leaves_nothing(world, rest, sandbox):
    async with watched(world):
        body = {"argv": ["sleep", "1000"], "detached": True}
        replies = await asyncio.gather(*(rest.post(sandbox, "commands", body=body) for _ in range(300)))
    assert sorted({reply.status for reply in replies}) == [202, 429]
    started = [reply.body["id"] for reply in replies if reply.status == 202]
    assert len(started) == 32
    for command in started:
        await rest.post(sandbox, "commands", command, "signal", body={"signal": "SIGKILL"})
    for command in started:
        assert (await ended(rest, sandbox, command))["signal"] == "SIGKILL"
    assert (await rest.post(sandbox, "commands", body={"line": "echo fine"})).body["outcome"] == "ok"


@pytest.mark.parametrize(
    "body",
    [
        b'{"line": "ls", "terminal": {"rows": 1e9, "columns": 80}}',
        b'{"line": "ls", "terminal": {"rows": -1, "columns": 80}}',
        b'{"argv": ["a\\u0000b"]}',
        b'{"argv": ["\\ud800"]}',
        b'{"line": "ls", "cwd": "/sandbox/../../etc"}',
        b'{"line": "ls", "cwd": "/proc/1/root"}',
        b'{"line": "ls", "env": {"LD_PRELOAD=x": "y"}}',
        b'{"line": "ls", "env": {"A\\nB": "y"}}',
        json.dumps({"argv": ["x" * 8000] * 200}).encode(),
        json.dumps({"argv": ["\u20ac" * 8000]}).encode(),
        json.dumps({"line": "ls", "env": {f"A{n}": "\x01" * 4000 for n in range(2)}, "cwd": "/etc"}).encode(),
    ],
    ids=lambda body: body[:50].decode(),
)
async def test_a_command_that_is_none_is_refused_and_nothing_runs(rest, sandbox, body):
    reply = await rest.post(sandbox, "commands", raw=body)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await rest.get(sandbox, "commands")).body["commands"] == []


async def test_the_largest_request_that_passes_the_guards_is_answered(rest, sandbox):
    """What does not fit into a message to the worker is the client's mistake, and no failure of ours."""
    env = {f"A{n}": "\x01" * 4000 for n in range(2)}
    reply = await rest.post(sandbox, "commands", body={"argv": ["true", *["x" * 8000] * 3], "env": env})
    assert reply.status in {200, 400}, reply


# -- the worker lies


class _Worker:
    id, limits = "sbx_" + "0" * 20, Limits()

    def out_of_memory_kills(self):
        return 0


class _Agent:
    def __init__(self, pid):
        self.pid = pid

    async def ask(self, request, kind, descriptors):
        return protocol.Started(pid=self.pid)


def lying(pid=7):
    return Sandbox(worker=_Worker(), template=BUILT_IN["python"], agent=_Agent(pid))


@pytest.mark.parametrize("target", ["cmd_" + "1" * 20, "", "../../x", "x" * 10_000])
def test_an_end_of_what_was_never_started_is_a_lie(target):
    with pytest.raises(ProtocolError):
        commands.ended(lying(), protocol.Exited(target=target, status=0, disk_full=False, log=""))


def test_an_end_is_told_once_and_to_whom_it_belongs():
    mine, others = [], []
    box = lying()
    box.commands = {"a": Command(tell=mine.append, kills_before=0), "b": Command(tell=others.append, kills_before=0)}
    exited = protocol.Exited(target="a", status=3, disk_full=False, log="\x1b[2J" * 1000)
    commands.ended(box, exited)
    with pytest.raises(ProtocolError):
        commands.ended(box, exited)
    assert (len(mine), others) == (1, [])
    assert "\x1b" not in mine[0].message


@pytest.mark.parametrize("status", [256, -65, 10**30, -(10**30)])
def test_an_end_that_no_process_has_is_a_lie(status):
    box, told = lying(), []
    box.commands = {"a": Command(tell=told.append, kills_before=0)}
    with pytest.raises(ProtocolError):
        commands.ended(box, protocol.Exited(target="a", status=status, disk_full=False, log=""))
    assert told == []


@pytest.mark.parametrize("pid", [0, -1, 1 << 40])
async def test_a_process_that_cannot_be_is_a_lie(pid):
    from jupyter_sandbox.broker import verbs

    box = lying(pid)
    with pytest.raises(ProtocolError):
        await commands.run(
            box, verbs.RunCommand(sandbox=box.id, argv=("x",), env={}, cwd=None), [0, 1, 2], lambda _: None
        )
    assert box.commands == {}
