"""MCP, with the clients of two makers, over HTTP and over stdio, and real kernels."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys

import jsonschema
import pytest

from tests.conftest import eventually
from tests.server.brokers import nothing_is_claimed, sandboxes
from tests.server.contexts import ContextsApi
from tests.server.mcp_clients import PROGRAM, over_http, over_stdio

KINDS = ["auto", "legacy", "fastmcp"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
PLOT = f"from IPython.display import Image\nprint('text')\nImage({PNG!r})"
GONE = {"error": "Context not found", "code": "CONTEXT_NOT_FOUND"}
ENDLESS = "import time\ntry:\n while True: time.sleep(0.02)\nexcept KeyboardInterrupt:\n was = 'interrupted'\n raise"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@pytest.fixture
def base(http_server, http_server_port, jp_base_url):
    return f"http://127.0.0.1:{http_server_port[1]}{jp_base_url}"


@pytest.fixture
def connect(base, jp_serverapp, tmp_path):
    """A host: `async with connect("http", "legacy") as host`; the contexts that it leaves end with the test."""
    token = jp_serverapp.identity_provider.token

    @contextlib.asynccontextmanager
    async def make(way, kind):
        environment = {"SANDBOX_BASE_URL": base, "SANDBOX_TOKEN": token, "SANDBOX_TIMEOUT": "20"}
        with (tmp_path / "stderr").open("w+") as log:
            client = (
                over_http(kind, f"{base}sandbox/mcp", token) if way == "http" else over_stdio(kind, environment, log)
            )
            async with client as host:
                yield host
                for context in (await host.answer("list_contexts"))["contexts"]:
                    await host.answer("stop_context", context_id=context["context_id"])
            log.seek(0)
            assert "Traceback" not in log.read()

    return make


@pytest.mark.parametrize("way", ["http", "stdio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_all_tools_with_an_image_an_error_and_an_unknown_context(connect, way, kind):
    async with connect(way, kind) as host:
        tools = await host.tools()
        assert list(tools) == ["create_context", "run_code", "list_contexts", "stop_context"]
        for tool in tools.values():
            jsonschema.Draft202012Validator.check_schema(tool.input_schema)
            assert tool.output_schema["type"] == "object"
        context = await host.answer("create_context", name="mine")
        assert {key: context[key] for key in ("type", "status", "name", "language", "working_dir")} == {
            "type": "jupyter",
            "status": "active",
            "name": "mine",
            "language": "python",
            "working_dir": "/sandbox",
        }
        mine = context["context_id"]
        assert await host.answer("list_contexts") == {"contexts": [context]}

        ran = await host.answer("run_code", context_id=mine, code="x = 'ä\\u2028\\0'; print(x, end='')\n6 * 7")
        assert ran == {
            "stdout": "ä\u2028\0\n42\n",
            "stderr": "",
            "success": True,
            "execution_time": ran["execution_time"],
        }
        result, ran = await host.call("run_code", context_id=mine, code=PLOT)
        assert (ran["success"], ran["stdout"][:5]) == (True, "text\n")
        (image,) = result.content[1:]
        assert (image.type, image.mime_type, base64.b64decode(image.data)) == ("image", "image/png", PNG)
        ran = await host.answer("run_code", context_id=mine, code="len(x), 1 / 0")
        assert (ran["success"], "ZeroDivisionError: division by zero" in ran["stderr"]) == (False, True)

        assert await host.refusal("run_code", context_id="ctx-0", code="1") == GONE
        assert await host.answer("stop_context", context_id=mine) == {"context_id": mine, "status": "stopped"}
        assert await host.refusal("stop_context", context_id=mine) == GONE
        assert await host.refusal("run_code", context_id=mine, code="1") == GONE
        for name, arguments in (
            ("create_context", {}),
            ("create_context", {"name": "a\nb"}),
            ("create_context", {"name": "a", "language": "cobol"}),
            ("run_code", {"code": "1"}),
            ("run_code", {"code": "1", "context_id": mine, "timeout": -1}),
            ("run_code", {"code": "1", "context_id": mine, "more": 1}),
            ("list_contexts", {"owner": "bob"}),
            ("no_tool", {}),
        ):
            assert (await host.refusal(name, **arguments))["code"] in ("INVALID_REQUEST", "UNKNOWN_ROUTE"), name
    await nothing_is_claimed()


@pytest.mark.parametrize("way", ["http", "stdio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_tells_its_progress_and_cancelling_it_interrupts_the_code(connect, way, kind):
    async with connect(way, kind) as host:
        mine = (await host.answer("create_context", name="mine"))["context_id"]
        told = asyncio.Queue()

        async def note(progress, total=None, message=None):
            told.put_nowait((progress, total, message))

        call = asyncio.create_task(host.call("run_code", note, context_id=mine, code=ENDLESS, timeout=60))
        async with asyncio.timeout(10):
            progress, total, message = await told.get()
        assert (0 < progress < 10, total, message.startswith("running for")) == (True, 60, True)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        async with asyncio.timeout(10):
            assert await host.printed(mine, "print(was)") == "interrupted\n"


async def test_contexts_of_the_api_and_of_mcp_are_the_same(connect, jp_fetch):
    contexts = ContextsApi(jp_fetch)
    async with connect("http", "auto") as host:
        mine = (await host.answer("create_context", name="mine"))["context_id"]
        await host.printed(mine, "x = 1")
        assert await contexts.printed(mine, "print(x)") == "1\n"
        theirs = await contexts.created(session_name="theirs")
        assert [each["name"] for each in (await host.answer("list_contexts"))["contexts"]] == ["mine", "theirs"]
        assert (await contexts("DELETE", mine))[0] == 200
        assert [each["context_id"] for each in (await host.answer("list_contexts"))["contexts"]] == [theirs]


async def test_a_host_that_goes_leaves_its_contexts_to_the_next_one(connect, base, jp_serverapp):
    url, token = f"{base}sandbox/mcp", jp_serverapp.identity_provider.token
    async with over_http("legacy", url, token) as host:
        mine = (await host.answer("create_context", name="mine"))["context_id"]
        await host.printed(mine, "x = 1")
    async with connect("http", "legacy") as host:
        assert await host.printed(mine, "print(x)") == "1\n"


async def test_calls_that_come_together_run_one_after_the_other(connect):
    async with connect("http", "auto") as host:
        mine = (await host.answer("create_context", name="mine"))["context_id"]
        await host.printed(mine, "x = 0")
        code = "import time; y = x; time.sleep(0.05); x = y + 1"
        await asyncio.gather(*(host.printed(mine, code) for _ in range(5)))
        assert await host.printed(mine, "print(x)") == "5\n"


@pytest.mark.parametrize("kind", ["auto", "legacy"])
async def test_a_server_that_stops_hangs_up_and_interrupts(jp_serverapp, base, jp_fetch, kind):
    async with over_http(kind, f"{base}sandbox/mcp", jp_serverapp.identity_provider.token) as host:
        mine = (await host.answer("create_context", name="mine"))["context_id"]
        runs = asyncio.Event()

        async def note(*_):
            runs.set()

        call = asyncio.create_task(host.call("run_code", note, context_id=mine, code=ENDLESS))
        await runs.wait()
        (extension,) = jp_serverapp.extension_manager.extension_apps["jupyter_sandbox"]
        await extension._mcp.stop()
        left = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
        assert not [name for name in left if "_shutdown_watcher" in name or name.startswith("Desk.")]
        late = await jp_fetch(
            *("sandbox", "mcp"), method="POST", body=json.dumps(INITIALIZE), headers=dict(HEADERS), raise_error=False
        )
        assert late.code == 503
        assert await ContextsApi(jp_fetch).printed(mine, "print(was)") == "interrupted\n"
        call.cancel()
        await asyncio.wait([call])


# -- raw requests


@pytest.fixture
def ask(http_server_client, jp_base_url, jp_auth_header):
    """A request as no client would send it: `await ask("POST", {...}, Host="x")`."""

    async def request(method="POST", body=None, raw=None, **headers):
        return await http_server_client.fetch(
            f"{jp_base_url}sandbox/mcp",
            method=method,
            body=raw if raw is not None else None if body is None else json.dumps(body),
            headers=HEADERS | jp_auth_header | {name.replace("_", "-"): value for name, value in headers.items()},
            allow_nonstandard_methods=True,
            raise_error=False,
        )

    return request


async def test_without_its_packages_the_route_says_what_to_install(ask, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_sandbox.surfaces.mcp.local", None)  # importing it raises ImportError
    for _ in range(2):
        response = await ask(body=INITIALIZE)
        error = json.loads(response.body)["error"]
        assert (response.code, error["data"]["code"]) == (501, "not_installed")
        assert "pip install '.[mcp]'" in error["message"]


def test_a_server_starts_without_these_packages():
    code = "import sys, jupyter_sandbox.extension; print(sorted({'mcp', 'mcp_types', 'starlette', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


async def test_a_visit_ends_when_its_client_says_so_and_nothing_is_kept_of_it(ask, jp_serverapp):
    response = await ask(body=INITIALIZE)
    assert response.code == 200
    visit = response.headers["Mcp-Session-Id"]
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert (await ask(body=ping, Mcp_Session_Id=visit)).code == 200
    assert (await ask("DELETE", Mcp_Session_Id=visit)).code == 200
    gone = await ask(body=ping, Mcp_Session_Id=visit)
    assert (gone.code, json.loads(gone.body)["error"]["data"]["code"]) == (404, "unknown_route")
    (extension,) = jp_serverapp.extension_manager.extension_apps["jupyter_sandbox"]
    manager = await extension._mcp._opening
    await eventually(lambda: not manager._server_instances)


async def test_a_request_that_begins_no_visit_leaves_none(ask, jp_serverapp):
    """The protocol's own library makes one for every request without."""
    assert (await ask(body=INITIALIZE)).code == 200
    (extension,) = jp_serverapp.extension_manager.extension_apps["jupyter_sandbox"]
    manager = await extension._mcp._opening
    assert len(manager._server_instances) == 1
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    for method, body, headers in (
        ("POST", call, {}),
        ("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, {}),
        ("POST", INITIALIZE, {"Accept": "text/plain"}),
        ("POST", INITIALIZE, {"Content-Type": "text/plain"}),
        ("POST", {"jsonrpc": "1.0"}, {}),
        ("GET", None, {}),
        ("DELETE", None, {}),
    ):
        response = await ask(method, body, **headers)
        assert 400 <= response.code < 500, (method, body, headers)
    await eventually(lambda: len(manager._server_instances) == 1)


async def test_a_cookie_opens_nothing(http_server_client, jp_base_url, jp_serverapp):
    token = jp_serverapp.identity_provider.token
    login = await http_server_client.fetch(f"{jp_base_url}api/status?token={token}")
    cookies = "; ".join(each.partition(";")[0] for each in login.headers.get_list("Set-Cookie"))
    assert (await http_server_client.fetch(f"{jp_base_url}api/status", headers={"Cookie": cookies})).code == 200
    for path, body in (("sandbox/mcp", INITIALIZE), ("api/v1/contexts", {})):
        response = await http_server_client.fetch(
            f"{jp_base_url}{path}",
            method="POST",
            body=json.dumps(body),
            headers=HEADERS | {"Cookie": cookies},
            raise_error=False,
        )
        assert response.code in (401, 403)
    assert await sandboxes() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Host": "attacker.test"},
        {"Origin": "http://attacker.test"},
        {"Origin": "null"},
    ],
    ids=str,
)
async def test_strangers_and_pages_are_refused_before_anything_of_mcp(ask, headers, jp_serverapp):
    for method in ("GET", "POST", "DELETE"):
        response = await ask(method, INITIALIZE if method == "POST" else None, **headers)
        assert response.code in (403, 404)
        assert json.loads(response.body)["jsonrpc"] == "2.0"
    (extension,) = jp_serverapp.extension_manager.extension_apps["jupyter_sandbox"]
    assert extension._mcp._opening is None


# -- the program


def run(*arguments, **environment):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")} | environment
    return subprocess.run(
        [PROGRAM, *arguments], env=settings, text=True, capture_output=True, timeout=30, stdin=subprocess.DEVNULL
    )


async def in_thread(*arguments, **environment):
    return await asyncio.to_thread(run, *arguments, **environment)


def test_the_program_says_how_it_is_used():
    done = run("--help")
    assert done.returncode == 0
    for word in ("SANDBOX_BASE_URL", "SANDBOX_TOKEN", "SANDBOX_TIMEOUT", "run_code", "--check"):
        assert word in done.stdout
    assert run("--nonsense").returncode == 2


async def test_the_program_checks_the_server_and_its_token(base, jp_serverapp):
    token = jp_serverapp.identity_provider.token
    done = await in_thread("--check", SANDBOX_BASE_URL=base, SANDBOX_TOKEN=token)
    assert (done.returncode, done.stderr) == (0, "")
    done = await in_thread("--check", SANDBOX_BASE_URL=base, SANDBOX_TOKEN="wrong")
    assert (done.returncode, "the token is missing, or it is not right" in done.stderr) == (1, True)


def test_a_server_that_does_not_answer_is_told(free_port):
    url = f"http://127.0.0.1:{free_port}"
    done = run("--check", SANDBOX_BASE_URL=url)
    assert (done.returncode, f"the Jupyter server at {url} does not answer" in done.stderr) == (1, True)
    done = run(SANDBOX_BASE_URL=url)  # with nothing to serve: standard input is at its end
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "", False)
    assert (run(SANDBOX_BASE_URL="here").returncode, run(SANDBOX_TIMEOUT="soon").returncode) == (1, 1)


def test_without_its_packages_the_program_says_what_to_install(tmp_path):
    (tmp_path / "mcp.py").write_text("raise ImportError('no mcp')")
    done = run(PYTHONPATH=str(tmp_path))
    assert (done.returncode, "pip install '.[mcp]'" in done.stderr) == (1, True)


async def test_a_tool_of_the_program_says_that_the_server_does_not_answer(free_port, tmp_path):
    environment = {"SANDBOX_BASE_URL": f"http://127.0.0.1:{free_port}"}
    with (tmp_path / "stderr").open("w") as log:
        async with over_stdio("legacy", environment, log) as host:
            refusal = await host.refusal("create_context", name="mine")
    assert (refusal["code"], "does not answer" in refusal["error"]) == ("TRANSFER_FAILED", True)
    assert "does not answer" in (tmp_path / "stderr").read_text()


def test_the_program_leaves_quietly_when_it_is_interrupted(free_port):
    environment = os.environ | {"SANDBOX_BASE_URL": f"http://127.0.0.1:{free_port}"}
    process = subprocess.Popen(
        [PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "does not answer" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (-signal.SIGINT, "")
