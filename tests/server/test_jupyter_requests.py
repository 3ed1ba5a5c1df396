"""Requests to Jupyter's own routes that stock Jupyter fails at, or takes and is spoilt by: refused, and all goes on."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError

UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def ask(jp_fetch):
    """Ask for a path below /api; return status and decoded body, which is JSON whatever the status."""

    async def ask(*parts, method="GET", raw=None):
        response = await jp_fetch(
            "api", *parts, method=method, body=raw, allow_nonstandard_methods=True, raise_error=False
        )
        return response.code, json.loads(response.body) if response.body else None

    return ask


async def everything_answers(ask) -> None:
    """Whatever was asked before, lists can be had, and are empty."""
    assert await ask("kernels") == (200, [])
    assert await ask("sessions") == (200, [])


BODIES = {
    "a list": b"[]",
    "a number": b"1",
    "half of an object": b"{",
    "bytes that are no text": b"\xff",
    "NaN": b'{"a": NaN}',
    "deep lists": b"[" * 100_000,
    "a number for a path": b'{"type": "a", "path": 1}',
    "a huge number for a path": b'{"type": "a", "path": 99999999999999999999999}',
    "an object for a path": b'{"type": "a", "path": {}}',
    "NUL in a path": b'{"type": "a", "path": "\\u0000"}',
    "half a character in a path": b'{"type": "a", "path": "\\ud800"}',
    "a path without end": json.dumps({"type": "a", "path": "a/" * 5000}).encode(),
}
KERNELS = {
    "a number for a name": b'{"name": 1}',
    "an object for a name": b'{"name": {}}',
    "a number for an id": b'{"kernel_id": 1}',
    "an object for an id": b'{"kernel_id": {}}',
    "an empty id": b'{"kernel_id": ""}',
    "an id that no route takes": b'{"kernel_id": "AAA"}',
    "a file elsewhere for an id": b'{"kernel_id": "../../x"}',
    "half a character in an id": b'{"kernel_id": "\\ud800"}',
}
SESSIONS = {
    "an object for a type": b'{"path": "a", "type": {}}',
    "a number for a type": b'{"path": "a", "type": 1}',
    "an object for a name": b'{"path": "a", "type": "a", "name": {}}',
    "half a character in a name": b'{"path": "a", "type": "a", "name": "\\ud800"}',
    "NUL in a name": b'{"path": "a", "type": "a", "name": "\\u0000"}',
    "a number for a kernel": b'{"path": "a", "type": "a", "kernel": 1}',
    "null for a kernel": b'{"path": "a", "type": "a", "kernel": null}',
    "an object for a kernel's id": b'{"path": "a", "type": "a", "kernel": {"id": {}}}',
    "a file elsewhere for a kernel's id": b'{"path": "a", "type": "a", "kernel": {"id": "../x"}}',
    "a number for a notebook": b'{"notebook": 1}',
    "a number for a notebook's path": b'{"notebook": {"path": 1}}',
}
CHANGES = {
    "a list": b"[]",
    "a number": b"1",
    "null for a path": b'{"path": null}',
    "a number for a path": b'{"path": 1}',
    "half a character in a path": b'{"path": "\\ud800"}',
    "an object for a name": b'{"name": {}}',
    "a list for a type": b'{"type": []}',
    "a number for a kernel": b'{"kernel": 1}',
    "an object for a kernel's id": b'{"kernel": {"id": {}}}',
    "an id that no route takes": b'{"kernel": {"id": "no"}}',
    "a number for a notebook": b'{"notebook": 1}',
}


@pytest.mark.parametrize(("resource", "bodies"), [("kernels", BODIES | KERNELS), ("sessions", BODIES | SESSIONS)])
async def test_a_body_that_is_none_is_refused_and_makes_nothing(ask, resource, bodies):
    answers = {what: await ask(resource, method="POST", raw=raw) for what, raw in bodies.items()}
    taken = {what: (code, model) for what, (code, model) in answers.items() if code != 400}
    assert taken == {}
    assert {model["reason"] for _, model in answers.values()} == {"Refused (invalid_request)"}
    await everything_answers(ask)


async def test_a_body_that_is_too_large_is_refused(ask):
    for resource in ("kernels", "sessions"):
        code, _ = await ask(resource, method="POST", raw=b'{"a": "' + b"x" * (2 << 20) + b'"}')
        assert code == 413
    await everything_answers(ask)


@pytest.mark.parametrize("name", ["no-such", "../x", ""])
async def test_a_kernelspec_that_is_not_there_is_a_404(ask, name):
    assert (await ask("kernels", method="POST", raw=json.dumps({"name": name}).encode()))[0] == 404
    body = {"path": "a", "type": "a", "kernel": {"name": name, "id": UNKNOWN}}
    assert (await ask("sessions", method="POST", raw=json.dumps(body).encode()))[0] == 404
    await everything_answers(ask)


async def test_a_refusal_of_jupyters_own_code_stays_what_it_is(ask, jp_serverapp, monkeypatch):
    """Stock Jupyter answers 500 whatever refused the start of a session's kernel."""

    def refuse(*_args, **_kwargs):
        raise HTTPError(404, "no such place")

    monkeypatch.setattr(jp_serverapp.contents_manager, "get_kernel_path", refuse)
    code, model = await ask("sessions", method="POST", raw=b'{"path": "a", "type": "a"}')
    assert (code, model["message"]) == (404, "no such place")


@pytest.mark.parametrize("path", ["../../etc", "..", "a/../../etc", "/../etc", "./../etc"])
async def test_no_kernel_starts_above_the_root_directory(ask, path):
    """Stock Jupyter starts it there; a sandbox would have shown that directory of the host."""
    outside = (404, "the path is outside of the server's root directory")
    bodies = [("kernels", {"path": path}), ("sessions", {"path": f"{path}/x", "type": "a"})]
    bodies += [("sessions", {"notebook": {name: f"{path}/x"}}) for name in ("path", "name")]
    for resource, body in bodies:
        code, model = await ask(resource, method="POST", raw=json.dumps(body).encode())
        assert (code, model["message"]) == outside, body
    await everything_answers(ask)


async def test_a_change_that_is_none_leaves_the_session_as_it_was(ask):
    code, session = await ask("sessions", method="POST", raw=b'{"path": "a.ipynb", "type": "notebook"}')
    assert code == 201
    for what, raw in CHANGES.items():
        assert (await ask("sessions", session["id"], method="PATCH", raw=raw))[0] == 400, what
    for kernel in ({"name": "no-such"}, {"id": UNKNOWN}):
        raw = json.dumps({"path": "b.ipynb", "kernel": kernel}).encode()
        assert (await ask("sessions", session["id"], method="PATCH", raw=raw))[0] == 409
    code, same = await ask("sessions", session["id"])
    assert (code, same["path"], same["kernel"]["id"]) == (200, "a.ipynb", session["kernel"]["id"])
    assert (await ask("sessions", session["id"], method="PATCH", raw=b'{"path": "b.ipynb"}'))[1]["path"] == "b.ipynb"


async def test_what_jupyter_takes_and_ignores_it_still_takes(ask):
    """JupyterLab sends whole models."""
    code, kernel = await ask("kernels", method="POST", raw=b'{"name": null, "kernel_id": null, "more": [1]}')
    assert code == 201
    body = {"path": "a", "type": "a", "name": None, "more": {}, "kernel": {"id": kernel["id"], "name": "", "state": 1}}
    code, session = await ask("sessions", method="POST", raw=json.dumps(body).encode())
    assert (code, session["kernel"]["id"]) == (201, kernel["id"])


@pytest.mark.parametrize("kernel_id", [UNKNOWN, "x", "a-b-c-d"])
async def test_a_kernel_that_is_not_there_is_a_404(ask, kernel_id):
    for action in ("restart", "interrupt"):
        assert (await ask("kernels", kernel_id, action, method="POST", raw=b""))[0] == 404
    assert (await ask("kernels", kernel_id))[0] == 404
    assert (await ask("sessions", kernel_id))[0] == 404


async def test_a_method_that_there_is_not_names_those_that_there_are(jp_fetch):
    allowed = {}
    for path in ("kernels", "sessions", "kernelspecs"):
        with pytest.raises(HTTPClientError) as refusal:
            await jp_fetch("api", path, method="PUT", body=b"")
        assert refusal.value.code == 405
        allowed[path] = set(refusal.value.response.headers["Allow"].split(", "))
    assert allowed == {
        "kernels": {"GET", "POST", "OPTIONS"},
        "sessions": {"GET", "POST", "OPTIONS"},
        "kernelspecs": {"GET", "OPTIONS"},
    }


async def test_nul_in_the_name_of_a_kernelspecs_file_is_a_404(jp_fetch):
    with pytest.raises(HTTPClientError) as refusal:
        await jp_fetch("kernelspecs", "sandbox-python", "a%00b")
    assert refusal.value.code == 404


async def test_a_kernel_that_jupyter_has_just_added_can_be_listed(jp_serverapp, ask):
    """Jupyter adds it to its map one turn of the loop before it sets what a list shows."""
    manager = jp_serverapp.kernel_manager
    manager._kernels[UNKNOWN] = manager.kernel_manager_factory(parent=manager)
    try:
        code, (model,) = await ask("kernels")
    finally:
        del manager._kernels[UNKNOWN]
    assert (code, model["execution_state"]) == (200, "starting")


@pytest.mark.parametrize("action", ["restart", "interrupt"])
async def test_a_kernel_that_ends_meanwhile_is_no_failure_of_the_server(ask, start_kernel, action):
    for turns in range(6):
        kernel_id = await start_kernel()
        ending = asyncio.create_task(ask("kernels", kernel_id, method="DELETE"))
        for _ in range(turns * 20):
            await asyncio.sleep(0)
        answers = [await ask("kernels", kernel_id, action, method="POST", raw=b"") for _ in range(3)]
        answers.append(await ending)
        assert all(code in {200, 204, 404, 409} for code, _ in answers), answers
        assert (await ask("kernels"))[0] == 200
