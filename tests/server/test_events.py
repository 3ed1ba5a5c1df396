"""What an auditor reads: who ran what where, how it ended, what went in and out, what was refused; and the metrics of it."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
from tornado.httpclient import HTTPClientError
from traitlets.config import Config

from jupyter_sandbox import events
from jupyter_sandbox.terms import Term
from tests.attacks.far_ends import far_end, saying
from tests.conftest import eventually, stop_broker
from tests.server.notebook import V1

pytestmark = pytest.mark.timeout(120)

CODE = "print('the answer: ' + str(6 * 7))  # s3cret-code"


class Audit(logging.Handler):
    """An auditor's handler. Each event was judged against its schema before it came."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.events: list[dict] = []

    def emit(self, record):
        self.text += f"{record.getMessage()}\n"
        self.events.append(json.loads(record.getMessage()))

    def named(self, kind, **values) -> list[dict]:
        """The events of a kind with these values."""
        found = (each for each in self.events if each["__schema__"] == kind.schema_id())
        return [each for each in found if all(each[name] == value for name, value in values.items())]

    async def one(self, kind, **values) -> dict:
        """The only event of a kind with these values, when it has come."""
        await eventually(lambda: self.named(kind, **values))
        (found,) = self.named(kind, **values)
        return found


@pytest.fixture
def audit():
    return Audit()


@pytest.fixture
def jp_server_config(jp_server_config, request, audit):
    more = Config({"EventLogger": {"handlers": [audit]}})
    if "store" in request.fixturenames:
        port = request.getfixturevalue("free_port")
        more.FileTransfers.allowed_hosts = [f"127.0.0.1:{port}"]
    jp_server_config.merge(more)
    return jp_server_config


@pytest.fixture
def store(free_port):
    """The port of an object store that the operator allows."""
    return free_port


async def scraped(jp_fetch) -> dict[str, float]:
    """The metrics of sandboxes, by name and labels as they are written."""
    text = (await jp_fetch("metrics")).body.decode()
    lines = re.findall(r"^jupyter_sandbox_(\S+?)(\{.*?\})? (\S+)$", text, re.MULTILINE)
    return {f"{name}{labels}": float(value) for name, labels, value in lines}


async def test_what_a_client_does_to_files_is_told(rest, audit):
    sandbox = (await rest.claimed())["id"]
    for path in ("a.txt", "d/1", "d/2"):
        await rest("PUT", sandbox, "files", path, raw=b"12345", params={"parents": "1"})
    moved = await rest("PATCH", sandbox, "files", "a.txt", body={"path": "d/3"})
    assert (await rest.delete(sandbox, "files", "d")).code == "file_conflict"
    gone = await rest.delete(sandbox, "files", "d", params={"recursive": "1"}, headers={"X-Request-Id": "gone-1"})
    assert (moved.status, gone.status) == (200, 204), (moved, gone)
    told = await audit.one(events.FileMoved)
    assert (told["path"], told["target"], told["sandbox_id"]) == ("/sandbox/a.txt", "/sandbox/d/3", sandbox)
    told = await audit.one(events.FileDeleted)
    assert (told["path"], told["recursive"], told["whole"]) == ("/sandbox/d", True, True)
    assert (told["owner"], told["request_id"]) == ("*", "gone-1")


async def test_tokens_of_a_sandbox_are_told_without_their_text(owners_token, rest, audit):
    sandbox = (await rest.claimed())["id"]
    wanted = {"timeout_s": 60, "scopes": ["kernels:read"]}
    reply = await rest.post(sandbox, "tokens", body=wanted, headers={"X-Request-Id": "issue-1"})
    token_id, text = reply.body["id"], reply.body["token"]
    assert (await rest.delete(sandbox, "tokens", token_id, headers={"X-Request-Id": "revoke-1"})).status == 204
    assert (await rest.delete(sandbox, "tokens", token_id)).status == 404
    told = await audit.one(events.TokenIssued)
    assert (told["sandbox_id"], told["token_id"], told["owner"], told["request_id"]) == (
        sandbox,
        token_id,
        "*",
        "issue-1",
    )
    assert (set(told["scopes"].split()), told["timeout_s"]) == ({"sandboxes:read", "kernels:read"}, 60)
    assert told["issued_by"] is None
    told = await audit.one(events.TokenRevoked)
    assert (told["sandbox_id"], told["token_id"], told["request_id"]) == (sandbox, token_id, "revoke-1")
    assert text[-43:] not in audit.text


async def test_templates_that_change_are_told_without_what_is_in_them(rest, audit):
    definition = {"min_idle": 0, "environment": {"KEY": "s3cret"}}
    for request in ("made-1", "made-2"):
        assert (await rest("PUT", "templates", "told", body=definition, headers={"X-Request-Id": request})).status < 300
    assert (await rest.delete("templates", "told")).status == 204
    assert (await rest.delete("templates", "told")).status == 404
    first = await audit.one(events.TemplateDefined, is_new=True)
    assert (first["template"], first["owner"], first["request_id"]) == ("told", "*", "made-1")
    assert (await audit.one(events.TemplateDefined, is_new=False))["request_id"] == "made-2"
    assert (await audit.one(events.TemplateDeleted))["template"] == "told"
    assert "s3cret" not in audit.text


async def test_the_life_of_a_claimed_sandbox_is_told_from_end_to_end(rest, audit, store, jp_fetch):
    before = await scraped(jp_fetch)
    reply = await rest.post(body={"timeout_s": 60}, headers={"X-Request-Id": "claim-1"})
    assert reply.headers["X-Request-Id"] == "claim-1"
    sandbox = reply.body["id"]
    await rest.post(sandbox, "renew", body={"timeout_s": 70})
    context = await rest.context(sandbox)
    await context.printed(CODE)
    assert (await context.execute("1 / 0"))["outcome"] == "error"
    secret = {"argv": ["sh", "-c", "echo told; exit 3 # s3cret"]}
    assert (await rest.post(sandbox, "commands", body=secret, headers={"X-Request-Id": "run-1"})).body["exit_code"] == 3
    await rest.post(*context.parts, "restart")
    await rest("PUT", sandbox, "files", "a.txt", raw=b"12345")
    await rest._fetch("api", "sandboxes", sandbox, "files", "a.txt", method="GET", params={"download": "1"})
    async with far_end(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), port=store):
        url = f"http://127.0.0.1:{store}/o?sig=s3cret"
        wanted = [{"url": url, "path": "b"}, {"url": "http://169.254.169.254/s3cret", "path": "c"}]
        outcomes = (await rest.post(sandbox, "uploads", body={"files": wanted})).body["files"]
    assert [each["error"] and each["error"]["code"] for each in outcomes] == [None, "url_refused"]
    assert (await rest.get(sandbox, "files", "none", headers={"X-Request-Id": "bad one"})).code == "unknown_file"
    await rest("PATCH", sandbox, "files", "b", body={"path": "c"})
    await rest.delete(sandbox, "files", "c")
    await rest.post(sandbox, "pause")
    await rest.post(sandbox, "resume")
    await rest("PUT", sandbox, "network", body={"deny": ["10.0.0.0/8"]}, headers={"X-Request-Id": "closed-1"})
    await rest.delete(*context.parts)
    service = rest.services.sandboxes
    service._claimed[sandbox].term = Term.begun(service._clock() - 60, 70, is_renewed_by_use=False)
    await service.tick()
    await rest.delete(sandbox)

    claimed = await audit.one(events.SandboxClaimed)
    assert (claimed["sandbox_id"], claimed["owner"], claimed["request_id"]) == (sandbox, "*", "claim-1")
    assert (claimed["origin"], claimed["template"], claimed["timeout_s"]) == ("claim", "python", 60)
    assert (await audit.one(events.SandboxRenewed))["timeout_s"] == 70
    for change in (events.SandboxPaused, events.SandboxResumed):
        told = await audit.one(change)
        assert (told["sandbox_id"], told["owner"], 0 < told["took_s"] < 10) == (sandbox, "*", True)
    closed = await audit.one(events.SandboxRestricted)
    assert (closed["denied"], closed["excepted"], closed["request_id"]) == ("10.0.0.0/8", "", "closed-1")
    soon = await audit.one(events.SandboxEndsSoon)
    assert (soon["owner"], 5 < soon["left_s"] < 11) == ("*", True)
    started = await audit.one(events.ContextStarted)
    assert (started["context_id"], started["kernel_name"], started["owner"]) == (context.id, "sandbox-python", "*")
    run = await audit.one(events.ExecutionStarted, code_characters=len(CODE))
    assert (run["code_sha256"], run["means"], run["timeout_s"]) == (events.Code.of(CODE).sha256, "rest", 60)
    end = await audit.one(events.ExecutionEnded, execution_id=run["execution_id"])
    assert (end["outcome"], end["output_bytes"]) == ("ok", len("the answer: 42\n"))
    assert end["request_id"] == run["request_id"] is not None
    assert 0 < end["duration_s"] < 30
    assert len(audit.named(events.ExecutionEnded, outcome="error")) == 1
    command = await audit.one(events.CommandStarted)
    assert (command["argv_characters"], command["terminal"], command["detached"]) == (32, False, False)
    ended = await audit.one(events.CommandEnded, command_id=command["command_id"])
    assert (ended["outcome"], ended["exit_code"], ended["output_bytes"]) == ("error", 3, 5)
    assert (ended["owner"], ended["request_id"], ended["sandbox_id"]) == ("*", "run-1", sandbox)
    assert (await audit.one(events.ContextRestarted))["reason"] == "requested"
    assert (await audit.one(events.ContextEnded))["reason"] == "requested"
    files = audit.named(events.FileTransferred)
    told = [(each["path"], each["direction"], each["size_bytes"], each["host"]) for each in files]
    assert told == [
        ("/sandbox/a.txt", "in", 5, None),
        ("/sandbox/a.txt", "out", 5, None),
        ("/sandbox/b", "in", 3, "127.0.0.1"),
    ]
    assert all(each["whole"] and each["owner"] == "*" for each in files)
    refused = await audit.one(events.RequestRefused, code="url_refused")
    assert (refused["operation"], refused["host"], refused["sandbox_id"]) == (
        "upload_files",
        "169.254.169.254",
        sandbox,
    )
    missing = await audit.one(events.RequestRefused, code="unknown_file")
    assert (missing["operation"], missing["sandbox_id"]) == ("get_file", sandbox)
    assert missing["request_id"] not in {None, "bad one"}
    ended = await audit.one(events.SandboxEnded)
    assert (ended["sandbox_id"], ended["reason"], ended["origin"]) == (sandbox, "released", "claim")

    apart = {events.TokenIssued, events.TokenRevoked, events.TemplateDefined, events.TemplateDeleted}
    assert {each["__schema__"] for each in audit.events} >= {kind.schema_id() for kind in {*events.ALL} - apart}
    assert "s3cret" not in audit.text

    after = await scraped(jp_fetch)
    grown = {name: after[name] - before.get(name, 0) for name in after if not name.startswith("worker")}
    assert grown['claim_seconds_count{origin="claim"}'] == 1
    assert grown['sandboxes_ended_total{origin="claim",reason="released"}'] == 1
    assert grown['executions_total{means="rest",outcome="ok"}'] == 1
    assert grown['executions_total{means="rest",outcome="error"}'] == 1
    assert grown['commands_total{outcome="error"}'] == 1
    assert grown["command_output_bytes_total"] == 5
    assert grown['file_bytes_total{direction="in",with_url="no"}'] == 5
    assert grown['file_bytes_total{direction="in",with_url="yes"}'] == 3
    assert grown['refusals_total{code="url_refused"}'] == 1
    assert grown["dropped_events_total"] == 0


@pytest.mark.parametrize(
    ("protocol", "usual", "unusual"),
    [(None, "execute_request", "execute\\u005frequest"), (V1, b"execute_request", b"execute\\u005frequest")],
    ids=["text", "v1"],
)
async def test_code_is_told_however_its_request_is_written(new_notebook, audit, protocol, usual, unusual):
    notebook = await new_notebook(protocol=protocol)
    write = notebook._websocket.write_message

    def rewritten(frame, binary=False):
        if usual not in frame:
            return write(frame, binary=binary)
        changed = frame.replace(usual, unusual)
        if binary:  # the frames behind it begin so much later
            count, grown = int.from_bytes(frame[:8], "little"), len(unusual) - len(usual)
            offsets = [int.from_bytes(frame[8 * n : 8 * n + 8], "little") for n in range(1, count + 1)]
            moved = [offset + grown * (number > 1) for number, offset in enumerate(offsets)]
            changed = b"".join(number.to_bytes(8, "little") for number in (count, *moved)) + changed[8 * (count + 1) :]
        return write(changed, binary=binary)

    notebook._websocket.write_message = rewritten
    assert await notebook.run("print(6 * 7)") == "42\n"
    run = await audit.one(events.ExecutionStarted, code_characters=len("print(6 * 7)"))
    assert (await audit.one(events.ExecutionEnded, execution_id=run["execution_id"]))["outcome"] == "ok"


async def test_a_notebooks_kernel_tells_as_much(new_notebook, audit, jp_fetch):
    notebook = await new_notebook()
    await notebook.execute(CODE)
    await notebook.execute("1 / 0")
    await jp_fetch("api", "kernels", notebook.kernel_id, method="DELETE")
    sandbox = (await audit.one(events.SandboxClaimed, origin="kernel"))["sandbox_id"]
    started = await audit.one(events.ContextStarted)
    assert (started["context_id"], started["sandbox_id"], started["owner"]) == (notebook.kernel_id, sandbox, "*")
    assert started["request_id"]
    run = await audit.one(events.ExecutionStarted, code_characters=len(CODE))
    assert (run["means"], run["context_id"], run["sandbox_id"]) == ("websocket", notebook.kernel_id, sandbox)
    end = await audit.one(events.ExecutionEnded, execution_id=run["execution_id"])
    assert end["outcome"] == "ok"
    assert end["output_bytes"] > len("the answer: 42\n")
    assert (await audit.one(events.ExecutionEnded, outcome="error"))["sandbox_id"] == sandbox
    assert (await audit.one(events.ContextEnded))["reason"] == "requested"
    ended = await audit.one(events.SandboxEnded)
    assert (ended["sandbox_id"], ended["reason"]) == (sandbox, "vacated")
    assert "s3cret" not in audit.text


async def test_a_kernel_that_dies_is_told_with_its_reason_and_so_is_the_cell(new_notebook, audit, add_kernelspec):
    notebook = await new_notebook(add_kernelspec("small", template="small-memory"))
    notebook.send("execute_request", {"code": "import os; os._exit(7)", "silent": False})
    restarted = await audit.one(events.ContextRestarted)
    assert (restarted["reason"], restarted["context_id"]) == ("failed", notebook.kernel_id)
    assert (restarted["owner"], restarted["request_id"]) == ("*", None)
    assert (await audit.one(events.ExecutionEnded))["outcome"] == "died"
    await notebook.answers()


async def test_a_lost_worker_and_time_that_is_over_are_told(rest, audit, tree):
    lost, late = await rest.claimed(), await rest.claimed(timeout_s=1)
    tree.kill_worker(lost["id"])
    gone = await audit.one(events.SandboxEnded, sandbox_id=lost["id"])
    assert (gone["reason"], gone["owner"]) == ("lost", "*")
    assert "it crashed" in gone["message"]
    over = await audit.one(events.SandboxEnded, sandbox_id=late["id"])
    assert (over["reason"], over["message"], over["request_id"]) == ("expired", None, None)


async def test_what_is_refused_is_told_with_who_it_was_if_that_is_known(rest, audit, jp_fetch, add_kernelspec):
    assert (await rest.get(headers={"Authorization": ""})).code == "forbidden"
    assert (await audit.one(events.RequestRefused, code="forbidden"))["owner"] is None
    assert (await rest.post(body={"template": "none"})).code == "unknown_template"
    refused = await audit.one(events.RequestRefused, code="unknown_template")
    assert (refused["operation"], refused["owner"], refused["sandbox_id"]) == ("claim_sandbox", "*", None)
    assert (await rest("PUT", "x", raw=b"")).code == "method_not_allowed"
    assert (await audit.one(events.RequestRefused, code="method_not_allowed"))["operation"] is None
    assert (await rest.get("a", "b", "c", "d", "e", "f", "g")).code == "unknown_route"
    with pytest.raises(HTTPClientError):
        name = add_kernelspec("bad", template="no-such-thing")
        await jp_fetch("api", "kernels", method="POST", body=json.dumps({"name": name}))
    await audit.one(events.RequestRefused, code="unknown_template", operation="start_kernel")


async def test_a_server_that_stops_tells_what_it_ends(rest, audit, jp_serverapp):
    context = await rest.context()
    await jp_serverapp._cleanup()
    ended = await audit.one(events.SandboxEnded)
    assert (ended["sandbox_id"], ended["reason"]) == (context.sandbox_id, "server_stopped")
    assert (await audit.one(events.ContextEnded))["context_id"] == context.id


async def test_the_pool_is_shown_as_the_broker_says(rest, jp_fetch, monkeypatch):
    monkeypatch.setattr("jupyter_sandbox.pool_metrics._FRESH_S", 0)
    await rest.claimed()
    found = {}
    async with asyncio.timeout(20):
        while found.get('workers{state="claimed",template="python"}') != 1:
            found = await scraped(jp_fetch)
    assert found["broker_up"] == 1
    assert found['workers_max{template="only-one"}'] == 1


async def test_a_server_is_ready_though_its_broker_was_stopped(rest, own_tree):
    async def becomes_ready():
        while True:  # the start of a broker may take longer than an answer may
            reply = await rest.get("readyz", headers={"Authorization": ""})
            if reply.status == 200:
                return
            assert (reply.status, reply.code) == (503, "broker_unavailable")

    async with asyncio.timeout(110):
        await becomes_ready()
        stop_broker()
        assert own_tree.pid() is None
        await becomes_ready()
    assert own_tree.pid() is not None
