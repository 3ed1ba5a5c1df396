"""The contexts API: every row, field and error of its table, with real kernels."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from traitlets.config import Config

from jupyter_sandbox import named_sandboxes
from jupyter_sandbox.executions import Bounds
from tests.conftest import eventually
from tests.server.brokers import nothing_is_claimed, sandboxes
from tests.server.contexts import ContextsApi

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GONE = (404, {"error": "Context not found", "code": "CONTEXT_NOT_FOUND"})


@pytest.fixture
def jp_server_config(jp_server_config, request):
    """With the settings that `@pytest.mark.parametrize("settings", …)` names, if a test does."""
    if "settings" in request.fixturenames:
        jp_server_config.merge(Config({"ContextsApi": request.getfixturevalue("settings")}))
    return jp_server_config


@pytest.fixture
def contexts(jp_fetch, jp_asyncio_loop):
    """A client with the server's token; what it has made ends with the test."""
    client = ContextsApi(jp_fetch)
    yield client
    jp_asyncio_loop.run_until_complete(end_all(client))


async def end_all(client):
    status, left = await client("GET")
    for context in left if status == 200 else ():
        await client("DELETE", context["context_id"])


async def test_a_context_has_the_shape_of_the_api_and_is_listed_until_it_is_deleted(contexts):
    body = {"type": "jupyter", "language": "python", "session_name": "mine", "working_dir": "/workspace"}
    status, made = await contexts("POST", body=body)
    assert status == 200
    assert set(made) == {"context_id", "type", "status", "created_at"}
    assert re.fullmatch(r"ctx-[0-9a-f]{20}", made["context_id"])
    assert (made["type"], made["status"]) == ("jupyter", "active")
    assert made["created_at"].endswith("Z")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(made["created_at"])) < timedelta(minutes=1)
    other = await contexts.created()
    status, listed = await contexts("GET")
    assert (status, listed[0], [each["context_id"] for each in listed]) == (200, made, [made["context_id"], other])
    assert await contexts("DELETE", other) == (200, {"context_id": other, "status": "deleted"})
    assert await contexts("DELETE", other) == GONE
    assert await contexts("POST", other, "execute", body={"code": "1"}) == GONE
    assert (await contexts("GET"))[1] == [made]


async def test_code_keeps_its_state_and_answers_what_it_printed(contexts):
    context = await contexts.created()
    assert await contexts.ran(context, "x = 41") == {
        "output": {"stdout": "", "stderr": ""},
        "success": True,
        "execution_time": pytest.approx(0, abs=5),
    }
    ran = await contexts.ran(context, "import sys; print('out'); print('err', file=sys.stderr)\nx + 1", timeout=30)
    assert set(ran) == {"output", "success", "execution_time"}
    assert ran["output"] == {"stdout": "out\n42\n", "stderr": "err\n"}
    assert 0 < ran["execution_time"] < 5


async def test_an_exception_is_no_success_and_its_traceback_is_among_the_errors(contexts):
    context = await contexts.created()
    ran = await contexts.ran(context, "print('before')\n{}['key']")
    assert (ran["success"], ran["output"]["stdout"]) == (False, "before\n")
    assert ran["output"]["stderr"].rstrip().endswith("KeyError: 'key'")
    assert "Traceback" in ran["output"]["stderr"]
    assert "\x1b" not in ran["output"]["stderr"]
    assert not (await contexts.ran(context, "this is no code"))["success"]
    assert await contexts.printed(context, "print(1)") == "1\n"


async def test_every_context_has_a_sandbox_of_its_own(contexts):
    one, two = await asyncio.gather(contexts.created(), contexts.created())
    await contexts.ran(one, "x = 1; open('/sandbox/file', 'w').close()")
    assert await contexts.printed(two, "import os; print('x' in globals(), os.listdir('/sandbox'))") == "False []\n"
    assert len(await sandboxes()) == 2


@pytest.mark.parametrize("body", [{}, {"working_dir": "/workspace"}, {"working_dir": "/sandbox"}], ids=str)
async def test_code_starts_in_the_sandboxes_disk(contexts, body):
    context = await contexts.created(**body)
    code = "import os; open('file', 'w').write('x'); print(os.getcwd(), os.path.exists('/sandbox/file'))"
    assert await contexts.printed(context, code) == "/sandbox True\n"


@pytest.mark.parametrize("working_dir", ["/workspace/a/ü b", "/sandbox/a/ü b"])
async def test_a_working_directory_that_is_missing_is_made(contexts, working_dir):
    context = await contexts.created(working_dir=working_dir)
    code = "import os; open('file', 'w').write('x'); print(os.getcwd(), os.listdir('/sandbox/a'))"
    assert await contexts.printed(context, code) == "/sandbox/a/ü b ['ü b']\n"


@pytest.mark.parametrize(
    "body",
    [
        {"type": "docker"},
        {"language": "cobol"},
        {"session_name": "a\nb"},
        {"session_name": 1},
        {"working_dir": "/etc"},
        {"working_dir": "/sandbox/../etc"},
        {"working_dir": "/sandbox/" + "x" * 300},
        {"working_dir": "/sandbox/a\x01"},
        {"owner": "bob"},
        [],
        None,
        "text",
    ],
    ids=str,
)
async def test_a_context_that_is_none_is_refused_and_claims_nothing(contexts, body):
    status, model = await contexts("POST", raw=json.dumps(body))
    assert (status, model["code"]) == (400, "INVALID_REQUEST")
    assert await sandboxes() == []


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"code": 1}, {"code": "\ud800"}, {"code": "1", "timeout": 0}, {"code": "1", "timeout": 3601}),
        *({"code": "1", "timeout": "30"}, {"code": "1", "language": "python"}, {"code": "x" * ((1 << 20) + 1)}),
    ],
    ids=lambda body: str(body)[:40],
)
async def test_an_execution_that_is_none_is_refused(contexts, body):
    status, model = await contexts("POST", "ctx-0", "execute", raw=json.dumps(body))
    assert (status, model["code"]) == (400, "INVALID_REQUEST")


async def test_what_there_is_not_is_told(contexts):
    for request in (("DELETE", "ctx-0"), ("DELETE", "ü"), ("DELETE", "x" * 300)):
        assert await contexts(*request) == GONE
    assert await contexts("POST", "ctx-0", "execute", body={"code": "1"}) == GONE
    for request in (("DELETE",), ("GET", "ctx-0"), ("POST", "ctx-0"), ("GET", "ctx-0", "execute")):
        status, model = await contexts(*request)
        assert (status, model["code"]) == (405, "METHOD_NOT_ALLOWED"), request
    status, model = await contexts("GET", params={"full": "yes"})
    assert (status, model["code"]) == (400, "INVALID_REQUEST")


async def test_code_that_does_not_end_is_interrupted_and_leaves_the_context(contexts, rest):
    rest.services.executions.bounds = Bounds(grace_s=20)
    context = await contexts.created()
    await contexts.ran(context, "x = 1")
    ran = await contexts.ran(context, "print('began')\nimport time\nwhile True: time.sleep(0.01)", timeout=3)
    assert (ran["success"], ran["output"]["stdout"]) == (False, "began\n")
    assert "did not end in time" in ran["output"]["stderr"]
    assert 2.9 < ran["execution_time"] < 20
    assert await contexts.printed(context, "print(x)") == "1\n"


STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


@pytest.mark.parametrize("code", ["import os; os._exit(3)", STUBBORN], ids=["it dies", "it does not react"])
async def test_a_kernel_that_is_lost_takes_its_context_along(contexts, code):
    context = await contexts.created()
    await contexts.ran(context, "1")
    ran = await contexts.ran(context, code, timeout=3)
    assert not ran["success"]
    assert "The context is over" in ran["output"]["stderr"]
    assert await contexts("POST", context, "execute", body={"code": "1"}) == GONE
    assert (await contexts("GET"))[1] == []
    await nothing_is_claimed()


async def test_a_client_that_hangs_up_interrupts_its_code(
    contexts, http_server_port, jp_base_url, jp_auth_header, jp_serverapp
):
    kernels = jp_serverapp.kernel_manager
    context = await contexts.created()
    _, writer = await asyncio.open_connection("127.0.0.1", http_server_port[1])
    code = "import time\ntry:\n [time.sleep(0.05) for _ in range(400)]\nexcept KeyboardInterrupt:\n was = 'interrupted'"
    body = json.dumps({"code": code}).encode()
    head = f"POST {jp_base_url}api/v1/contexts/{context}/execute HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Authorization: {jp_auth_header['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await eventually(
        lambda: [kernels.get_kernel(each).execution_state for each in kernels.list_kernel_ids()] == ["busy"]
    )
    writer.close()
    assert await contexts.printed(context, "print(was)") == "interrupted\n"


async def test_more_is_told_to_who_wants_it(contexts):
    status, made = await contexts("POST", body={"session_name": "mine"}, params={"full": "true"})
    assert status == 200
    assert {name: made[name] for name in ("name", "language", "working_dir")} == {
        "name": "mine",
        "language": "python",
        "working_dir": "/sandbox",
    }
    assert (await contexts("GET", params={"full": "true"}))[1] == [made]
    code = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{PNG}'))"
    ran = await contexts.ran(made["context_id"], code, full=True)
    assert ran["images"] == [{"mime_type": "image/png", "data": PNG}]
    assert ran["output"]["stdout"].startswith("<IPython.core.display.Image")
    assert "images" not in await contexts.ran(made["context_id"], "1")


@pytest.mark.parametrize("settings", [{"idle_s": 1}])
async def test_a_context_that_nobody_uses_is_given_back(contexts, settings):
    context = await contexts.created()
    ran = await contexts.ran(context, "import time; time.sleep(1.5)")
    assert ran["success"], "what runs is in use"
    await nothing_is_claimed()
    assert await contexts("DELETE", context) == GONE


@pytest.mark.parametrize("settings", [{"timeout_s": 3, "max_timeout_s": 20}])
async def test_the_times_of_code_are_the_operators(contexts, rest, settings):
    rest.services.executions.bounds = Bounds(grace_s=20)
    context = await contexts.created()
    await contexts.ran(context, "import time", timeout=20)
    ran = await contexts.ran(context, "time.sleep(60)")
    assert "did not end in time" in ran["output"]["stderr"]
    assert ran["execution_time"] < 20
    assert (await contexts.ran(context, "time.sleep(3.5)", timeout=20))["success"]
    status, _ = await contexts("POST", context, "execute", body={"code": "1", "timeout": 20.1})
    assert status == 400


@pytest.mark.parametrize("settings", [{"template": "only-one"}])
async def test_a_template_that_is_full_is_told(contexts, settings):
    await contexts.created()
    status, model = await contexts("POST", body={})
    assert (status, model["code"]) == (503, "NO_CAPACITY")


async def test_an_owner_who_asks_too_often_is_told_when_to_ask_again(owners_token, contexts):
    contexts._headers = {"Authorization": f"token {owners_token('sandboxes', 'kernels')}"}
    context = await contexts.created()
    assert [await contexts.printed(context, f"print({n})") for n in range(2)] == ["0\n", "1\n"]
    refused = await contexts.response("POST", context, "execute", body={"code": "1"})
    assert (refused.code, json.loads(refused.body)["code"]) == (429, "RATE_LIMITED")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


async def test_only_so_many_executions_of_a_context_may_wait(contexts, monkeypatch):
    monkeypatch.setattr(named_sandboxes, "MAX_WAITING", 2)
    context = await contexts.created()
    body = {"code": "import time; time.sleep(0.5)"}
    answers = await asyncio.gather(*(contexts("POST", context, "execute", body=body) for _ in range(3)))
    assert sorted((status, model.get("code")) for status, model in answers if status != 200) == [(429, "BUSY")]


async def test_sessions_of_other_apis_are_no_contexts(contexts, interpreter):
    await interpreter.execute("1")
    assert (await contexts("GET"))[1] == []
    assert await contexts("POST", interpreter.user, "execute", body={"code": "1"}) == GONE
    assert await contexts("DELETE", interpreter.user) == GONE


async def test_a_context_shows_among_the_kernels_of_the_server(contexts, jp_fetch):
    await contexts.created()
    (kernel,) = json.loads((await jp_fetch("api", "kernels")).body)
    assert kernel["name"] == "sandbox-python"


# -- who may ask


async def test_everybody_may_ask_whether_the_server_answers(http_server_client, jp_base_url):
    response = await http_server_client.fetch(f"{jp_base_url}health")
    assert (response.code, response.body) == (200, b"OK")
    assert response.headers["Content-Type"].startswith("text/plain")


def basic(password, user="anybody"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def test_the_servers_token_is_the_password_of_any_user(contexts, jp_serverapp):
    token = jp_serverapp.identity_provider.token
    for headers in (basic(token), basic(token, ""), {"Authorization": f"Bearer {token}"}):
        assert (await contexts("GET", headers=headers))[0] == 200, headers


@pytest.mark.parametrize("headers", [{"Authorization": ""}, basic("wrong"), basic(""), {"Authorization": "Basic x"}])
async def test_who_is_not_known_is_told_what_to_bring(contexts, headers):
    for request in (("GET",), ("POST",), ("DELETE", "ctx-0"), ("POST", "ctx-0", "execute")):
        response = await contexts.response(*request, headers=headers)
        assert (response.code, json.loads(response.body)["code"]) == (401, "INVALID_TOKEN")
        assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert await sandboxes() == []


REQUESTS = (("GET",), ("POST",), ("DELETE", "ctx-0"), ("POST", "ctx-0", "execute"))


async def test_who_the_operators_authorizer_does_not_let_is_told_so(contexts, jp_serverapp, monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(jp_serverapp.authorizer),
        "is_authorized",
        lambda _, handler, user, action, resource: asked.append((action, resource)),  # None: he may not
    )
    for request in REQUESTS:
        status, model = await contexts(*request, raw="{}" if request[0] == "POST" else None)
        assert (status, model["code"]) == (403, "FORBIDDEN"), request
    assert asked == [("read", "kernels"), ("write", "sandboxes"), ("write", "sandboxes"), ("execute", "kernels")]
    monkeypatch.undo()
    assert await contexts("GET") == (200, [])
    assert await sandboxes() == []


async def test_a_server_without_authentication_asks_for_none_but_keeps_pages_out(contexts, jp_serverapp):
    jp_serverapp.identity_provider.token = ""
    nobody = {"Authorization": "", "Content-Type": "application/json"}
    context = json.loads((await contexts.response("POST", body={}, headers=nobody)).body)["context_id"]
    for extra in (
        {"Origin": "http://attacker.test"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        {"Host": "attacker.test"},
        {"Host": "attacker.test", "Origin": "http://attacker.test"},
    ):
        status, _ = await contexts("POST", context, "execute", body={"code": "1"}, headers=nobody | extra)
        assert status in (400, 403, 404), extra
    assert (await contexts("POST", context, "execute", body={"code": "1"}, headers=nobody))[0] == 200
