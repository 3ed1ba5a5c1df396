"""Hosts below a domain open nothing that the paths of E2B's protocols do not, whatever is sent as Host."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote, urlsplit

import pytest

from jupyter_sandbox.surfaces.e2b.files import signature
from tests.attacks.e2b_calls import UNARY, ask
from tests.attacks.rest_world import watched
from tests.attacks.test_e2b import DATA_PLANE

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

API = {"Host": "api.sandbox.example"}


def at(box, port=49983, **headers):
    """Header fields of a request to a sandbox's host."""
    return {"Host": f"{port}-{box['sandboxID']}.sandbox.example"} | headers


def right(box):
    return {"X-Access-Token": box["envdAccessToken"]}


async def said(world, *lines: str) -> bytes:
    """What the server answers to a head that no client would send."""
    address = urlsplit(world)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    try:
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("case", DATA_PLANE)
async def test_nothing_of_a_sandbox_without_its_token(world, make, case):
    box, other = await make("alice"), await make("bob")
    method, path, kind, body = DATA_PLANE[case]
    for headers in (
        {},
        {"X-Access-Token": "0" * 64},
        right(other),
        right(other) | {"E2b-Sandbox-Id": other["sandboxID"]},
        {"X-API-Key": "alice"},
        {"Authorization": "token alice"},
        {"Cookie": "username-localhost=alice"},
    ):
        for port in (49983, 49999):
            response = await ask(world, method, path, kind | at(box, port, **headers), body)
            assert (headers, response.code) == (headers, 401)
            assert box["envdAccessToken"].encode() not in response.body
    assert (await ask(world, method, path, kind | at(box, **right(box)), body)).code != 401


async def test_the_host_says_which_sandbox_is_meant_whatever_headers_say(world, make):
    box, other = await make("alice"), await make("bob")
    for named in (other["sandboxID"], "", "x" * 5000):
        headers = at(box, **right(box), **{"E2b-Sandbox-Id": named, "E2b-Sandbox-Port": "1"})
        assert (await ask(world, "GET", "health", headers)).code == 204


async def test_the_control_plane_knows_one_key(world, make):
    box = await make("alice")
    for headers in ({}, {"X-API-Key": "nobody"}, right(box), {"Authorization": "token alice"}, {"Cookie": "a=b"}):
        assert (await ask(world, "GET", "v2/sandboxes", API | headers)).code == 401
        assert (await ask(world, "POST", "sandboxes", API | headers | UNARY, b"{}")).code == 401
    listed = json.loads((await ask(world, "GET", "v2/sandboxes", API | {"X-API-Key": "alice"})).body)
    assert [each["sandboxID"] for each in listed] == [box["sandboxID"]]
    assert (await ask(world, "DELETE", f"sandboxes/{box['sandboxID']}", API | {"X-API-Key": "bob"})).code == 404


@pytest.mark.parametrize("port", ["0", "1", "22", "8080", "49984", "99999"])
async def test_another_port_is_refused_and_says_so_before_anything_is_looked_at(world, make, port):
    box = await make("alice")
    for headers in (at(box, port), at(box, port, **right(box)), {"Host": f"{port}-nobody.sandbox.example"}):
        for method, path, body in (("GET", "", None), ("POST", "execute", b'{"code": "1"}')):
            response = await ask(world, method, path, headers | UNARY, body)
            assert response.code == 501
            assert json.loads(response.body)["message"].startswith(f"port '{port}' is not open; ")


@pytest.mark.parametrize("theirs", ["0" * 20, "x", "debug_sandbox_id", "z" * 57])
async def test_a_sandbox_that_is_none_is_gone(world, make, theirs):
    box = await make("alice")
    response = await ask(world, "GET", "health", {"Host": f"49983-{theirs}.sandbox.example"} | right(box))
    if "_" in theirs:  # not the name of a host
        assert response.code in (400, 403)
    else:
        assert (response.code, "was not found" in response.body.decode()) == (502, True)


@pytest.mark.parametrize(
    "path", ["", "lab", "api/kernels", "api/sandboxes", "api/v1/execute", "metrics", "login", "static/x"]
)
async def test_nothing_else_of_the_server_is_at_these_hosts(world, make, path):
    box, people = await make("alice"), {"Authorization": "token alice", "Cookie": "username-localhost=alice"}
    api = await ask(world, "GET", path, API | people)
    assert (api.code, set(json.loads(api.body))) == (401, {"code", "message", "error_code"})
    assert (await ask(world, "GET", path, at(box, **people))).code == 401
    assert (await ask(world, "GET", path, API | {"X-API-Key": "alice"})).code == 501
    assert (await ask(world, "GET", path, at(box, **right(box)))).code == 501


HOSTS = [
    "sandbox.example",
    "www.sandbox.example",
    "api.evil.example",
    "api.sandbox.example.evil.example",
    "x.api.sandbox.example",
    "evil.example",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_another_host_is_answered_as_before(world, make, host):
    """This server listens for the machine alone, and refuses hosts that it does not know."""
    box = await make("alice")
    for path in ("v2/sandboxes", "e2b/v2/sandboxes", "e2b/sbx/health", "api/kernels"):
        headers = {"Host": host, "X-API-Key": "alice", "Authorization": "token alice"} | right(box)
        response = await ask(world, "GET", path, headers | {"E2b-Sandbox-Id": box["sandboxID"]})
        assert (path, response.code) == (path, 403)


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: api.sandbox.example", "Host: localhost"],
        ["Host: localhost", "Host: api.sandbox.example"],
        ["Host: localhost", "X-Forwarded-Host: api.sandbox.example"],
        ["Host: api.sandbox.example\t"],
        ["Host: api.sandbox.example, localhost"],
        ["Host: api.sandbox.example/../.."],
        ["Host: user@api.sandbox.example"],
        ["Host: api.sandbox.example:\u00b2"],
        ["Host: \u00e4pi.sandbox.example"],
        ["Host: " + "api." * 15_000 + "sandbox.example"],
        ["Host: 49983-" + "0" * 60_000 + ".sandbox.example"],
        ["Host:"],
        [],
    ],
    ids=range(13),
)
async def test_a_host_that_is_none_opens_nothing(world, make, lines):
    await make("alice")
    async with watched(world):
        answer = await said(world, "GET /v2/sandboxes HTTP/1.1", *lines, "Authorization: token alice")
    assert answer == b"" or answer.split()[1] in (b"400", b"401", b"403", b"404")
    assert b"sandboxID" not in answer


@pytest.mark.parametrize(
    "target",
    [
        "//api/kernels",
        "/../api/kernels",
        "/%2e%2e/api/kernels",
        "http://localhost/api/kernels",
        "*",
        "/api/kernels?token=alice",
    ],
)
async def test_no_path_leads_out_of_these_hosts(world, make, target):
    box = await make("alice")
    for host, fields in (
        (API["Host"], "X-API-Key: alice"),
        (at(box)["Host"], f"X-Access-Token: {box['envdAccessToken']}"),
    ):
        answer = await said(world, f"GET {target} HTTP/1.1", f"Host: {host}", fields, "Authorization: token alice")
        assert answer.split()[1] in (b"400", b"501")


async def test_a_signature_is_for_the_sandbox_of_the_host(world, make):
    box, other = await make("alice"), await make("bob")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nmine\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await ask(world, "POST", "files?path=a", at(box, **right(box)) | kind, form)).code == 200
    path = f"files?path=a&signature={quote(signature(box['envdAccessToken'], 'a', 'read', '', ''))}"
    assert (await ask(world, "GET", path, at(box))).body == b"mine"
    assert (await ask(world, "GET", path, at(other))).code == 401
    assert (await ask(world, "GET", path, {"Host": f"49983-{'0' * 20}.sandbox.example"})).code == 401
    assert (await ask(world, "GET", path, at(box, 8080))).code == 501
