"""Attacks on what is told: to make up events, to read those of others, to write into the log, to have secrets logged."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

from jupyter_sandbox import events
from tests.attacks import rest_world
from tests.attacks.naughty import STRINGS
from tests.server.brokers import Tree
from tests.server.server_process import TOKEN, a_server

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

SECRET = "s3cret"


async def posted(url: str, schema_id: str, data: dict, who: str = "alice"):
    body = json.dumps({"schema_id": schema_id, "version": "1", "data": data})
    return await AsyncHTTPClient().fetch(
        f"{url}api/events", method="POST", body=body, headers={"Authorization": f"token {who}"}, raise_error=False
    )


@pytest.mark.parametrize("kind", events.ALL)
async def test_nobody_makes_up_what_happened(world, kind):
    assert (await posted(world, kind.schema_id(), {"owner": "bob"})).code == 403


async def test_events_of_others_can_be_made_as_before(world):
    kernel_actions = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
    told = await posted(world, kernel_actions, {"action": "interrupt", "msg": "x", "kernel_id": "y"})
    assert told.code == 204


async def subscribed(url: str, who: str):
    address = url.replace("http:", "ws:", 1) + "api/events/subscribe"
    return await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {who}"}))


async def heard(websocket, *kinds) -> list[dict]:
    """All of our events that come until each of these kinds has come and then nothing for a second."""
    found, missing = [], {kind.schema_id() for kind in kinds}
    async with asyncio.timeout(60):
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(None if missing else 1):
                    found.append(json.loads(await websocket.read_message()))
                missing.discard(found[-1]["schema_id"])
    websocket.close()
    return [each for each in found if each["schema_id"].startswith(events.NAMESPACE)]


async def test_nobody_hears_what_others_do(world, people):
    websockets = {who: await subscribed(world, who) for who in ("alice", "bob")}
    context = await people["alice"].context()
    await context.execute("1")
    await people["bob"].get("sbx_" + "0" * 20)
    made = events.SandboxClaimed, events.ContextStarted, events.ExecutionStarted, events.ExecutionEnded
    of_alice = await heard(websockets["alice"], *made)
    of_bob = await heard(websockets["bob"], events.RequestRefused)
    assert {each["owner"] for each in of_alice} == {"user alice"}
    assert [(each["owner"], each.get("code")) for each in of_bob] == [("user bob", "unknown_sandbox")]


@pytest.fixture
def json_server(tmp_path):
    """The address of a server that logs JSON with all that it has to say, and its log."""
    log = tmp_path / "log"
    tree = Tree()
    tree.start()
    try:
        more = ["--SandboxExtension.json_logs=True", "--ServerApp.log_level=DEBUG"]
        with a_server(tree, tmp_path, *more, log=log) as (_, url):
            yield url, log
    finally:
        tree.stop()


async def test_a_log_of_json_stays_one_and_holds_no_secret(json_server):
    url, log = json_server
    rest = rest_world.as_person(url, TOKEN)
    sandbox = (await rest.claimed())["id"]
    for name in STRINGS:
        sound = name.encode(errors="replace").decode()
        await rest.get(f"x{sound}")
        await rest.get(sandbox, "files", f"x{sound}", params={"token": SECRET})
    context = await rest.context(sandbox)
    await context.execute(f"print('{SECRET}')")
    wanted = {"files": [{"url": f"http://127.0.0.1/{SECRET}?X-Amz-Signature={SECRET}", "path": "a"}]}
    await rest.post(sandbox, "uploads", body=wanted)
    await rest.get(headers={"X-Request-Id": "mine-1"})
    await rest.get(headers={"X-Request-Id": f"{SECRET} x"})
    client = AsyncHTTPClient()
    headers = {"Authorization": f"token {SECRET}", "Referer": f"{url}?token={SECRET}", "Cookie": f"a={SECRET}"}
    await client.fetch(f"{url}lab?token={SECRET}", headers=headers, raise_error=False)
    await client.fetch(f"{url}api/kernels/%0a{'x' * 5000}?a={SECRET}%1b", headers=headers, raise_error=False)
    await rest.delete(sandbox)

    text = log.read_text()
    first = text.splitlines().index(next(line for line in text.splitlines() if "jupyter_sandbox.requests" in line))
    text = "\n".join(text.splitlines()[first:])  # before a server serves, Jupyter logs as it always does
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.isascii()
    assert "\x1b" not in text
    assert SECRET not in text
    assert TOKEN not in text
    assert all({"time", "level", "logger", "message", "request_id"} <= set(line) for line in lines)
    requests = [line for line in lines if line["logger"] == "jupyter_sandbox.requests"]
    assert len(requests) >= 2 * len(STRINGS)
    assert all("?" not in line["path"] for line in requests)
    (mine,) = [line for line in requests if line["request_id"] == "mine-1"]
    assert (mine["method"], mine["path"], mine["status"], mine["owner"]) == ("GET", "/api/sandboxes", 200, "*")
    assert [line for line in lines if line["logger"] == "jupyter_sandbox.sandboxes" and sandbox in line["message"]]
    assert str(log.parent) not in text
