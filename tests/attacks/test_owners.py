"""Owners on one server: nobody finds, counts, hears or fills what is another's, over REST or Jupyter's own API."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re

import jupyter_server.services
import pytest
from jupyter_server.base import handlers as base_handlers
from jupyter_server.base.handlers import JupyterHandler
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from jupyter_sandbox import jupyter_routes
from tests.attacks.rest_world import as_person
from tests.server.server_process import request

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

METHODS = ("get", "post", "put", "patch", "delete")
NO_KERNEL = "0a0b0c0d-0000-4000-8000-000000000000"
BATCH = {"files": [{"path": "a", "url": "http://192.0.2.1/"}]}
BODIES = {
    "execute": {"code": "1"},
    "renew_sandbox": {"timeout_s": 60},
    "move_file": {"path": "b"},
    "upload_files": BATCH,
    "export_files": BATCH,
    "start_command": {"line": "ls"},
    "signal_command": {"signal": "SIGKILL"},
    "resize_command": {"rows": 2, "columns": 2},
    "write_to_command": {"text": "x"},
}


def stock_routes():
    """Every route of jupyter_server's services, whatever version is installed."""
    modules = [base_handlers]
    for found in pkgutil.walk_packages(jupyter_server.services.__path__, "jupyter_server.services."):
        if found.name.endswith(".handlers") or found.name.endswith(".shutdown"):
            modules.append(importlib.import_module(found.name))
    modules += [importlib.import_module(f"jupyter_server.{name}.handlers") for name in ("files", "view", "kernelspecs")]
    return [(route[0], route[1]) for module in modules for route in module.default_handlers]


def filled(route: str, **ids: str) -> list[str]:
    """The paths that a route stands for, with these ids and `x` for everything else that is named."""
    for name, value in ids.items():
        route = re.sub(rf"\(\?P<{name}>(?:[^()]|\([^()]*\))*\)", value, route)
    actions = re.search(r"\(\?P<action>([\w|]+)\)", route)
    paths = [route.replace(actions[0], action) for action in actions[1].split("|")] if actions else [route]
    return [re.sub(r"\((?:[^()]|\([^()]*\))*\)", "x", path).replace("\\", "").replace("?", "") for path in paths]


class Api:
    """Jupyter's own API, as somebody."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.headers = url, {"Authorization": f"token {token}"}

    async def __call__(self, method: str, path: str, body: object = None):
        """Status and model, or status and text."""
        response = await AsyncHTTPClient().fetch(
            f"{self.url}{path.removeprefix('/')}",
            method=method.upper(),
            body=None if body is None else json.dumps(body),
            headers=self.headers,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            raise_error=False,
            request_timeout=60,
        )
        text = response.body.decode()
        try:
            return response.code, json.loads(text) if text else None
        except ValueError:
            return response.code, text

    async def kernel(self, **body) -> str:
        status, model = await self("post", "api/kernels", {"name": "sandbox-python"} | body)
        assert status == 201, model
        return model["id"]

    async def listed(self, what: str) -> set[str]:
        status, models = await self("get", f"api/{what}")
        assert status == 200, models
        return {model["id"] for model in models}

    async def websocket(self, path: str):
        url = self.url.replace("http", "ws", 1)
        return await websocket_connect(HTTPRequest(f"{url}{path.removeprefix('/')}", headers=self.headers))


@pytest.fixture
def api(world, jp_asyncio_loop):
    """Jupyter's API as a person or a token: `api("alice")`. Kernels that are left end with the test."""
    used = {}

    def make(token):
        return used.setdefault(token, Api(world, token))

    yield make

    async def end():
        for one in used.values():
            status, models = await one("get", "api/kernels")
            for model in models if status == 200 else ():
                await one("delete", f"api/kernels/{model['id']}")

    jp_asyncio_loop.run_until_complete(end())


@pytest.fixture
def session_of():
    async def make(api, path="a.ipynb", **kernel):
        body = {"path": path, "name": "a", "type": "notebook", "kernel": {"name": "sandbox-python"} | kernel}
        status, model = await api("post", "api/sessions", body)
        assert status == 201, model
        return model

    return make


# -- REST


@pytest.mark.parametrize("kind", ["person", "token", "token of another sandbox"])
async def test_a_stranger_finds_nothing_on_any_route_of_the_table(people, world, tokens, kind):
    """The table is read from the document, so a new operation is covered, or fails here for want of a body."""
    alice = people["alice"]
    context = await alice.context()
    execution = (await context.start("import time; time.sleep(60)", detached=True)).body["id"]
    token = (await alice.post(context.sandbox_id, "tokens", body={})).body["id"]
    sleep = {"argv": ["sleep", "60"], "detached": True}
    command = (await alice.post(context.sandbox_id, "commands", body=sleep)).body["id"]
    real = {"sandbox_id": context.sandbox_id, "context_id": context.id, "execution_id": execution, "token_id": token}
    real["command_id"] = command
    unreal = {name: re.sub(r"[0-9a-f]", "0", value) for name, value in real.items()}
    unreal["sandbox_id"] = f"sbx_{'0' * 20}"
    if kind == "token of another sandbox":
        issued = await alice.post((await alice.claimed())["id"], "tokens", body={})
        tokens.secrets.append(issued.body["token"])
        stranger = as_person(world, issued.body["token"])
    else:
        stranger = people["bob"] if kind == "person" else as_person(world, tokens.issue("bob"))
    asked = 0
    for path, item in (await request(f"{world}api/sandboxes/openapi.json"))["paths"].items():
        for method in [method for method in METHODS if method in item and "{sandbox_id}" in path]:
            replies = []
            for ids in (real, unreal):
                ids["path"] = "a"
                parts = path.removeprefix("/api/sandboxes/").format(**ids).split("/")
                replies.append(await stranger(method.upper(), *parts, body=BODIES.get(item[method]["operationId"])))
            first, second = replies
            allowed = {404} if kind != "token of another sandbox" else {403, 404}
            assert first.status == second.status, (method, path)
            assert first.status in allowed, (method, path)
            assert first.code == second.code
            said = [reply.body["message"] for reply in replies]
            for name in real:
                said = [said[0].replace(real[name], ""), said[1].replace(unreal[name], "")]
            assert said[0] == said[1]
            asked += 1
    assert asked >= 28
    assert (await alice.get(*context.parts, "executions", execution)).body["state"] == "running"
    assert (await alice.get(context.sandbox_id, "commands", command)).body["state"] == "running"
    assert len((await alice.get(context.sandbox_id, "tokens")).body["tokens"]) == 1


async def test_a_token_and_the_person_of_its_owners_name_are_one_owner(people, program, api):
    context = await program("alice").context()
    assert (await people["alice"].get(context.sandbox_id)).body["contexts"] == [context.id]
    assert await api("alice").listed("kernels") == {context.id}
    assert (await people["bob"].get()).body["sandboxes"] == []


# -- Jupyter's own routes


async def test_foreign_and_unknown_ids_are_one_on_every_route_of_jupyter(api, tokens, session_of):
    """Routes are Jupyter's own list, so a newer version's are covered."""
    alice = api("alice")
    session = await session_of(alice)
    ids = {"kernel_id": session["kernel"]["id"], "session_id": session["id"]}
    asked = []
    for route, handler in stock_routes():
        if not re.search(r"\?P<(kernel_id|session_id)>", route):
            continue
        foreign, unknown = filled(route, **ids), filled(route, kernel_id=NO_KERNEL, session_id=NO_KERNEL)
        for method in [method for method in METHODS if method in vars(handler)]:
            for stranger in (api("bob"), api(tokens.issue("bob"))):
                for one, other in zip(foreign, unknown, strict=True):
                    status, body = await stranger(method, one, {"name": "b"} if method in ("post", "patch") else None)
                    no_status, no_body = await stranger(
                        method, other, {"name": "b"} if method in ("post", "patch") else None
                    )
                    assert (status, no_status) == (404, 404), (method, one, body)
                    hidden = json.dumps(body)
                    for value in ids.values():
                        hidden = hidden.replace(value, NO_KERNEL)
                    assert hidden == json.dumps(no_body)
                    asked.append((method, one))
    assert len(asked) >= 2 * 8
    assert await alice.listed("kernels") == {ids["kernel_id"]}
    assert await alice.listed("sessions") == {ids["session_id"]}


async def test_a_websocket_of_a_foreign_kernel_is_not_opened(api, tokens):
    kernel = await api("alice").kernel()
    for stranger in (api("bob"), api(tokens.issue("bob")), api(tokens.issue("bob", "kernels"))):
        for kernel_id in (kernel, NO_KERNEL):
            with pytest.raises(HTTPClientError) as refused:
                await stranger.websocket(f"api/kernels/{kernel_id}/channels?session_id=b")
            assert refused.value.code == 404
    opened = await api(tokens.issue("alice", "kernels")).websocket(f"api/kernels/{kernel}/channels?session_id=a")
    opened.close()


async def test_lists_and_counts_are_of_ones_own(api, tokens, session_of):
    alice, bob, program = api("alice"), api("bob"), api(tokens.issue("carol"))
    mine = (await session_of(alice))["kernel"]["id"]
    theirs = await program.kernel()
    for who, kernels in ((alice, {mine}), (bob, set()), (program, {theirs}), (api(tokens.issue("alice")), {mine})):
        assert await who.listed("kernels") == kernels
        assert len(await who.listed("sessions")) == len(kernels - {theirs})
        assert (await who("get", "api/status"))[1]["kernels"] == len(kernels)


async def test_no_body_leads_to_a_foreign_kernel(api, session_of):
    alice, bob = api("alice"), api("bob")
    session = await session_of(alice, "same.ipynb")
    kernel = session["kernel"]["id"]
    assert (await bob("post", "api/kernels", {"name": "sandbox-python", "kernel_id": kernel}))[0] == 404
    body = {"path": "b.ipynb", "name": "b", "type": "notebook", "kernel": {"id": kernel, "name": "sandbox-python"}}
    assert (await bob("post", "api/sessions", body))[0] == 404
    own = await session_of(bob, "same.ipynb")
    assert own["id"] != session["id"]
    assert own["kernel"]["id"] != kernel
    for value, expected in ((kernel, 409), (NO_KERNEL, 409), (["x"], 400), (7, 400)):
        status, _ = await bob("patch", f"api/sessions/{own['id']}", {"kernel": {"id": value}})
        assert status == expected, value
    assert (await bob("get", f"api/resolvePath?path=a&kernel={kernel}"))[1] == json.loads(
        json.dumps((await bob("get", f"api/resolvePath?path=a&kernel={NO_KERNEL}"))[1]).replace(NO_KERNEL, kernel)
    )
    assert await bob.listed("kernels") == {own["kernel"]["id"]}


@pytest.mark.parametrize("kernel_id", ["../../../tmp/x", "a", "a-b-c-d-e/../x", "x" * 200, ["a"], 7, "a-b-c-d-\n"])
async def test_an_id_that_a_client_chose_for_a_kernel_is_judged(api, kernel_id):
    bob = api("bob")
    status, body = await bob("post", "api/kernels", {"name": "sandbox-python", "kernel_id": kernel_id})
    assert (status, "invalid_request" in body["reason"]) == (400, True)
    kernel = {"name": "sandbox-python", "id": kernel_id}
    status, _ = await bob("post", "api/sessions", {"path": "b", "name": "b", "type": "notebook", "kernel": kernel})
    assert status == 400
    assert await bob.listed("kernels") == set()


async def test_events_are_of_ones_own_kernels(api, tokens):
    listeners = {}
    for name, who in (("alice", api("alice")), ("bob", api("bob")), ("program", api(tokens.issue("bob", "kernels")))):
        listeners[name] = await who.websocket("api/events/subscribe")
    kernels = {}
    for name in ("alice", "bob"):
        kernels[name] = await api(name).kernel()
        assert (await api(name)("delete", f"api/kernels/{kernels[name]}"))[0] == 204
    heard = {}
    for name, listener in listeners.items():
        heard[name] = []
        while len(heard[name]) < 2:
            event = json.loads(await listener.read_message())
            if "action" in event:  # Jupyter's
                heard[name].append(event)
            else:
                assert event["owner"] == ("user alice" if name == "alice" else "user bob")
        listener.close()
    for name, owner in (("alice", "alice"), ("bob", "bob"), ("program", "bob")):
        assert [(event["action"], event["kernel_id"]) for event in heard[name]] == [
            ("start", kernels[owner]),
            ("shutdown", kernels[owner]),
        ]
    status, _ = await api(tokens.issue("bob"))("post", "api/events", {"schema_id": "x", "version": 1, "data": {}})
    assert status == 403


async def test_a_token_opens_nothing_of_the_server_but_kernels(api, tokens, world):
    """Contents, files, configuration, shutdown, identity, pages, other extensions: each says that the scope is wrong."""
    program = api(tokens.issue("alice"))
    taken = {route for route, _ in jupyter_routes._STOCK}
    refused = 0
    for route, handler in stock_routes():
        if route in taken and handler.__name__ != "PathResolverHandler":
            continue
        if not issubclass(handler, JupyterHandler):
            continue
        (path,) = filled(route)
        status, _ = await program("get", path)
        assert status == 403, (path, handler)
        refused += 1
    assert refused >= 15
    for path in ("watch", "api/terminals", "lab", "tree", "nbconvert/html/a.ipynb", "login", "metrics", "api/me"):
        for method in ("get", "post"):
            status, _ = await program(method, path, {} if method == "post" else None)
            assert status in ({403} if method == "get" else {403, 405}), path
    assert (await request(f"{world}api/kernels")) == []


async def test_a_tokens_kernel_does_not_show_the_servers_files(people, world, tokens, api, world_folder):
    (world_folder / "private.csv").write_text("secret")
    look = "import os; print(os.getcwd(), os.listdir('.'), os.listdir('/workspace'))"
    for token, shown in ((tokens.issue("alice"), False), ("alice", True)):
        rest, kernel = as_person(world, token), await api(token).kernel(path="")
        (sandbox,) = (await rest.get()).body["sandboxes"]
        executions = (sandbox["id"], "contexts", kernel, "executions")
        printed = (await rest.post(*executions, body={"code": look})).body["outputs"][0]["text"]
        assert ("private.csv" in printed) == shown, printed
        assert shown or printed == "/sandbox [] []\n"
        await api(token)("delete", f"api/kernels/{kernel}")


# -- quotas


async def test_a_thousand_claims_at_once_do_not_pass_a_quota_of_three(program):
    rest = program("three")
    replies = await asyncio.gather(*(rest.post(body={}) for _ in range(1000)))
    made = [reply for reply in replies if reply.status == 201]
    refused = [reply for reply in replies if reply.status != 201]
    assert len(made) == 3
    assert {(reply.status, reply.code, bool(reply.headers["Retry-After"])) for reply in refused} == {
        (429, "quota_exceeded", True)
    }
    assert len((await rest.get()).body["sandboxes"]) == 3
    for reply in made:
        assert (await rest.post(body={})).status == 429
        assert (await rest.delete(reply.body["id"])).status == 204
        assert (await rest.post(body={})).status == 201


async def test_a_place_that_is_freed_goes_to_the_owner_who_holds_fewer(program):
    greedy, modest = program("greedy"), program("modest")
    wanted = {"template": "three-places"}
    held = [(await greedy.post(body=wanted)).body["id"] for _ in range(3)]
    assert (await modest.post(body=wanted)).code == "no_capacity"
    assert (await greedy.delete(held.pop())).status == 204
    for _ in range(20):
        refused = await greedy.post(body=wanted)
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "no_capacity", "5")
    assert "for others" in refused.body["message"]
    assert (await modest.post(body=wanted)).status == 201


async def test_kernels_of_jupyter_and_claims_share_a_quota(program, api):
    rest = program("three")
    kernels = api(rest.token)
    body = {"name": "sandbox-python"}
    asked = []
    for number in range(30):
        session = {"path": f"{number}", "name": "x", "type": "notebook", "kernel": body}
        asked += [rest.post(body={}), kernels("post", "api/kernels", body), kernels("post", "api/sessions", session)]
    answers = [
        answer if isinstance(answer, tuple) else (answer.status, answer.body) for answer in await asyncio.gather(*asked)
    ]
    assert sorted({status for status, _ in answers}) == [201, 429]
    assert [status for status, _ in answers].count(201) == 3
    refused = [json.dumps(model) for status, model in answers if status == 429]
    assert all("quota_exceeded" in text for text in refused)
    assert len((await rest.get()).body["sandboxes"]) == 3
    for sandbox in (await rest.get()).body["sandboxes"]:
        await rest.delete(sandbox["id"])
    assert await kernels.listed("kernels") == set()
    assert (await rest.claimed())["id"]


async def test_contexts_made_at_once_do_not_pass_a_quota_of_two(program):
    rest = program("two")
    boxes = [(await rest.claimed())["id"] for _ in range(2)]
    replies = await asyncio.gather(*(rest.post(boxes[n % 2], "contexts", body={}) for n in range(20)))
    assert sorted(reply.status for reply in replies) == [201, 201] + [429] * 18
    first = next(reply.body for reply in replies if reply.status == 201)
    await rest.delete(first["sandbox_id"], "contexts", first["id"])
    assert (await rest.post(boxes[0], "contexts", body={})).status == 201


async def test_files_written_at_once_do_not_pass_a_quota_of_a_mebibyte(program):
    rest = program("small")
    boxes = [(await rest.claimed())["id"] for _ in range(2)]
    quarter = "x" * (1 << 18)
    replies = await asyncio.gather(
        *(rest("PUT", boxes[n % 2], "files", f"{n}.txt", raw=quarter) for n in range(16)),
    )
    assert sorted(reply.status for reply in replies) == [201] * 4 + [429] * 12
    kept = [(await rest.get(box, "files", "")).body["entries"] for box in boxes]
    assert len(kept[0]) + len(kept[1]) == 4, "what was refused is not there"
    box = next(box for box, entries in zip(boxes, kept, strict=True) if entries)
    assert (await rest("PUT", box, "files", "more.txt", raw="x")).code == "quota_exceeded"
    await rest.delete(box)
    left = boxes[1 - boxes.index(box)]
    assert (await rest("PUT", left, "files", "more.txt", raw="x")).status == 201


async def test_a_quota_of_nothing_is_nothing(program, api):
    rest = program("nothing")
    assert (await rest.post(body={})).code == "quota_exceeded"
    assert (await api(rest.token)("post", "api/kernels", {"name": "sandbox-python"}))[0] == 429
