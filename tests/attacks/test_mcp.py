"""Hostile clients and hostile kernels of MCP and of the contexts API, on a server with several people."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient

from jupyter_sandbox.surfaces.mcp.visits import MAX_VISITS
from tests.attacks.rest_world import once_refused, watched
from tests.attacks.test_rest_bodies import BODIES
from tests.server.contexts import ContextsApi
from tests.server.raw_http import opened, received

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

GONE = {"error": "Context not found", "code": "CONTEXT_NOT_FOUND"}
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Raw:
    """A client that does as it likes, with the token of one person or program."""

    def __init__(self, url, token, visit=None):
        self.url, self.token, self.visit = f"{url}sandbox/mcp", token, visit

    async def send(self, body=None, *, raw=None, method="POST", **headers):
        known = HEADERS | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        if self.visit:
            known = known | {"Mcp-Session-Id": self.visit}
        return await AsyncHTTPClient().fetch(
            self.url,
            method=method,
            body=raw if raw is not None else None if body is None else json.dumps(body),
            headers=known | {name.replace("_", "-"): value for name, value in headers.items()},
            allow_nonstandard_methods=True,
            raise_error=False,
            request_timeout=60,
        )

    async def begun(self):
        """The same with a session of its own."""
        response = await self.send(request("initialize", INITIALIZE))
        assert response.code == 200, response.body
        self.visit = response.headers["Mcp-Session-Id"]
        assert (await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})).code == 202
        return self

    async def call(self, tool, /, **arguments):
        """Whether it was refused, and what a tool answered."""
        response = await self.send(request("tools/call", {"name": tool, "arguments": arguments}))
        assert response.code == 200, response.body
        (line,) = [line for line in response.body.decode().splitlines() if line.startswith("data: ")]
        self.answer = json.loads(line.removeprefix("data: "))["result"]
        return self.answer.get("isError", False), json.loads(self.answer["content"][0]["text"])


def request(method, params=None):
    return {"jsonrpc": "2.0", "id": 1, "method": method} | ({"params": params} if params else {})


@pytest.fixture
def contexts(world, people):
    """A client of the contexts API for a token: `contexts("alice")`. What it makes ends as `people` do."""

    def make(token):
        async def fetch(*parts, params, **how):
            query = "?full=true" if params else ""
            return await AsyncHTTPClient().fetch(f"{world}{'/'.join(parts)}{query}", **how)

        return ContextsApi(fetch, {"Authorization": f"token {token}"} if token else {})

    return make


async def test_who_brings_no_good_token_reaches_nothing(world, people, tokens):
    revoked, over = tokens.issue("alice"), tokens.issue("alice", expires_in_s=-1)
    tokens.revoke(revoked)
    for token in ("", "mallory", revoked, over, f"{revoked}x"):
        for method in ("POST", "GET", "DELETE"):
            body = request("initialize", INITIALIZE) if method == "POST" else None
            response = await Raw(world, token, "x").send(body, method=method)
            assert response.code == 403, (token, method)
            assert set(json.loads(response.body)) == {"jsonrpc", "id", "error"}


async def test_a_context_is_its_owners(world, people, contexts):
    alice, bob = await Raw(world, "alice").begun(), await Raw(world, "bob").begun()
    _, made = await alice.call("create_context", name="mine")
    mine = made["context_id"]
    assert await bob.call("list_contexts") == (False, {"contexts": []})
    for tool, more in (("run_code", {"code": "1"}), ("stop_context", {})):
        assert await bob.call(tool, context_id=mine, **more) == (True, GONE)
    api = contexts("bob")
    assert (await api("GET"))[1] == []
    assert await api("DELETE", mine) == (404, GONE)
    assert await api("POST", mine, "execute", body={"code": "1"}) == (404, GONE)
    refused, ran = await alice.call("run_code", context_id=mine, code="print(1)")
    assert (refused, ran["stdout"]) == (False, "1\n")


async def test_the_kernel_of_a_tool_is_its_callers(world, people):
    alice = await Raw(world, "alice").begun()
    await alice.call("create_context", name="mine")

    async def kernels(name):
        headers = {"Authorization": f"token {name}"}
        return json.loads((await AsyncHTTPClient().fetch(f"{world}api/kernels", headers=headers)).body)

    assert (len(await kernels("alice")), len(await kernels("bob"))) == (1, 0)


async def test_a_session_of_somebody_else_is_as_good_as_none(world, people):
    alice = await Raw(world, "alice").begun()
    thief, guesser = Raw(world, "bob", alice.visit), Raw(world, "bob", "0" * 32)
    for body, method in ((request("tools/list"), "POST"), (None, "GET"), (None, "DELETE")):
        stolen, guessed = await thief.send(body, method=method), await guesser.send(body, method=method)
        assert (stolen.code, guessed.code) == (404, 404)
        assert stolen.body.replace(alice.visit.encode(), b"0" * 32) == guessed.body
    assert await alice.call("list_contexts") == (False, {"contexts": []})


async def test_a_token_may_what_its_scopes_say_whatever_its_session_was_made_with(world, people, program):
    everything, looking = program("carol"), program("carol", "kernels:read")
    whole = await Raw(world, everything.token).begun()
    _, made = await whole.call("create_context", name="mine")
    half = Raw(world, looking.token, whole.visit)
    assert (await half.call("list_contexts"))[1]["contexts"] == [made]
    for tool, arguments in (
        ("create_context", {"name": "more"}),
        ("run_code", {"context_id": made["context_id"], "code": "1"}),
        ("stop_context", {"context_id": made["context_id"]}),
    ):
        refused, model = await half.call(tool, **arguments)
        assert (refused, model["code"]) == (True, "WRONG_SCOPE"), tool
    assert (await Raw(world, program("carol", "files").token).send(request("initialize", INITIALIZE))).code == 403


async def test_a_token_of_one_sandbox_is_for_neither_api(world, people, program, contexts):
    carol = program("carol")
    sandbox = await carol.claimed()
    bound = (await carol.post(sandbox["id"], "tokens", body={})).body["token"]
    assert (await Raw(world, bound).send(request("initialize", INITIALIZE))).code == 403
    assert (await contexts(bound)("GET"))[1]["code"] == "WRONG_SCOPE"


async def test_a_token_that_was_revoked_ends_its_session(world, people, tokens):
    token = tokens.issue("dave")
    raw = await Raw(world, token).begun()
    tokens.revoke(token)
    assert (await once_refused(lambda: raw.send(request("tools/list")))).code == 403


async def test_names_of_other_hosts_and_pages_of_other_origins_are_refused_with_a_good_token(world, people):
    raw = await Raw(world, "alice").begun()
    own = f"http://{urlsplit(world).netloc}"
    assert (await raw.send(request("tools/list"), Origin=own)).code == 200
    for headers in (
        {"Host": "attacker.test"},
        {"Host": "attacker.test:8888", "Origin": "http://attacker.test:8888"},
        {"Origin": "http://attacker.test"},
        {"Origin": f"{own}.attacker.test"},
        {"Origin": "null"},
    ):
        response = await raw.send(request("tools/list"), **headers)
        assert response.code in (403, 404), headers
        assert "Access-Control-Allow-Origin" not in response.headers


JUNK = {
    "nothing": b"",
    "null": b"null",
    "a batch": json.dumps([request("tools/list")] * 3).encode(),
    "half of an object": b'{"jsonrpc": "2.0"',
    "no method": b'{"jsonrpc": "2.0", "id": 1}',
    "an id that is none": b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}',
    "a number without end": b'{"jsonrpc": "2.0", "id": ' + b"9" * 100_000 + b', "method": "tools/list"}',
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep arguments": json.dumps(request("tools/call", {"name": "list_contexts", "arguments": {}}))
    .replace("{}", '{"a":' * 5_000 + "1" + "}" * 5_000)
    .encode(),
    "bytes that are no text": b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}',
    "UTF-16": json.dumps(request("tools/list")).encode("utf-16"),
    "a form": b"jsonrpc=2.0",
}


@pytest.mark.parametrize("version", [None, "2026-07-28", "9999-01-01", "x" * 5_000])
async def test_junk_is_refused_and_is_no_failure_of_ours(world, people, version):
    raw = await Raw(world, "alice").begun()
    headers = {"MCP_Protocol_Version": version} if version else {}
    async with watched(world):
        for name, body in JUNK.items():
            response = await raw.send(raw=body, **headers)
            assert response.code < 500, (name, response.body)
            assert b"Traceback" not in response.body
            if response.code == 200:
                assert b"error" in response.body, (name, response.body)
    assert await alice_works(world)


async def alice_works(world):
    raw = await Raw(world, "alice").begun()
    return await raw.call("list_contexts") == (False, {"contexts": []})


@pytest.mark.parametrize("path", ["sandbox/mcp", "api/v1/contexts"])
async def test_a_body_that_is_too_large_is_refused_before_it_came(world, people, path):
    await Raw(world, "alice").begun()
    async with watched(world):
        headers = HEADERS | {"Content-Length": str(3 << 20)}
        reader, writer = await opened(world, "POST", f"{urlsplit(world).path}{path}", headers)
        answer = await received(reader, writer)
    assert answer.status == 413
    assert await alice_works(world)


async def test_who_may_not_or_has_no_room_is_told_so_in_the_words_of_the_contexts_api(contexts, tokens):
    status, model = await contexts(tokens.issue("carol", "files"))("POST", body={})
    assert (status, model["code"]) == (403, "WRONG_SCOPE")
    status, model = await contexts(tokens.issue("nothing"))("POST", body={})
    assert (status, model["code"]) == (429, "QUOTA_EXCEEDED")


@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES)
async def test_a_context_that_is_none_is_refused_and_claims_nothing(people, contexts, raw):
    status, model = await contexts("alice")("POST", raw=raw)
    assert (status, model["code"]) == (400, "INVALID_REQUEST")
    assert (await people["alice"].get()).body["sandboxes"] == []


async def test_one_owners_sessions_are_bounded_and_the_oldest_ends(world, people):
    first = await Raw(world, "alice").begun()
    other = await Raw(world, "bob").begun()
    async with watched(world):
        for _ in range(MAX_VISITS):
            last = await Raw(world, "alice").begun()
    assert (await first.send(request("tools/list"))).code == 404
    for raw in (other, last):
        assert (await raw.send(request("tools/list"))).code == 200


FLOODS = {
    "text": "while True: print('x' * 10_000, flush=True)",
    "both streams in turn": "import sys\nwhile True: print('a', end='', flush=True); print('b', end='', file=sys.stderr)",
    "displays": "from IPython.display import display\nwhile True: display('x' * 10_000)",
    "images": "from IPython.display import Image, display\nwhile True: display(Image(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(50_000)))",
    "half characters": "import sys\nwhile True: print('\\ud800' * 1000)",
}


@pytest.mark.parametrize("code", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_output_ends_and_its_answer_is_bounded(world, people, code):
    raw = await Raw(world, "alice").begun()
    _, made = await raw.call("create_context", name="mine")
    mine = made["context_id"]
    async with watched(world):
        refused, ran = await raw.call("run_code", context_id=mine, code=code, timeout=4)
    assert (refused, ran["success"]) == (False, False)
    assert len(json.dumps(raw.answer)) < 16 << 20
    assert len(raw.answer["content"]) <= 33
    if "The context is over" in ran["stderr"]:  # it did not react to an interrupt in time
        assert await raw.call("run_code", context_id=mine, code="print(1)") == (True, GONE)
    else:
        assert "it wrote too much" in ran["stderr"] or "did not end in time" in ran["stderr"]
        assert (await raw.call("run_code", context_id=mine, code="print(1)"))[1]["stdout"] == "1\n"


LIES = """
from IPython.display import publish_display_data
publish_display_data({'image/png': '<svg onload=1>', 'text/plain': 'one'})
publish_display_data({'image/png': {'a': 1}, 'text/plain': ['two', 'lines']})
publish_display_data({'image/jpeg': '', 'image/png': '====', 'text/plain': 'three'})
"""


async def test_an_image_that_is_none_is_not_passed_on(world, people):
    raw = await Raw(world, "alice").begun()
    _, made = await raw.call("create_context", name="mine")
    refused, ran = await raw.call("run_code", context_id=made["context_id"], code=LIES)
    assert (refused, len(raw.answer["content"])) == (False, 1)
    assert "one" in ran["stdout"]
