"""E2B's protocols: no sandbox without its own token, whatever else is sent, and nothing that hurts the server."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from datetime import datetime
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from jupyter_sandbox.command import CommandState
from jupyter_sandbox.surfaces.e2b import routes
from jupyter_sandbox.surfaces.e2b.files import signature
from jupyter_sandbox.surfaces.e2b.held import E2b
from jupyter_sandbox.surfaces.e2b.process import ProcessHandler
from tests.attacks.e2b_calls import STREAM, UNARY, Filesystem, allowed, ask, envelope, of, running
from tests.attacks.rest_world import as_person, once_refused, watched
from tests.conftest import eventually

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

FILE = {"Content-Type": "application/octet-stream"}
CAT = {"process": {"tag": "cat"}}
KEPT = b'{"path": "kept"}'
REQUESTS = {
    "GET health": ("", {}, None),
    "GET envs": ("", {}, None),
    "GET files": ("?path=kept", {}, None),
    "POST files": ("?path=kept", FILE, b"overwritten"),
    "POST execute": ("", UNARY, b"{\"code\": \"open('executed', 'w')\"}"),
    "GET contexts": ("", {}, None),
    "POST contexts": ("", UNARY, b"{}"),
    "DELETE contexts/ID": ("", {}, None),
    "POST contexts/ID/restart": ("", UNARY, b""),
    "POST process.Process/Start": ("", STREAM, envelope({"process": {"cmd": "/bin/touch", "args": ["started"]}})),
    "POST process.Process/Connect": ("", STREAM, envelope({"process": {"pid": 1}})),
    "POST process.Process/List": ("", UNARY, b"{}"),
    "POST process.Process/SendInput": ("", UNARY, json.dumps(CAT | {"input": {"stdin": "eA=="}}).encode()),
    "POST process.Process/StreamInput": (
        *("", STREAM, envelope({"start": CAT}) + envelope({"data": {"input": {"stdin": "eA=="}}})),
    ),
    "POST process.Process/CloseStdin": ("", UNARY, json.dumps(CAT).encode()),
    "POST process.Process/SendSignal": ("", UNARY, json.dumps(CAT | {"signal": "SIGNAL_SIGKILL"}).encode()),
    "POST process.Process/Update": ("", UNARY, json.dumps(CAT | {"pty": {"size": {"rows": 9, "cols": 9}}}).encode()),
    "POST filesystem.Filesystem/Stat": ("", UNARY, KEPT),
    "POST filesystem.Filesystem/MakeDir": ("", UNARY, b'{"path": "made"}'),
    "POST filesystem.Filesystem/Move": ("", UNARY, b'{"source": "kept", "destination": "moved"}'),
    "POST filesystem.Filesystem/Remove": ("", UNARY, KEPT),
    "POST filesystem.Filesystem/ListDir": ("", UNARY, b'{"path": "."}'),
    "POST filesystem.Filesystem/WatchDir": ("", STREAM | {"Connect-Timeout-Ms": "1"}, envelope({"path": "."})),
    "POST filesystem.Filesystem/CreateWatcher": ("", UNARY, b'{"path": "."}'),
    "POST filesystem.Filesystem/GetWatcherEvents": ("", UNARY, b'{"watcherId": "x"}'),
    "POST filesystem.Filesystem/RemoveWatcher": ("", UNARY, b'{"watcherId": "x"}'),
    "GET Nothing": ("", {}, None),
    "POST Nothing": ("", UNARY, b"{}"),
    "DELETE Nothing": ("", {}, None),
}
"""What changes something in a sandbox with a file `kept` and a command of the tag `cat`, if it can: query, head, body."""


CHANGES = (
    *("POST files", "POST execute", "POST contexts", "DELETE contexts/ID"),
    *(f"POST process.Process/{name}" for name in ("SendInput", "StreamInput", "Start", "CloseStdin", "SendSignal")),
    *(f"POST filesystem.Filesystem/{name}" for name in ("MakeDir", "Move", "Remove")),
)
"""Those whose change would be seen."""


def data_plane():
    """Each method of each route of the data plane, as the server has them; one without a request here is an error."""
    found = {}
    for path, handler, _ in routes.rules(None, E2b()):
        if path.startswith(f"{routes.DATA}/"):
            name = path.removeprefix(f"{routes.DATA}/").replace("([^/]+)", "ID").replace(".*", "Nothing")
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                if hasattr(handler, f"on_{method.lower()}"):
                    query, kind, body = REQUESTS[f"{method} {name}"]
                    found[f"{method} {name}"] = (method, name + query, kind, body)
    return found


DATA_PLANE = data_plane()


def test_every_method_of_the_data_plane_is_tried():
    assert set(DATA_PLANE) == set(REQUESTS)


async def state(world, box):
    """What runs in a sandbox of alice's, what is on its disk, and its contexts."""
    listed = await ask(world, "POST", "e2b/sbx/process.Process/List", allowed(box, UNARY), b"{}")
    files = await Filesystem(world, box)("ListDir", path=".", depth=3)
    known = await as_person(world, "alice").get(f"sbx_{box['sandboxID']}")
    return json.loads(listed.body)["processes"], files, known.body["contexts"]


async def another_state(world, box, before):
    async with asyncio.timeout(20):
        while True:
            if await state(world, box) != before:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("case", DATA_PLANE)
async def test_nothing_of_a_sandbox_without_its_token(world, make, case):
    box, other = await make("alice"), await make("bob")
    method, path, kind, body = DATA_PLANE[case]
    assert (await ask(world, "POST", "e2b/sbx/files?path=kept", allowed(box, FILE), b"kept")).code == 200
    made = await ask(world, "POST", "e2b/sbx/contexts", allowed(box, UNARY), b"{}")
    path = path.replace("ID", json.loads(made.body)["id"])
    wrong = [
        {},
        {"X-Access-Token": ""},
        {"X-Access-Token": "0" * 64},
        {"X-Access-Token": other["envdAccessToken"]},
        {"E2B-Traffic-Access-Token": other["trafficAccessToken"]},
        {"X-API-Key": "alice"},
        {"Authorization": "token alice"},
        {"Authorization": f"Bearer {box['envdAccessToken']}"},
        {"Cookie": "username-localhost=alice"},
    ]
    async with running(world, box, "exec 3> fed; echo ready; exec cat >&3", tag="cat") as cat:
        assert await cat.says() == b"ready\n"
        before = await state(world, box)
        for headers in wrong:
            response = await ask(world, method, f"e2b/sbx/{path}", kind | of(box, **headers), body)
            assert (headers, response.code) == (headers, 401)
            assert box["envdAccessToken"].encode() not in response.body
        assert await state(world, box) == before
        assert (await ask(world, method, f"e2b/sbx/{path}", allowed(box, kind), body)).code != 401
        if case in CHANGES:
            await another_state(world, box, before)


async def test_contexts_are_told_although_there_is_no_place_for_the_usual_ones(world, make, tokens):
    box = await make(tokens.issue("two"))  # contexts at most
    made = [json.loads((await ask(world, "POST", "e2b/sbx/contexts", allowed(box, UNARY), b"{}")).body) for _ in "ab"]
    told = await ask(world, "GET", "e2b/sbx/contexts", allowed(box))
    assert (told.code, {each["id"] for each in json.loads(told.body)}) == (200, {each["id"] for each in made})


@pytest.mark.parametrize("query", ["username=root", "username=root%20"])
async def test_nobody_but_the_user_reads_or_writes_files(world, make, query):
    box = await make("alice")
    for method, body in (("POST", b"kept"), ("GET", None)):
        answer = await ask(world, method, f"e2b/sbx/files?path=kept&{query}", allowed(box, FILE), body)
        assert (answer.code, b"invalid username" in answer.body) == (401, True), answer.body


async def test_no_signature_of_a_url_is_in_the_log(world, make, world_folder):
    box = await make("alice")
    signed = signature(box["envdAccessToken"], "missing", "read", "", "")
    answer = await ask(world, "GET", f"e2b/sbx/files?path=missing&signature={quote(signed)}", {})
    assert answer.code == 404
    log = world_folder / "server.log"
    await eventually(lambda: "path=missing" in log.read_text())  # it is written once the answer was
    assert signed[-20:] not in log.read_text()


async def test_of_two_commands_with_one_number_the_one_that_runs_is_meant():
    def command(number, state):
        return SimpleNamespace(id=number, pid=7, state=state, wanted=SimpleNamespace(tag=None))

    states = (CommandState.ENDED, CommandState.RUNNING, CommandState.ENDED)
    known = [command(*each) for each in enumerate(states)]
    commands = SimpleNamespace(all_in=lambda *_: known, get=lambda _owner, _sandbox, number: number)
    handler = SimpleNamespace(
        services=SimpleNamespace(commands=commands), box=SimpleNamespace(owner="a", sandbox_id="s")
    )
    assert ProcessHandler.found(handler, {"process": {"pid": 7}}) == 1
    del known[1]
    assert ProcessHandler.found(handler, {"process": {"pid": 7}}) == 2


async def test_a_page_may_send_the_headers_that_sdks_send(world):
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for path, key in (("v2/sandboxes", "x-api-key"), ("sbx/execute", "authorization")):
        answer = await ask(world, "OPTIONS", f"e2b/{path}", asked)
        allowed_names = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert (answer.code < 300, {"*", key} <= set(allowed_names)) == (True, True), (path, answer.code, allowed_names)


async def test_what_is_not_served_of_the_data_plane_says_so(world, make):
    box = await make("alice")
    assert (await ask(world, "GET", "e2b/sbx/metrics", allowed(box))).code == 501
    packed = {"Content-Type": "application/proto"}
    assert (await ask(world, "POST", "e2b/sbx/process.Process/List", allowed(box, packed), b"")).code == 415
    packed = {"Content-Type": "application/connect+proto"}
    start = envelope(b"\x0a\x04\x0a\x02id")
    answer = await ask(world, "POST", "e2b/sbx/process.Process/Start", allowed(box, packed), start)
    assert b'"code":"invalid_argument"' in answer.body


async def test_variables_of_commands_are_told_to_nobody(world, make):
    box = await make("alice")
    secret = {"process": {"cmd": "/bin/sleep", "args": ["1000"], "envs": {"SECRET": "x"}}}
    async with running(world, box, "", **secret):
        listed = await ask(world, "POST", "e2b/sbx/process.Process/List", allowed(box, UNARY), b"{}")
    (found,) = json.loads(listed.body)["processes"]
    assert found["config"] == {"cmd": "/bin/sleep", "args": ["1000"], "envs": {}, "cwd": "/home/user"}


async def test_who_makes_a_sandbox_is_told_what_he_asked_for_and_everybody_the_template_behind_it(world, make):
    box, key = await make("alice"), {"X-API-Key": "alice"}
    info = json.loads((await ask(world, "GET", f"e2b/sandboxes/{box['sandboxID']}", key)).body)
    assert (box["templateID"], info["templateID"]) == ("base", "python")


@pytest.mark.parametrize("kind", ["metadata", "envVars"])
async def test_what_a_sandbox_is_given_is_bounded(world, make, kind):
    await make("alice", **{kind: {f"n{number}": "x" for number in range(64)}})
    await make("alice", **{kind: {"n": "x" * 4096}})
    for table in (
        {f"n{number}": "x" for number in range(65)},
        {"n": "x" * 4097},
        {f"n{number}": "x" * 4090 for number in range(5)},
    ):
        body = json.dumps({"templateID": "base", kind: table})
        assert (await ask(world, "POST", "e2b/v2/sandboxes", {"X-API-Key": "alice"} | UNARY, body)).code == 400


async def test_each_port_tells_its_health_as_its_clients_expect(world, make):
    box = await make("alice")
    told = {}
    for port in ("", "49983", "49999"):
        response = await ask(world, "GET", "e2b/sbx/health", allowed(box, {"E2b-Sandbox-Port": port}))
        told[port] = (response.code, response.body)
    assert told == {"": (204, b""), "49983": (204, b""), "49999": (200, b'"OK"')}


async def test_who_has_no_token_renews_nothing(world, make):
    # once: to find out whether it lives counted as a use, whoever asked
    alice = as_person(world, "alice")
    claimed = (await alice.post(body={"timeout_s": 600})).body
    theirs = claimed["id"].removeprefix("sbx_")
    key = {"X-API-Key": "alice"} | UNARY
    held = await ask(world, "POST", f"e2b/sandboxes/{theirs}/connect", key, b'{"timeout": 1}')
    box = json.loads(held.body)

    async def ends():
        return datetime.fromisoformat((await alice.get(claimed["id"])).body["expires_at"])

    before = await ends()
    await asyncio.sleep(1.5)
    for headers in ({}, {"X-Access-Token": "0" * 64}):
        assert (await ask(world, "GET", "e2b/sbx/health", of(box, **headers))).code == 401
    assert await ends() == before
    assert (await ask(world, "GET", "e2b/sbx/health", allowed(box))).code == 204
    assert (await ends() - before).total_seconds() > 1
    await alice.delete(claimed["id"])


@pytest.mark.parametrize("theirs", ["", "0" * 20, "../x", "sbx_" + "0" * 20, "x" * 5000])
async def test_a_sandbox_that_is_none_is_gone(world, make, theirs):
    box = await make("alice")
    headers = {"E2b-Sandbox-Id": theirs, "X-Access-Token": box["envdAccessToken"]}
    response = await ask(world, "POST", "e2b/sbx/execute", headers | UNARY, b'{"code": "1"}')
    assert (response.code, "was not found" in response.body.decode()) == (502, True)


async def test_a_paused_sandbox_is_reached_by_nobody_and_resumed_by_its_owner_alone(world, tokens, make):
    box = await make("alice")
    path, mine = f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"} | UNARY
    assert (await ask(world, "POST", f"{path}/resume", mine, b"{}")).code == 409
    assert (await ask(world, "POST", f"{path}/pause", mine, b'{"memory": false}')).code == 501
    assert (
        await ask(world, "POST", f"{path}/pause", {"X-API-Key": tokens.issue("alice", "sandboxes:read")})
    ).code == 403
    assert [(await ask(world, "POST", f"{path}/pause", mine, b"{}")).code for _ in range(2)] == [204, 409]
    for token in (box["envdAccessToken"], "0" * 64):
        for method, call, kind, body in DATA_PLANE.values():
            response = await ask(world, method, f"e2b/sbx/{call}", kind | of(box, **{"X-Access-Token": token}), body)
            assert (call, response.code) == (call, 502)
            assert "was not found" in response.body.decode()
    for key in ("bob", tokens.issue("bob")):
        for change in ("pause", "resume", "connect"):
            assert (await ask(world, "POST", f"{path}/{change}", {"X-API-Key": key} | UNARY, b"{}")).code == 404
    weak = {"X-API-Key": tokens.issue("alice", "sandboxes")} | UNARY
    assert (await ask(world, "POST", f"{path}/resume", weak, b"{}")).code == 403
    listed = json.loads((await ask(world, "GET", "e2b/v2/sandboxes?state=paused", mine)).body)
    assert [(each["sandboxID"], each["state"]) for each in listed] == [(box["sandboxID"], "paused")]
    assert json.loads((await ask(world, "GET", "e2b/v2/sandboxes?state=running", mine)).body) == []
    for query in ("nonsense", "pause", "paused,nonsense"):
        assert (await ask(world, "GET", f"e2b/v2/sandboxes?state={query}", mine)).code == 400
    resumed = await ask(world, "POST", f"{path}/resume", mine, b"{}")
    assert (resumed.code, json.loads(resumed.body)["envdAccessToken"]) == (201, box["envdAccessToken"])
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]})
    assert (await ask(world, "GET", "e2b/sbx/health", headers)).code == 204


async def test_a_stranger_finds_and_ends_no_sandbox(world, make):
    box = await make("alice")
    for method, path, body in (
        ("GET", f"sandboxes/{box['sandboxID']}", None),
        ("DELETE", f"sandboxes/{box['sandboxID']}", None),
        ("POST", f"sandboxes/{box['sandboxID']}/timeout", b'{"timeout": 1}'),
        ("POST", f"v2/sandboxes/{box['sandboxID']}/connect", b'{"timeout": 1}'),
        ("GET", f"sandboxes/{box['sandboxID']}/metrics", None),
        ("POST", f"sandboxes/{box['sandboxID']}/pause", b"{}"),
        ("POST", f"sandboxes/{box['sandboxID']}/resume", b"{}"),
    ):
        response = await ask(world, method, f"e2b/{path}", {"X-API-Key": "bob"} | UNARY, body)
        assert (path, response.code) == (path, 404)
    metrics = await ask(world, "GET", f"e2b/sandboxes/metrics?sandbox_ids={box['sandboxID']}", {"X-API-Key": "bob"})
    assert json.loads(metrics.body) == {"sandboxes": {}}
    listed = json.loads((await ask(world, "GET", "e2b/v2/sandboxes", {"X-API-Key": "bob"})).body)
    assert box["sandboxID"] not in [each["sandboxID"] for each in listed]
    assert (await ask(world, "GET", f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"})).code == 200
    assert [each["id"] for each in (await as_person(world, "alice").get()).body["sandboxes"]] == [
        f"sbx_{box['sandboxID']}"
    ]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "nobody"}, {"Authorization": "token alice"}, {"Cookie": "a=b"}])
async def test_the_control_plane_knows_one_key(world, headers):
    for method, path, body in (
        ("POST", "v2/sandboxes", b'{"templateID": "base"}'),
        ("GET", "sandboxes/metrics?sandbox_ids=x", None),
        ("GET", "sandboxes/x/metrics", None),
        ("PUT", "sandboxes/x/network", b"{}"),
    ):
        response = await ask(world, method, f"e2b/{path}", headers | UNARY, body)
        assert (path, response.code) == (path, 401)


SCOPES = [("sandboxes:read",), ("sandboxes",), ("sandboxes", "kernels"), ("sandboxes", "files"), ("kernels", "files")]


@pytest.mark.parametrize("scopes", SCOPES, ids="+".join)
async def test_a_key_gets_no_token_that_may_more_than_itself(world, tokens, make, scopes):
    """A sandbox's token runs code and writes files, so a key that may not gets none, in no way."""
    box, key = await make("alice"), tokens.issue("alice", *scopes)
    headers = {"X-API-Key": key} | UNARY
    made = await ask(world, "POST", "e2b/v2/sandboxes", headers, b'{"templateID": "base"}')
    same = await ask(world, "POST", f"e2b/v2/sandboxes/{box['sandboxID']}/connect", headers, b'{"timeout": 9}')
    assert (made.code, same.code) == (403, 403)
    for path in (f"sandboxes/{box['sandboxID']}", "v2/sandboxes"):
        assert box["envdAccessToken"].encode() not in (await ask(world, "GET", f"e2b/{path}", headers)).body
    listed = json.loads((await ask(world, "GET", "e2b/v2/sandboxes", {"X-API-Key": "alice"})).body)
    assert [each["sandboxID"] for each in listed] == [box["sandboxID"]]


async def test_a_revoked_key_opens_nothing_more(world, tokens, make):
    """What it has made lives on until its time is over, or somebody releases it."""
    key = tokens.issue("alice")
    box = await make(key)
    tokens.revoke(key)
    assert (await once_refused(lambda: ask(world, "GET", "e2b/v2/sandboxes", {"X-API-Key": key}))).code == 401
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]})
    assert (await ask(world, "GET", "e2b/sbx/health", headers)).code == 204
    response = await ask(world, "DELETE", f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"})
    assert response.code == 204


async def test_a_signature_is_for_one_path_one_way_and_one_sandbox(world, make):
    box, other = await make("alice"), await make("bob")
    token = box["envdAccessToken"]
    headers = {"X-Access-Token": token, "Content-Type": "multipart/form-data; boundary=x"}
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nmine\r\n--x--\r\n'
    assert (await ask(world, "POST", "e2b/sbx/files?path=a", of(box, **headers), form)).code == 200
    right = signature(token, "a", "read", "", "")
    assert (await ask(world, "GET", f"files?path=a&signature={quote(right)}", {})).body == b"mine"
    for wrong in (
        f"files?path=b&signature={quote(right)}",
        f"files?path=a&username=user&signature={quote(right)}",
        f"files?path=a&signature={quote(signature(token, 'a', 'write', '', ''))}",
        f"files?path=a&signature={quote(right)}&signature_expiration=9999999999",
        f"files?path=a&signature={quote(signature(token, 'a', 'read', '', '1'))}&signature_expiration=1",
        "files?path=a&signature=x&signature_expiration=%C2%B2",
        "files?path=a&signature=",
        "files?path=a&signature=v1_",
        "files?path=a",
    ):
        refused = [await ask(world, "GET", wrong, {})]
        # who names a sandbox is told the same, whether it is there or not
        for sandbox_id in (box["sandboxID"], other["sandboxID"], "0" * 20) if "signature" in wrong else ():
            refused.append(await ask(world, "GET", wrong, {"E2b-Sandbox-Id": sandbox_id}))
        assert {(wrong, each.code, each.body) for each in refused} == {(wrong, 401, refused[0].body)}
        assert b"signature is missing or wrong" in refused[0].body
    assert (await ask(world, "POST", f"files?path=a&signature={quote(right)}", {}, b"")).code == 401
    foreign = of(other, **{"X-Access-Token": "0" * 64})
    assert (await ask(world, "GET", "e2b/sbx/files?path=a", foreign)).code == 401


async def test_a_good_signature_for_a_paused_sandbox_is_told_so_and_for_none_is_none(world, make):
    box = await make("alice")
    url = f"files?path=a&signature={quote(signature(box['envdAccessToken'], 'a', 'read', '', ''))}"
    path, key = f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"}
    assert (await ask(world, "GET", url, {})).code == 404  # there is no such file
    assert (await ask(world, "POST", f"{path}/pause", key | UNARY, b"{}")).code == 204
    for headers in ({}, of(box)):
        response = await ask(world, "GET", url, headers)
        assert (response.code, json.loads(response.body)["message"]) == (502, "The sandbox was not found")
    assert (await ask(world, "GET", url.replace("path=a", "path=b"), {})).code == 401
    assert (await ask(world, "DELETE", path, key)).code == 204
    for headers in ({}, of(box)):
        assert (await ask(world, "GET", url, headers)).code == 401


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "/home/user/../../etc/passwd",
        "a/../../b",
        "%2e%2e/x",
        "\u0000",
        "x" * 5000,
        "/proc/1/environ",
    ],
)
async def test_paths_that_lead_out_are_refused(world, make, path):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    for method, message in (
        ("Stat", {"path": path}),
        ("ListDir", {"path": path}),
        ("MakeDir", {"path": path}),
        ("Remove", {"path": path}),
        ("Move", {"source": path, "destination": "a"}),
        ("Move", {"source": "a", "destination": path}),
    ):
        response = await ask(world, "POST", f"e2b/sbx/filesystem.Filesystem/{method}", headers, json.dumps(message))
        assert (method, response.code, json.loads(response.body)["code"]) == (method, 400, "invalid_argument")


BAD = {
    "no json": b"{",
    "no object": b"[]",
    "deep": b'{"process": ' + b"[" * 50_000,
    "no command": b'{"process": {}}',
    "arguments that are none": b'{"process": {"cmd": "id", "args": [1]}}',
    "variables that are none": b'{"process": {"cmd": "id", "envs": {"A=B": "c"}}}',
    "a directory outside": b'{"process": {"cmd": "id", "cwd": "/etc"}}',
    "a terminal that is none": b'{"process": {"cmd": "id"}, "pty": {"size": {"rows": 1e9, "cols": -1}}}',
    "a million arguments": b'{"process": {"cmd": "id", "args": [' + b",".join([b'"a"'] * 100_000) + b"]}}",
}


@pytest.mark.parametrize("case", BAD)
async def test_messages_that_are_none_start_nothing(world, make, case):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | STREAM
    async with watched(world, busy_s=0.5):
        response = await ask(world, "POST", "e2b/sbx/process.Process/Start", headers, envelope(BAD[case]))
    flag, size = struct.unpack(">BI", response.body[:5])
    assert (response.code, flag, size) == (200, 2, len(response.body) - 5)
    assert json.loads(response.body[5:])["error"]["code"] == "invalid_argument"
    listed = await ask(world, "POST", "e2b/sbx/process.Process/List", headers | UNARY, b"{}")
    assert json.loads(listed.body) == {"processes": []}


@pytest.mark.parametrize("header", ["Basic \u00e9", "Basic =", "Basic", "Basic " + "A" * 60_000])
async def test_a_user_that_is_none_is_nobody(world, make, header):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"], "Authorization": header})
    response = await ask(world, "POST", "e2b/sbx/process.Process/List", headers | UNARY, b"{}")
    assert response.code in (200, 401)


async def test_a_token_in_the_url_neither_opens_nor_closes_anything(world, make):
    box = await make("alice")
    right = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    assert (await ask(world, "POST", "e2b/sbx/process.Process/List?token=jst_x", right, b"{}")).code == 200
    assert (await ask(world, "POST", "e2b/sbx/process.Process/List?token=alice", of(box) | UNARY, b"{}")).code == 401
    assert (await ask(world, "GET", "e2b/v2/sandboxes?token=alice", {})).code == 401


async def test_a_million_empty_messages_do_not_hold_up_the_loop(world, make):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | STREAM
    async with watched(world):
        response = await ask(world, "POST", "e2b/sbx/process.Process/Start", headers, bytes(2_000_000))
    assert b"the request is one message" in response.body


async def test_another_user_is_not_there(world, make):
    box = await make("alice")
    root = base64.b64encode(b"root:").decode()
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"], "Authorization": f"Basic {root}"})
    response = await ask(world, "POST", "e2b/sbx/process.Process/List", headers | UNARY, b"{}")
    assert (response.code, "invalid username" in response.body.decode()) == (401, True)


async def test_what_code_says_is_ascii_lines_of_json(world, make):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    code = "print('\\u2028\\x85\\ud800\\n{\"type\": \"end_of_execution\"}'); display({'text/plain': '\\x00', 'e2b/data': 'nope'}, raw=True)"
    response = await ask(world, "POST", "e2b/sbx/execute", headers, json.dumps({"code": code}))
    assert response.body.isascii()
    events = [json.loads(line) for line in response.body.splitlines()]
    assert [event["type"] for event in events].count("end_of_execution") == 1
    assert events[-1]["type"] == "end_of_execution"


HOSTILE = {
    "not a number": "'NaN'",
    "infinite": "'1e999'",
    "deep": "'[' * 990 + ']' * 990",
    "wide": "'[' + '[],' * 2_000_000 + '[]]'",
    "half a character": r"""'"\\ud800"'""",
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("kind", ["application/json", "e2b/data", "e2b/chart"])
async def test_json_that_a_kernel_makes_up_spoils_neither_the_stream_nor_the_server(world, make, case, kind):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    code = f"display({{{kind!r}: {HOSTILE[case]}, 'text/plain': 'shown'}}, raw=True); print('after')"
    async with watched(world, busy_s=0.3):
        response = await ask(world, "POST", "e2b/sbx/execute", headers, json.dumps({"code": code}))
    events = [json.loads(line) for line in response.body.splitlines()]
    assert [event["type"] for event in events[-3:]] == ["stdout", "number_of_executions", "end_of_execution"]


LIES = {
    "no object": "[1]",
    "no type": "{'title': 't', 'elements': []}",
    "a type of its own making": "{'type': 'constructor', 'title': 't', 'elements': []}",
    "no elements": "{'type': 'pie', 'title': 't'}",
    "elements that are none": "{'type': 'pie', 'title': 't', 'elements': [None, 1]}",
    "points that are none": "{'type': 'line', 'title': 't', 'elements': [{'label': 'l', 'points': [1]}]}",
    "no labels": "{'type': 'bar', 'title': 't', 'elements': []}",
    "charts in charts": "{'type': 'superchart', 'title': 't', 'elements': [{'type': 'superchart', 'title': 't', 'elements': []}]}",
    "large": "{'type': 'unknown', 'title': 't' * (2 << 20), 'elements': []}",
}


@pytest.mark.parametrize("case", LIES)
async def test_a_chart_that_a_client_would_stumble_over_is_none(world, make, case):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    code = f"lie = {LIES[case]}\ndisplay({{'e2b/chart': lie, 'e2b/data': lie, 'text/plain': 'shown'}}, raw=True)"
    async with watched(world, busy_s=0.3):
        response = await ask(world, "POST", "e2b/sbx/execute", headers, json.dumps({"code": code}))
    (result,) = [event for event in map(json.loads, response.body.splitlines()) if event["type"] == "result"]
    assert result == {"type": "result", "is_main_result": False, "text": "shown"}


@pytest.mark.parametrize("body", [b'{"code": "\\ud800"}', b'{"code": 1}', b"{}", b'{"code": "", "x": ' + b"[" * 99_999])
async def test_code_that_is_none_is_refused(world, make, body):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]}) | UNARY
    assert (await ask(world, "POST", "e2b/sbx/execute", headers, body)).code == 400


async def test_input_that_is_no_base64_is_refused(world, make):
    box = await make("alice")
    headers = of(box, **{"X-Access-Token": box["envdAccessToken"]})
    start = envelope({"process": {"cmd": "/bin/cat"}, "tag": "cat"})
    started = asyncio.ensure_future(ask(world, "POST", "e2b/sbx/process.Process/Start", headers | STREAM, start))
    body = json.dumps({"process": {"tag": "cat"}, "input": {"stdin": "\u00e9"}})
    for _ in range(100):
        response = await ask(world, "POST", "e2b/sbx/process.Process/SendInput", headers | UNARY, body)
        if response.code != 404:
            break
        await asyncio.sleep(0.05)
    assert (response.code, json.loads(response.body)["code"]) == (400, "invalid_argument")
    stop = json.dumps({"process": {"tag": "cat"}, "signal": "SIGNAL_SIGKILL"})
    assert (await ask(world, "POST", "e2b/sbx/process.Process/SendSignal", headers | UNARY, stop)).code == 200
    await started


@pytest.mark.parametrize(
    "query",
    [
        *("limit=%C2%B2", "limit=x", "limit=0", "limit=99999999999", "limit=-1"),
        *("nextToken=../x", "nextToken=%ff", "nextToken=9999999999999999999-00000000000000000000"),
        *("metadata=" + "a=b%26" * 2000, "state=ready", "order=newest", "startedAfter=x", "startedAfter=2026-11-29"),
        *("order=asc&order=desc", "templateID=base", "%00=x"),
    ],
)
async def test_pages_that_are_none_are_refused(world, query):
    response = await ask(world, "GET", f"e2b/v2/sandboxes?{query}", {"X-API-Key": "alice"})
    assert (query, response.code) == (query, 400)
    assert json.loads(response.body)["code"] == 400


@pytest.mark.parametrize("query", ["nextToken=", "metadata=a=b", "state=paused", "template=nothing"])
async def test_what_nothing_is_found_by_finds_nothing(world, query):
    response = await ask(world, "GET", f"e2b/v2/sandboxes?{query}", {"X-API-Key": "alice"})
    assert (query[:20], response.code, json.loads(response.body)) == (query[:20], 200, [])


BODIES = [
    b"{",
    b"[]",
    b'{"templateID": 1}',
    b'{"timeout": "x"}',
    b'{"timeout": 1e99}',
    b'{"metadata": []}',
    b'{"templateID": "base", "envVars": {"A=B": "c"}}',
    b'{"templateID": "base", "envVars": {"MY-VARIABLE": "1"}}',
]


@pytest.mark.parametrize("body", BODIES)
async def test_sandboxes_that_cannot_be_meant_are_not_made(world, body):
    response = await ask(world, "POST", "e2b/v2/sandboxes", {"X-API-Key": "alice"} | UNARY, body)
    told = json.loads(response.body)
    assert (response.code, told["code"]) == (400, 400)
    listed = await ask(world, "GET", "e2b/v2/sandboxes", {"X-API-Key": "alice"})
    assert json.loads(listed.body) == []
