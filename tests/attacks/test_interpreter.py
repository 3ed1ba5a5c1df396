"""The code interpreter's API: no way in but the header, no way to another owner's session, nothing that hurts the server."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from urllib.parse import urlencode, urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.simple_httpclient import HTTPTimeoutError

from tests.attacks.rest_world import as_person, watched
from tests.server.raw_http import opened, received

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


async def ask(url, method, path, body=None, *, token="alice", user=None, raw=None, **headers):
    query = f"?{urlencode({'user_uuid': user})}" if user else ""
    given = {} if token is None else {"X-Auth-Token": token}
    return await AsyncHTTPClient().fetch(
        f"{url}api/v1/{path}{query}",
        method=method,
        body=raw if raw is not None else None if body is None else json.dumps(body),
        headers=given | {name.replace("_", "-"): value for name, value in headers.items()},
        allow_nonstandard_methods=True,
        follow_redirects=False,
        raise_error=False,
        request_timeout=60,
    )


async def execute(url, code, user, token="alice"):
    response = await ask(url, "POST", "execute", {"code": code}, user=user, token=token)
    assert response.code == 200, response.body
    return json.loads(response.body)


@pytest.fixture
def user(world, jp_asyncio_loop):
    """A user of everybody here; its sessions are released."""
    name = str(uuid.uuid4())
    yield name
    for token in ("alice", "bob"):
        jp_asyncio_loop.run_until_complete(ask(world, "POST", "release", user=name, token=token))


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "token alice"},
        {"Cookie": "username-localhost=alice"},
        {"Authorization": "Basic " + base64.b64encode(b":alice").decode()},
        {"X_Auth_Token_": "alice"},
        {"Authorization": "Basic \u00e9"},
    ],
    ids=["jupyters-header", "a-cookie", "basic", "another-header", "nonsense"],
)
async def test_a_token_elsewhere_than_in_the_header_opens_nothing(world, headers, user):
    response = await ask(world, "POST", "execute", {"code": "1"}, token=None, user=user, **headers)
    assert response.code == 422
    assert json.loads(response.body)["detail"][0]["loc"] == ["header", "x-auth-token"]


async def test_a_token_in_the_url_opens_nothing(world):
    response = await AsyncHTTPClient().fetch(f"{world}api/v1/status?token=alice", raise_error=False)
    assert response.code == 422


@pytest.mark.parametrize("token", ["", "nobody", "alice bob", "jst_" + "0" * 64, "é", "a" * 60_000])
async def test_a_token_that_is_none_opens_nothing(world, token, user):
    response = await ask(world, "POST", "execute", {"code": "1"}, token=token, user=user)
    assert response.code in (401, 422, 400, 431)


async def test_the_same_user_of_two_owners_is_two_sessions(world, user):
    hers = await execute(world, "secret = 'hers'", user, token="alice")
    his = await execute(world, "'secret' in globals()", user, token="bob")
    assert (his["result_text"], his["worker_id"] == hers["worker_id"]) == ("False", False)
    assert (await ask(world, "POST", "release", user=user, token="bob")).code == 204
    assert (await execute(world, "secret", user, token="alice"))["result_text"] == "'hers'"
    status = json.loads((await ask(world, "GET", "status", token="bob")).body)
    assert status["busy_workers"] == 0


async def test_a_token_that_may_not_run_code_runs_none(world, tokens, user):
    for scopes in (("sandboxes",), ("files",), ("kernels:read",)):
        response = await ask(world, "POST", "execute", {"code": "1"}, token=tokens.issue("alice", *scopes), user=user)
        assert response.code == 403
        assert set(json.loads(response.body)) == {"detail"}


async def test_a_token_for_files_makes_no_sandbox(world, tokens, user):
    body = {"files": [{"path": "/sandbox", "name": "a", "download_url": "http://store.example/a"}]}
    assert (await ask(world, "POST", "files", body, token=tokens.issue("alice", "files"), user=user)).code == 403
    assert (await ask(world, "POST", "release", user=user)).code == 404


async def test_a_token_of_one_sandbox_reaches_no_session(world, user):
    alice = as_person(world, "alice")
    sandbox = await alice.claimed()
    token = (await alice.post(sandbox["id"], "tokens", body={"scopes": ["kernels", "files"]})).body["token"]
    for method, path in (("POST", "execute"), ("GET", "status"), ("POST", "release")):
        body = {"code": "1"} if path == "execute" else None
        response = await ask(world, method, path, body, token=token, user=user)
        assert response.code == 403
    await alice.delete(sandbox["id"])


async def test_a_page_cannot_make_a_browser_send_what_opens_anything(world, user):
    """A form or a simple request of another origin brings cookies, and no header of ours."""
    response = await ask(
        world,
        *("POST", "execute"),
        raw='{"code": "1"}',
        token=None,
        user=user,
        Origin="https://evil.example",
        Cookie="username-localhost=alice; _xsrf=1",
        Content_Type="text/plain",
    )
    assert response.code == 422
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_a_foreign_host_is_not_ours(world):
    """DNS rebinding: a page's own name leads here."""
    response = await ask(world, "GET", "status", Host="evil.example")
    assert response.code == 403


BODIES = {
    "not json": b"{",
    "not utf-8": b'{"code": "\xff"}',
    "half a character": b'{"code": "\\ud800"}',
    "twice the same": b'{"code": "1", "code": "2"}',
    "deep": b"[" * 100_000,
    "not a number": b'{"code": NaN}',
    "a number of digits": b'{"code": ' + b"9" * 10_000 + b"}",
    "wide": b'{"code": "", "x": [' + b"[]," * 5_000_000 + b"[]]}",
    "values": b'{"code": "", "x": [' + b"1," * 5_000_000 + b"1]}",
    "names": b"{" + b",".join(b'"%d": 1' % i for i in range(100_000)) + b"}",
}


@pytest.mark.parametrize("case", BODIES)
async def test_bodies_that_are_none_are_refused(world, user, case):
    async with watched(world, busy_s=0.5):
        response = await ask(world, "POST", "execute", raw=BODIES[case], user=user)
    assert response.code == 422
    assert len(response.body) < 100_000
    assert (await ask(world, "POST", "release", user=user)).code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/sandbox" + "/a.a" * 250 + "!",
        "/sandbox/" + "-" * 1000 + "!",
        "/sandbox\n",
        "/sandbox/a\0",
        "sandbox",
        "/sandboxed",
    ],
    ids=["many-parts", "one-part", "a-line-break", "nul", "relative", "beside"],
)
async def test_paths_that_are_none_are_refused_at_once(world, user, path):
    began = time.monotonic()
    response = await ask(world, "DELETE", "files", {"files": [{"path": path, "name": "a"}] * 100}, user=user)
    assert response.code == 422
    assert time.monotonic() - began < 5


async def test_a_body_that_is_too_large_is_refused_before_it_came(world, user):
    async with watched(world, busy_s=0.5):
        path = f"{urlsplit(world).path}api/v1/execute?user_uuid={user}"
        headers = {"X-Auth-Token": "alice", "Content-Type": "application/json", "Content-Length": str((24 << 20) + 1)}
        reader, writer = await opened(world, "POST", path, headers, token=None)
        answer = await received(reader, writer)
    assert (answer.status, answer.model) == (413, {"detail": f"the body has more than {24 << 20} bytes"})


async def test_what_the_code_says_is_data(world, user):
    code = """
import sys
from IPython.display import display
print("\\ud800 \\x00 </script> \\u2028")
class Odd:
    def _repr_mimebundle_(self, **_):
        return {"image/png": ["no", "base64 \\u0000"], "text/plain": ["a", "b"]}
display(Odd())
"""
    said = await execute(world, code, user)
    assert said["result_text"] is None or isinstance(said["result_text"], str)
    assert isinstance(said["result_base64"], str | None)
    raised = await execute(world, "class E(Exception): pass\nE.__name__ = 'x' * 10**6\nraise E('y' * 10**6)", user)
    assert len(raised["result_text"]) < 3_000


async def hang_up(url, code, user):
    """Ask for an execution and do not wait for its end."""
    with pytest.raises(HTTPTimeoutError):
        await AsyncHTTPClient(force_instance=True).fetch(
            f"{url}api/v1/execute?user_uuid={user}",
            method="POST",
            body=json.dumps({"code": code}),
            headers={"X-Auth-Token": "alice"},
            request_timeout=3,
        )


async def test_who_hangs_up_while_his_code_waits_or_runs_leaves_nothing_running(world, user):
    await execute(world, "import time; ran = []", user)
    await asyncio.gather(*(hang_up(world, "ran.append(1); time.sleep(30)", user) for _ in range(3)))
    began = time.monotonic()
    assert (await execute(world, "len(ran)", user))["result_text"] == "1"
    assert time.monotonic() - began < 15


async def test_code_that_does_not_obey_when_its_client_hangs_up_loses_its_session(world, user):
    await execute(world, "import time; kept = 1", user)
    deaf = "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass"
    await hang_up(world, deaf, user)
    began = time.monotonic()
    response = await ask(world, "POST", "execute", {"code": "'kept' in globals()"}, user=user)
    if response.code == 503:  # it came before the session was given up, and waited in it
        response = await ask(world, "POST", "execute", {"code": "'kept' in globals()"}, user=user)
    assert json.loads(response.body)["result_text"] == "False"
    assert time.monotonic() - began < 20


async def test_the_page_to_try_it_knows_no_secret_and_cannot_be_framed(world):
    response = await AsyncHTTPClient().fetch(f"{world}sandbox/try")
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in response.headers
