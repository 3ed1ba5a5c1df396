"""Tokens and owners in a server as most have it: Jupyter's own token, and those that an operator issued."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from datetime import UTC, datetime

import pytest
from jupyter_server.auth import AllowAllAuthorizer
from tornado.httpclient import HTTPClientError
from traitlets.config import Config

from jupyter_sandbox import tokens
from jupyter_sandbox.events import RequestRefused
from jupyter_sandbox.token_file import TokenFile
from tests.server.rest import Rest

AUTHORIZER = "jupyter_sandbox.authorizer.OwnerAuthorizer"


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "tokens.json")


@pytest.fixture
def jp_server_config(jp_server_config, file):
    """Tokens are taken, and every owner may ask three times a minute."""
    jp_server_config.merge(
        Config(
            {
                "ServerApp": {
                    "identity_provider_class": "jupyter_sandbox.identity.SandboxIdentityProvider",
                    "authorizer_class": AUTHORIZER,
                },
                "OwnerTokens": {"token_file": str(file.path)},
                "Rates": {"reads_per_minute": 3, "writes_per_minute": 3, "executions_per_minute": 1},
            }
        )
    )
    return jp_server_config


@pytest.fixture
def issue(file):
    def make(owner="alice", scopes=("sandboxes", "kernels", "files")):
        token_id, text, digest = tokens.mint()
        values = {"id": token_id, "owner": owner, "scopes": scopes, "created_at": datetime.now(UTC)}
        file.change(lambda stored: (*stored, tokens.Token(**values, expires_at=None, digest=digest)))
        return text

    return make


@pytest.fixture
def fetch(http_server_client, jp_base_url):
    """A request without the credentials that pytest-jupyter adds."""

    async def ask(*parts, headers=None, params=None, **how):
        path = "/".join(parts)
        return await http_server_client.fetch(f"{jp_base_url}{path}", headers=headers, raise_error=False, **how)

    return ask


@pytest.fixture
def program(fetch, issue):
    """A REST client with a token: `rest = program("alice")`."""

    def make(owner="alice", *scopes):
        async def ask(*parts, **how):
            return await fetch(*parts, **{name: value for name, value in how.items() if name != "raise_error"})

        text = issue(owner, *([scopes] if scopes else []))
        rest = Rest(ask, headers={"Authorization": f"token {text}"})
        rest.token = text
        return rest

    return make


async def test_who_asks_too_often_is_told_when_to_ask_again(rest, program, fetch):
    alice, bob = program("alice"), program("bob")
    for left in (2, 1, 0):
        reply = await alice.get()
        assert reply.status == 200
        assert reply.headers["RateLimit-Policy"] == '"read";q=3;w=60'
        assert reply.headers["RateLimit"].startswith(f'"read";r={left};t=')
    reply = await alice.get()
    assert (reply.status, reply.code) == (429, "rate_limited")
    assert 1 <= int(reply.headers["Retry-After"]) <= 20
    assert reply.headers["RateLimit"].startswith('"read";r=0;t=')
    mine = {"Authorization": f"token {alice.token}"}
    refused = await fetch("api", "kernels", headers=mine)
    assert (refused.code, refused.reason) == (429, "Refused (rate_limited)")
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert refused.headers["RateLimit-Policy"] == '"read";q=3;w=60'
    assert (await bob.get()).status == 200, "an owner's rate is its own"
    assert (await alice.delete(f"sbx_{'0' * 20}")).status == 404, "so is a kind's"
    for _ in range(10):  # who logs in to the server as its only owner has none
        reply = await rest.get()
        assert (reply.status, "RateLimit" in reply.headers) == (200, False)


async def test_two_tokens_of_an_owner_share_its_rate(program):
    first, second = program("alice"), program("alice")
    assert [(await rest.get()).status for rest in (first, second, first, second)] == [200, 200, 200, 429]


async def test_connections_to_kernels_count_as_executions(rest, jp_ws_fetch):
    context = await rest.context()
    token = (await rest.post(context.sandbox_id, "tokens", body={})).body["token"]
    where = {"params": {"session_id": "x"}, "headers": {"Authorization": f"token {token}"}}
    websocket = await jp_ws_fetch("api", "kernels", context.id, "channels", **where)
    with pytest.raises(HTTPClientError) as refused:
        await jp_ws_fetch("api", "kernels", context.id, "channels", **where)
    assert refused.value.code == 429
    await rest.delete(context.sandbox_id)
    websocket.close()
    while await websocket.read_message() is not None:
        pass


async def test_the_servers_own_token_is_one_owner_beside_those_with_tokens(rest, program, start_kernel, jp_fetch):
    kernel = await start_kernel()
    alice = program("alice")
    assert (await alice.get()).body["sandboxes"] == []
    mine = (await alice.claimed())["id"]
    assert mine not in {sandbox["id"] for sandbox in (await rest.get()).body["sandboxes"]}
    assert (await rest.get(mine)).status == 404
    listed = json.loads((await jp_fetch("api", "kernels")).body)
    assert [each["id"] for each in listed] == [kernel]
    await alice.delete(mine)


async def test_a_cookie_is_no_help_to_a_bad_token(rest, fetch):
    reply = await rest.get("openapi.json")
    cookies = "; ".join(cookie.split(";")[0] for cookie in reply.headers.get_list("Set-Cookie"))
    assert "username" in cookies
    bad = {"Cookie": cookies, "Authorization": f"token jst_{'0' * 20}_{'x' * 43}"}
    assert (await fetch("api", "kernels", headers={"Cookie": cookies, "Referer": "x"})).code in {200, 403}
    for path in (("api", "kernels"), ("api", "sandboxes"), ("api", "contents")):
        assert (await fetch(*path, headers=bad)).code == 403


async def test_a_sandboxs_token_of_the_server_s_own_owner(rest, fetch, jp_fetch):
    """A person lets a program into one sandbox."""
    box = (await rest.claimed())["id"]
    context = await rest.context(box)
    issued = (await rest.post(box, "tokens", body={"scopes": ["kernels"]})).body
    assert issued["scopes"] == ["sandboxes:read", "kernels"]

    async def ask(*parts, **how):
        return await fetch(*parts, **{name: value for name, value in how.items() if name != "raise_error"})

    program = Rest(ask, headers={"Authorization": f"token {issued['token']}"})
    execution = await program.post(*context.parts, "executions", body={"code": "print(6 * 7)"})
    assert execution.body["outputs"][0]["text"] == "42\n"
    assert (await program.post(*context.parts, "executions", body={"code": "1"})).code == "rate_limited"
    await rest.delete(box)
    assert (await program.get(box)).code == "invalid_token"


@pytest.mark.parametrize("exclusive", [False, True])
def test_tokens_without_our_authorizer_keep_the_server_from_starting(
    jp_configurable_serverapp, jp_server_config, capfd, exclusive
):
    jp_server_config.ServerApp.authorizer_class = AllowAllAuthorizer
    jp_server_config.SandboxExtension.exclusive = exclusive
    with pytest.raises(SystemExit) as ending:
        jp_configurable_serverapp(config=jp_server_config)
    assert ending.value.code == 1
    assert "jupyter_sandbox.authorizer.OwnerAuthorizer" in capfd.readouterr().err


def test_a_file_of_tokens_that_others_may_read_keeps_the_server_from_starting(
    jp_configurable_serverapp, jp_server_config, capfd, file, issue
):
    issue()
    file.path.chmod(0o644)
    with pytest.raises(SystemExit):
        jp_configurable_serverapp(config=jp_server_config)
    assert "chmod 600" in capfd.readouterr().err


async def test_who_is_kept_out_of_jupyters_own_routes_is_told_to_auditors(jp_serverapp, jp_fetch, jp_ws_fetch, issue):
    """A kernel that is another's or nobody's, a token without the scope, too many requests, over HTTP and a websocket."""
    heard, log = [], logging.StreamHandler(io.StringIO())
    log.emit = lambda record: heard.append(json.loads(log.format(record)))
    jp_serverapp.event_logger.register_handler(log)
    text = issue(scopes=("kernels:read",))
    headers = {"Authorization": f"token {text}"}
    nobodys = "0a0b0c0d-0000-4000-8000-000000000000"

    async def codes(expected):
        async with asyncio.timeout(10):
            while [each["code"] for each in heard if each["__schema__"] == RequestRefused.schema_id()] != expected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    with pytest.raises(HTTPClientError):
        await jp_fetch("api", "kernels", nobodys, headers=headers)
    await codes(["unknown_context"])
    with pytest.raises(HTTPClientError):
        await jp_fetch("api", "kernels", method="POST", body="{}", headers=headers)
    await codes(["unknown_context", "wrong_scope"])
    with pytest.raises(HTTPClientError):
        await jp_ws_fetch("api", "kernels", nobodys, "channels", headers=headers)
    await codes(["unknown_context", "wrong_scope", "unknown_context"])
