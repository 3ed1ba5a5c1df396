"""Hostile requests to the REST surface: every one is refused with a code or round-trips, and none is a failure of ours."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.attacks.naughty import STRINGS
from tests.attacks.rest_world import watched
from tests.server.server_process import request

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

METHODS = {"get", "post", "put", "patch", "delete"}
BODIES = {
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "half of an object": b'{"timeout_s": 1',
    "two values": b"{} {}",
    "NaN": b'{"timeout_s": NaN}',
    "infinity": b'{"timeout_s": Infinity}',
    "a number of infinite size": b'{"timeout_s": 1e999}',
    "an integer of a hundred thousand digits": b'{"timeout_s": ' + b"9" * 100_000 + b"}",
    "a text for a number": b'{"timeout_s": "60"}',
    "true for a number": b'{"timeout_s": true}',
    "null for a number": b'{"timeout_s": null}',
    "a negative time": b'{"timeout_s": -1}',
    "no time at all": b'{"timeout_s": 0}',
    "a time without end": b'{"timeout_s": 1e308}',
    "an unknown field": b'{"owner": "alice"}',
    "a field of Python's": b'{"__class__": "x"}',
    "a field twice": b'{"timeout_s": 60, "timeout_s": 61}',
    "a list for a template": b'{"template": ["python"]}',
    "a path for a template": b'{"template": "../python"}',
    "a newline in a template": b'{"template": "python\\n"}',
    "a text for metadata": b'{"metadata": "x"}',
    "a number in metadata": b'{"metadata": {"a": 1}}',
    "an object in metadata": b'{"metadata": {"a": {}}}',
    "an empty name in metadata": b'{"metadata": {"": "x"}}',
    "NUL in metadata": b'{"metadata": {"a": "\\u0000"}}',
    "a newline in metadata": b'{"metadata": {"a": "b\\nc"}}',
    "half a character in metadata": b'{"metadata": {"a": "\\ud800"}}',
    "half a character in a name": b'{"metadata": {"\\udfff": "x"}}',
    "too much metadata": json.dumps({"metadata": {f"n{n}": "" for n in range(17)}}).encode(),
    "metadata that is too long": json.dumps({"metadata": {"a": "x" * 257}}).encode(),
    "a variable with an equals sign": b'{"env": {"A=B": "x"}}',
    "a variable with NUL": b'{"env": {"A": "\\u0000"}}',
    "an environment that is too large": json.dumps({"env": {f"A{n}": "x" * 4000 for n in range(3)}}).encode(),
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"metadata":' * 50_000 + b"1" + b"}" * 50_000,
    "no end of lists": b"[" * 1_000_000,
    "a million small values": b"[" + b"[]," * 500_000 + b"1]",
    "a million ends": b"[" * 51 + b"]" * 1_500_000,
    "bytes that are no text": b'{"metadata": {"a": "\xff"}}',
    "UTF-16": '{"timeout_s": 60}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a form": b"timeout_s=60",
}


@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES)
async def test_a_claim_that_is_none_is_refused_and_claims_nothing(rest, raw):
    reply = await rest.post(raw=raw)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await rest.get()).body["sandboxes"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": None},
        {"code": ["1"]},
        {"code": "a\0b"},
        {"code": "\ud800"},
        {"code": "x" * ((1 << 20) + 1)},
        {"code": "1", "timeout_s": 0},
        {"code": "1", "timeout_s": 1e9},
        {"code": "1", "max_output_bytes": -1},
        {"code": "1", "max_output_bytes": 1.5},
        {"code": "1", "max_output_bytes": 1 << 40},
        {"code": "1", "detached": 1},
        {"code": "1", "silent": True},
    ],
    ids=str,
)
async def test_an_execution_that_is_none_is_refused_before_its_context_is_looked_for(rest, body):
    raw = json.dumps(body).encode()
    reply = await rest.post(f"sbx_{'0' * 20}", "contexts", "x", "executions", raw=raw)
    assert (reply.status, reply.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"cwd": path}
            for path in (
                "/etc",
                "relative",
                "/sandbox/../etc",
                "/sandboxes",
                "/sandbox/\0",
                "",
                "/sandbox/" + "x" * 2000,
            )
        ),
        *({"language": language} for language in ("", "PYTHON", "ruby; rm", ["python"], None)),
    ],
    ids=str,
)
async def test_a_context_that_is_none_is_refused(rest, body):
    sandbox = await rest.claimed()
    reply = await rest.post(sandbox["id"], "contexts", body=body)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await rest.get(sandbox["id"])).body["contexts"] == []


@pytest.mark.parametrize(
    "params",
    [
        *({"limit": limit} for limit in ("0", "-1", "501", "x", "", "1.5", "9" * 5000, "\u0663", " 1", "1\0")),
        *({"cursor": cursor} for cursor in ("", "x", "=", "c2J4" * 9, "../..", "\0")),
        *({"state": state} for state in ("", "READY", "warm")),
        *({"metadata": metadata} for metadata in ("", "a", ":", "a:\n", "=:x", "a" * 65 + ":x")),
        {"owner": "bob"},
        [("limit", "1"), ("limit", "2")],
        [("metadata", "a:b")] * 17,
    ],
    ids=str,
)
async def test_a_query_that_is_none_is_refused(rest, params):
    reply = await rest.get(params=params)
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_naughty_strings_round_trip_as_metadata_or_are_refused(rest):
    """As many in one claim as there may be, of those that a query takes; the others each in one of its own."""
    at_once, taken, others = asyncio.Semaphore(8), [], []

    async def asked(string):
        async with at_once:
            reply = await rest.get(params={"metadata": f"text:{string}"})
        assert reply.status in {200, 400}, ascii(string)
        (taken if reply.status == 200 else others).append(string)

    async def came_back(strings):
        wanted = {f"text{number}": string for number, string in enumerate(strings)}
        reply = await rest.post(body={"metadata": wanted})
        if reply.status == 201:
            assert reply.body["metadata"] == wanted
            found = await rest.get(params={"metadata": f"text0:{strings[0]}"})
            assert found.status == 400 or [each["id"] for each in found.body["sandboxes"]] == [reply.body["id"]]
            await rest.delete(reply.body["id"])
        else:
            assert (reply.status, reply.code) == (400, "invalid_request"), ascii(strings)
        return reply.status == 201

    await asyncio.gather(*map(asked, STRINGS))

    async def number_kept(strings):
        """How many come back; when all together are refused, of each half."""
        if await came_back(strings):
            return len(strings)
        half = len(strings) // 2
        return await number_kept(strings[:half]) + await number_kept(strings[half:]) if half else 0

    kept = sum([await number_kept(taken[start : start + 16]) for start in range(0, len(taken), 16)])
    kept += sum([await number_kept([string]) for string in others])
    assert kept > len(STRINGS) / 2


async def test_naughty_strings_are_nobodys_ids_and_no_names(rest):
    """Names of metadata are judged alike in a query and in a claim; those that may be come back from a claim."""
    sandbox = (await rest.claimed())["id"]
    at_once, names = asyncio.Semaphore(8), []

    async def tried(string):
        async with at_once:
            for reply in (
                await rest.get(string),
                await rest.delete(string),
                await rest.get(sandbox, "contexts", string),
                await rest.post(string, "contexts", string, "executions", body={"code": "1"}),
                await rest.post(body={"template": string}),
            ):
                assert 400 <= reply.status < 500, (ascii(string), reply)
            asked = await rest.get(params={"metadata": f"{string}:x"})
            assert asked.status in {200, 400}, (ascii(string), asked)
            if asked.status == 200 and ":" not in string:
                names.append(string)

    await asyncio.gather(
        *(tried(string) for string in STRINGS if string not in {"", ".", ".."})
    )  # tornado resolves them
    for start in range(0, len(names), 16):
        wanted = dict.fromkeys(names[start : start + 16], "x")
        made = await rest.claimed(metadata=wanted)
        assert made["metadata"] == wanted
        await rest.delete(made["id"])
    assert (await rest.get(sandbox)).status == 200


async def test_naughty_strings_are_code_like_any_other(rest):
    context = await rest.context()
    for start in range(0, len(STRINGS), 20):
        some = [string for string in STRINGS[start : start + 20] if "\0" not in string and string.isprintable()]
        code = "\n".join(f"print(ascii({string!r}))" for string in some)
        assert await context.printed(code) == "".join(f"{string!a}\n" for string in some)
    for string in STRINGS:
        reply = await context.start(string)
        assert reply.status in {200, 400}, ascii(string)
        if reply.status == 200:
            assert reply.body["outcome"] in {"ok", "error"}, ascii(string)


async def test_a_key_that_is_none_is_refused(rest):
    for key in ("", " ", "x" * 129, "a b", "caf\u00e9"):
        reply = await rest.post(body={}, headers={"Idempotency-Key": key})
        assert (reply.status, reply.code) == (400, "invalid_request"), key
    assert (await rest.get()).body["sandboxes"] == []


async def test_a_body_that_is_too_large_is_refused_before_it_came(world, rest):
    async with watched(world):
        try:
            reply = await rest.post(raw=b" " * (3 << 20))
        except OSError:  # the server answered and hung up while we were still sending; it made nothing of it
            assert (await rest.get()).body["sandboxes"] == []
            return
    assert (reply.status, reply.code) == (413, "body_too_large")


async def test_who_is_answered_before_his_body_came_hears_that_the_connection_ends(world):
    """He would send his next request over it, and find it closed."""
    address = urlsplit(world)
    head = "POST /api/sandboxes HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {}\r\n{}\r\n\r\n"
    for token, length, status in (
        ("alice", f"Content-Length: {3 << 20}", b" 413 "),
        ("nobody", "Content-Length: 2", b" 403 "),
        ("nobody", "Transfer-Encoding: chunked", b" 403 "),
    ):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.format(token, length).encode())
        async with asyncio.timeout(30):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert status in answer.partition(b"\r\n")[0]
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("length", "body"),
    [("Content-Length: 4", (b"{", b"   ")), ("Transfer-Encoding: chunked", (b"1\r\n{", b"\r\n0\r\n\r\n")), (None, ())],
    ids=["length", "chunks", "none"],
)
async def test_who_is_refused_by_his_head_may_send_a_small_body_and_ask_again(world, length, body):
    """Once chunks found the connection reset now and then, and E2B's SDK told of that and not of its answer."""
    address = urlsplit(world)
    method = "POST" if body else "GET"
    head = [
        f"{method} /e2b/sbx/process.Process/Start HTTP/1.1",
        "Host: localhost",
        *([length] if length else []),
        "",
        "",
    ]
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for _ in range(2):
        writer.write("\r\n".join(head).encode())
        for piece in body:
            await asyncio.sleep(0.1)
            assert not reader._buffer, "it was answered before its body had come"
            writer.write(piece)
        async with asyncio.timeout(30):
            answer = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in answer.decode().split("\r\n")[1:-2])
            assert b'"code":502' in await reader.readexactly(int(fields["Content-Length"]))
        assert "Connection" not in fields, "the server's patience ended"
    writer.close()


async def test_who_waits_to_be_told_to_send_his_body_is_refused_at_once(world):
    """Once he was told to, and found the connection reset in the middle of it."""
    address = urlsplit(world)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = "POST /api/sandboxes HTTP/1.1\r\nHost: localhost\r\nAuthorization: token nobody\r\nExpect: 100-continue\r\n"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(30):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nConnection: close\r\n" in answer
    writer.close()


async def test_a_query_that_is_no_text_has_an_answer(people):
    """Jupyter reads it once more when it answers, and failed again and again there: there never was one."""
    async with asyncio.timeout(30):
        reply = await people["alice"]("GET", "nowhere", params={"no_track_activity": b"\xff"})
    assert reply.status in {400, 404}


async def test_a_body_without_end_takes_no_memory(world):
    """Chunks for ever: they are dropped as they come, and the answer is the same."""
    address = urlsplit(world)
    async with watched(world):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = "POST /api/sandboxes HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\n"
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        for _ in range(200):
            writer.write(chunk)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(30):
            status = await reader.readline()
        writer.close()
    assert b" 413 " in status


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "0x10", "99999999999999999999999", "\u0663", "1, 2"])
async def test_a_length_that_is_none_is_no_failure_of_ours(world, length):
    address = urlsplit(world)
    with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
        head = f"POST /api/sandboxes HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\nContent-Length: {length}\r\n\r\n"
        raw.sendall(head.encode() + b"{}")
        answer = await asyncio.to_thread(raw.recv, 65536)
    assert answer == b"" or answer.split()[1] in {b"400", b"413"}, answer


async def test_a_thousand_claims_with_one_key_are_one_sandbox(rest):
    replies = await asyncio.gather(*(rest.post(body={}, headers={"Idempotency-Key": "one"}) for _ in range(1000)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body["id"] for reply in replies}) == 1
    assert len((await rest.get()).body["sandboxes"]) == 1


async def test_a_notebooks_sandbox_belongs_to_who_started_it(people, world):
    headers = {"Authorization": "token bob"}
    opened = AsyncHTTPClient()
    kernel = await opened.fetch(
        f"{world}api/kernels", method="POST", body='{"name": "sandbox-python"}', headers=headers
    )
    (found,) = (await people["bob"].get()).body["sandboxes"]
    assert found["contexts"] == [json.loads(kernel.body)["id"]]
    assert (await people["alice"].get()).body["sandboxes"] == []
    assert (await people["alice"].get(found["id"])).status == 404


async def test_a_key_is_its_owners(people):
    key = {"Idempotency-Key": "shared"}
    first, second = [await people[name].post(body={}, headers=key) for name in ("alice", "bob")]
    assert first.body["id"] != second.body["id"]


async def test_nobody_gets_nothing_but_health(people, world):
    document = await request(f"{world}api/sandboxes/openapi.json")
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            parts = path.removeprefix("/api/sandboxes").strip("/").replace("{", "").replace("}", "").split("/")
            reply = await people[""](method.upper(), *filter(None, parts))
            if path.endswith("z"):
                assert (reply.status, list(reply.body)) == (200, ["status"])
            else:
                assert (reply.status, reply.code) == (403, "forbidden"), (method, path)
    for path in ("openapi.json", "nowhere"):
        assert (await people[""].get(path)).status == 403


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "DELETE"])
async def test_a_method_that_is_none_says_which_there_are(rest, method):
    reply = await rest(method)
    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", "GET, POST")


@pytest.mark.parametrize("path", ["nowhere/at/all", "openapi.json/x", "a/b/c/d/e/f/g"])
async def test_a_path_that_is_none_is_a_problem_of_ours(rest, path):
    reply = await rest.post(*path.split("/"), body={})
    assert (reply.status, reply.code) == (404, "unknown_route")
