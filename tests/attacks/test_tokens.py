"""Tokens: what is none, over, revoked, too narrow or another sandbox's opens nothing, and what is open with it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from jupyter_sandbox import tokens as product
from jupyter_sandbox.surfaces.native import models, operations
from tests.attacks.rest_world import as_person, once_refused, watched
from tests.server.server_process import request

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

SOON_S = 20
"""Within a second, or so: the server looks once a second, and this machine may be busy."""
TABLE = operations.table(models.Times())
KEY = "x" * 43


async def fetch(url: str, path: str, token: str | None = None, method: str = "GET", **headers):
    given = {} if token is None else {"Authorization": f"token {token}"}
    return await AsyncHTTPClient().fetch(
        f"{url}{path}",
        method=method,
        headers=given | {name.replace("_", "-"): value for name, value in headers.items()},
        allow_nonstandard_methods=True,
        follow_redirects=False,
        raise_error=False,
        request_timeout=30,
    )


@pytest.fixture
def connect(world, jp_asyncio_loop):
    """Open a websocket: `websocket = await connect("api/events/subscribe", token)`."""
    opened = []

    async def make(path, token):
        url = f"{world.replace('http', 'ws', 1)}{path}"
        opened.append(await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {token}"})))
        return opened[-1]

    yield make

    async def close():
        for websocket in opened:
            websocket.close()
            while websocket.protocol is not None:  # noqa: ASYNC110 - tornado has no event for it
                await asyncio.sleep(0.01)

    jp_asyncio_loop.run_until_complete(close())


@pytest.fixture
def channels(connect):
    """Open a kernel's websocket, each for a tab of its own: the second one of a tab replaces the first."""
    tabs = itertools.count()
    return lambda kernel_id, token: connect(f"api/kernels/{kernel_id}/channels?session_id={next(tabs)}", token)


async def refused_soon(rest, *path) -> None:
    """Wait until a client is refused."""
    reply = await once_refused(lambda: rest.get(*path), within_s=SOON_S)
    assert (reply.status, reply.code) == (403, "invalid_token")


async def closed_soon(websocket) -> tuple[int, str]:
    """Wait until the server hangs up; return what it says."""
    async with asyncio.timeout(SOON_S):
        while await websocket.read_message() is not None:
            pass
    return websocket.close_code, websocket.close_reason


NONE = {
    "only a prefix": "jst_",
    "no secret": "jst_" + "0" * 20,
    "a secret that is too short": f"jst_{'0' * 20}_{KEY[1:]}",
    "a secret that is too long": f"jst_{'0' * 20}_{KEY}x",
    "an id in capitals": f"jst_{'A' * 20}_{KEY}",
    "an unknown id": f"jst_{'0' * 20}_{KEY}",
    "an id for a token": f"tok_{'0' * 20}",
    "something after it": f"jst_{'0' * 20}_{KEY}; x",
    "a path": f"jst_{'0' * 20}_{'../' * 14}x",
    "latin-1": f"jst_{'0' * 20}_{'é' * 43}",
    "percents": f"jst_{'0' * 20}_%s%n{KEY[4:]}",
    "60 000 characters": "jst_" + "0" * 60_000,
}


@pytest.mark.parametrize("token", NONE.values(), ids=NONE)
async def test_what_is_no_token_opens_nothing(world, token, channels):
    for path in ("api/sandboxes", "api/kernels", "api/sessions", "api/contents", "lab", "api/sandboxes/openapi.json"):
        for scheme in ("token", "Bearer"):
            response = await fetch(world, path, Authorization=f"{scheme} {token}")
            is_sent_to_log_in = response.code == 302 and "login" in response.headers["Location"]
            assert response.code == 403 or (path == "lab" and is_sent_to_log_in), (path, scheme)
            assert token not in response.body.decode()
    with pytest.raises(HTTPClientError) as closed:
        await channels("0-0-0-0-0", token)
    assert closed.value.code == 403


@pytest.mark.parametrize("token", [token for token in NONE.values() if token.startswith("jst_") and len(token) < 1000])
async def test_what_is_no_token_opens_nothing_in_the_query_either(world, token):
    for path in ("api/sandboxes", "api/kernels", "api/contents", "lab"):
        assert (await fetch(world, f"{path}?{urlencode({'token': token})}")).code == 403


async def test_a_token_with_another_ones_secret_is_none(world, tokens):
    first, second = tokens.issue("alice"), tokens.issue("alice")
    mixed = first[:25] + second[25:]
    assert (product.id_in(mixed), product.id_in(first)) == (product.id_in(first), product.id_in(mixed))
    reply = await as_person(world, mixed).get()
    assert (reply.status, reply.code) == (403, "invalid_token")


async def test_a_token_works_at_once_in_a_header_or_the_query_and_makes_no_cookie(world, tokens):
    for form in ("token", "Bearer", "query"):
        token = tokens.issue("alice")
        if form == "query":
            response = await fetch(world, f"api/sandboxes?{urlencode({'token': token})}")
        else:
            response = await fetch(world, "api/sandboxes", Authorization=f"{form} {token}")
        assert (response.code, json.loads(response.body)["sandboxes"]) == (200, [])
        assert [cookie for cookie in response.headers.get_list("Set-Cookie") if "username" in cookie] == []


async def test_a_bad_token_is_not_made_good_by_a_persons_credentials(world):
    """The explicit one counts."""
    response = await fetch(world, f"api/sandboxes?token=jst_{'0' * 20}_{KEY}", Authorization="token alice")
    assert response.code == 403


async def test_a_token_that_is_over_says_so_to_who_has_it(world, tokens):
    token = tokens.issue("alice", expires_in_s=5)
    rest = as_person(world, token)
    assert (await rest.get()).status == 200
    await refused_soon(rest)
    assert "time" in (await rest.get()).body["message"]
    other = as_person(world, token[:-1] + ("A" if token[-1] != "A" else "B"))
    assert "not known" in (await other.get()).body["message"]


async def test_a_revoked_token_is_refused_and_its_websockets_and_streams_are_closed(
    world, tokens, program, channels, connect
):
    rest, other = program("alice"), program("alice")
    context = await rest.context()
    websocket = await channels(context.id, rest.token)
    untouched = await channels(context.id, other.token)
    listener = await connect("api/events/subscribe", rest.token)
    body = json.dumps({"code": "import time\nwhile True: print(1, flush=True); time.sleep(0.05)", "timeout_s": 600})
    stream = AsyncHTTPClient(force_instance=True).fetch(
        f"{world}api/sandboxes/{context.sandbox_id}/contexts/{context.id}/executions",
        method="POST",
        body=body,
        headers={"Authorization": f"token {rest.token}", "Accept": "application/x-ndjson"},
        request_timeout=600,
    )
    while (await other.get(*context.parts)).body["state"] != "busy":  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.02)
    tokens.revoke(rest.token)
    await refused_soon(rest)
    assert await closed_soon(websocket) == (1008, "the token is not good any more")
    assert await closed_soon(listener) == (1008, "the token is not good any more")
    async with asyncio.timeout(SOON_S):
        with pytest.raises((HTTPClientError, OSError)):
            await stream
    async with asyncio.timeout(SOON_S):  # the stream's execution ended with it
        while (await other.get(*context.parts)).body["state"] != "idle":  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.02)
    assert untouched.close_code is None


async def test_a_websocket_ends_with_the_time_of_its_token(world, tokens, program, channels):
    context = await program("alice").context()
    websocket = await channels(context.id, tokens.issue("alice", expires_in_s=5))
    assert await closed_soon(websocket) == (1008, "the token is not good any more")


async def test_a_file_of_tokens_that_others_may_write_holds_none(world, tokens):
    rest = as_person(world, tokens.issue("alice"))
    assert (await rest.get()).status == 200
    tokens.file.path.chmod(0o666)
    try:
        await refused_soon(rest)
    finally:
        tokens.file.path.chmod(0o600)
    async with asyncio.timeout(SOON_S):
        while (await rest.get()).status != 200:
            pass
    assert "others may read or write it" in tokens.log.read_text()


async def test_guesses_take_neither_memory_nor_the_loop(world):
    guesses = [f"jst_{number:020x}_{KEY}" for number in range(1000)]
    async with watched(world):
        client = AsyncHTTPClient(force_instance=True, max_clients=20)
        waits = {"connect_timeout": 100, "request_timeout": 100, "raise_error": False}
        headers = [{"Authorization": f"token {guess}"} for guess in guesses]
        answers = await asyncio.gather(
            *(client.fetch(f"{world}api/sandboxes", headers=each, **waits) for each in headers)
        )
    assert {answer.code for answer in answers} == {403}


# -- scopes


@pytest.mark.parametrize("scope", product.SCOPES)
async def test_a_scope_opens_its_own_operations_of_the_table_and_no_other(world, tokens, scope):
    rest = as_person(world, tokens.issue("dave", scope))
    ids = {"sandbox_id": f"sbx_{'0' * 20}", "context_id": "0-0-0-0-0", "execution_id": f"exe_{'0' * 20}"}
    ids |= {"command_id": f"cmd_{'0' * 20}", "token_id": f"tok_{'0' * 20}", "path": "a", "template": "python"}
    refused = opened = 0
    for operation in TABLE:
        if operation.resource is None or operation.name in {"claim_sandbox", "issue_token"}:
            continue
        parts = operation.path.removeprefix("/api/sandboxes").strip("/").format(**ids).split("/")
        reply = await rest(operation.method, *filter(None, parts))
        if product.allows([scope], operation.resource, operation.action):
            is_an_operators = operation.name in {"put_template", "delete_template"} and reply.code == "forbidden"
            assert is_an_operators or reply.status in {200, 400, 404}, operation.name
            opened += 1
        else:
            assert (reply.status, reply.code) == (403, "wrong_scope"), operation.name
            refused += 1
    assert opened
    assert refused
    allowed = product.allows([scope], "kernels", "read")
    for path in ("api/kernels", "api/sessions", "api/kernelspecs", "api/status"):
        assert ((await fetch(world, path, rest._headers["Authorization"].split()[1])).code == 200) == allowed


async def test_who_may_only_look_at_kernels_opens_no_websocket_and_makes_no_kernel(world, program, channels, connect):
    context = await program("alice").context()
    rest = program("alice", "kernels:read", "sandboxes:read")
    with pytest.raises(HTTPClientError) as closed:
        await channels(context.id, rest.token)
    assert (closed.value.code, closed.value.message) == (403, "Refused (wrong_scope)")
    with pytest.raises(HTTPClientError) as closed:
        await connect("api/events/subscribe", rest.token)
    assert closed.value.code == 403
    for path, method in ((f"api/kernels/{context.id}", "DELETE"), (f"api/kernels/{context.id}/restart", "POST")):
        response = await fetch(world, path, rest.token, method)
        assert (response.code, response.reason) == (403, "Refused (wrong_scope)")
    assert (await rest.get(*context.parts)).status == 200


# -- tokens of one sandbox


@pytest.fixture
def sandbox_token(world, tokens, program):
    """Issue one: `rest, box = await sandbox_token(owner_rest)`."""

    async def issue(rest, **body):
        box = (await rest.claimed())["id"]
        reply = await rest.post(box, "tokens", body=body)
        assert reply.status == 201, reply
        assert reply.headers["Location"].endswith(f"/{box}/tokens/{reply.body['id']}")
        tokens.secrets.append(reply.body["token"])
        holder = as_person(world, reply.body["token"])
        holder.token, holder.token_id = reply.body["token"], reply.body["id"]
        return holder, box

    return issue


async def test_a_token_of_a_sandbox_reaches_that_one_only(world, program, sandbox_token, channels):
    alice = program("alice")
    holder, box = await sandbox_token(alice)
    mine, other = await alice.context(box), await alice.context()
    assert (await holder.get(box)).body["contexts"] == [mine.id]
    assert (await holder.post(*mine.parts, "executions", body={"code": "1"})).body["outcome"] == "ok"
    assert (await holder("PUT", box, "files", "a", raw="x")).status == 201
    for parts in ((other.sandbox_id,), other.parts, (other.sandbox_id, "files", "a")):
        reply = await holder.get(*parts)
        assert (reply.status, reply.code) == (404, "unknown_sandbox")
    assert (await holder.get(box, "contexts", other.id)).status == 404
    for reply in (
        await holder.get(),
        await holder.post(body={}),
        await holder.post(box, "renew", body={"timeout_s": 60}),
        await holder.delete(box),
        await holder.post(box, "tokens", body={}),
        await holder.get(box, "tokens"),
        await holder.delete(box, "tokens", holder.token_id),
    ):
        assert (reply.status, reply.code) == (403, "wrong_scope")
    listed = json.loads((await fetch(world, "api/kernels", holder.token)).body)
    assert [kernel["id"] for kernel in listed] == [mine.id]
    assert (await fetch(world, f"api/kernels/{other.id}", holder.token)).code == 404
    with pytest.raises(HTTPClientError) as closed:
        await channels(other.id, holder.token)
    assert closed.value.code == 404
    await channels(mine.id, holder.token)
    made = await AsyncHTTPClient().fetch(
        f"{world}api/kernels",
        method="POST",
        body='{"name": "sandbox-python"}',
        headers={"Authorization": f"token {holder.token}"},
        raise_error=False,
    )
    assert (made.code, made.reason) == (403, "Refused (wrong_scope)")


@pytest.mark.parametrize(
    "how", ["the sandbox is released", "it is revoked", "the issuer's is revoked", "its time is over"]
)
async def test_a_token_of_a_sandbox_ends(world, tokens, program, sandbox_token, how, channels):
    alice, issuer = program("alice"), program("alice")
    holder, box = await sandbox_token(issuer, timeout_s=2 if how == "its time is over" else 60)
    context = await alice.context(box)
    websocket = await channels(context.id, holder.token)
    assert (await holder.get(box)).status == 200
    match how:
        case "the sandbox is released":
            await alice.delete(box)
        case "it is revoked":
            assert (await alice.delete(box, "tokens", holder.token_id)).status == 204
            assert (await alice.delete(box, "tokens", holder.token_id)).code == "unknown_token"
        case "the issuer's is revoked":
            tokens.revoke(issuer.token)
    await refused_soon(holder, box)
    with contextlib.suppress(TimeoutError):
        await closed_soon(websocket)
    assert websocket.close_code is not None or how == "the sandbox is released"
    listed = await alice.get(box, "tokens")
    assert listed.status == 404 or how == "the issuer's is revoked" or listed.body["tokens"] == []


async def test_nobody_issues_more_than_he_has(program, sandbox_token):
    holder, box = await sandbox_token(program("alice"), scopes=["files:read"])
    assert (await holder.get(box, "files", "")).status == 200
    assert (await holder("PUT", box, "files", "a", raw="x")).code == "wrong_scope"
    assert (await holder.get(box, "contexts")).code == "wrong_scope"
    narrow = program("alice", "sandboxes", "files:read")
    assert (await narrow.post(box, "tokens", body={"scopes": ["files:read"]})).status == 201
    for scopes in (["files"], ["kernels:read"], ["files:read", "kernels"]):
        assert (await narrow.post(box, "tokens", body={"scopes": scopes})).code == "wrong_scope"
    for body in ({"scopes": ["sandboxes"]}, {"scopes": []}, {"timeout_s": 0}, {"timeout_s": 1e9}, {"owner": "bob"}):
        assert (await narrow.post(box, "tokens", body=body)).code == "invalid_request"


async def test_tokens_of_a_sandbox_are_bounded_and_never_shown_again(program, sandbox_token):
    alice = program("alice")
    holder, box = await sandbox_token(alice)
    replies = await asyncio.gather(*(alice.post(box, "tokens", body={}) for _ in range(40)))
    assert sorted(reply.status for reply in replies) == [201] * 31 + [503] * 9
    listed = (await alice.get(box, "tokens")).body
    assert len(listed["tokens"]) == 32
    assert holder.token[-43:] not in json.dumps(listed)
    await alice.delete(box, "tokens", holder.token_id)
    assert (await alice.post(box, "tokens", body={})).status == 201


async def test_the_operators_command_and_a_server_agree(world, tokens, jp_asyncio_loop):
    """Issued, listed and revoked as an operator does it."""

    async def command(*arguments):
        process = await asyncio.create_subprocess_exec(
            "jupyter-sandbox", "token", *arguments, f"--file={tokens.file.path}", stdout=-1, stderr=-1
        )
        out, told = await process.communicate()
        assert process.returncode == 0, told
        return out.decode()

    text = (await command("create", "--owner=erin", "--scope=sandboxes:read", "--expires=1h")).strip()
    tokens.secrets.append(text)
    rest = as_person(world, text)
    assert (await rest.get()).status == 200
    assert (await rest.post(body={})).code == "wrong_scope"
    (shown,) = [line for line in (await command("list", "--owner=erin")).splitlines() if "tok_" in line]
    assert text[-43:] not in shown
    await command("revoke", shown.split()[0])
    await refused_soon(rest)
    assert await request(f"{world}api/kernels") == []
