"""Which request was running when a kernel died, read from either wire format, whatever else is on the wire."""

from __future__ import annotations

import json
import signal
import struct

import pytest
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import serialize_binary_message, serialize_msg_to_ws_v1

from jupyter_sandbox.guards.kernel_messages import Judged
from jupyter_sandbox.open_requests import OpenRequests, asked, text_of

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key", username="u" * 60)


def _legacy(message: dict, channel: str) -> str:
    return json.dumps(message | {"channel": channel, "buffers": []}, default=str)


def _v1(message: dict, channel: str) -> bytes:
    parts = [SESSION.pack(message[name]) for name in ("header", "parent_header", "metadata", "content")]
    return serialize_msg_to_ws_v1(parts, channel)


@pytest.fixture(params=[_legacy, _v1], ids=["legacy", "v1"])
def wire(request):
    return request.param


def _request(kind: str = "execute_request", code: str = "1") -> dict:
    return SESSION.msg(kind, {"code": code})


def _judged(request: dict, kind: str, **content) -> Judged:
    return Judged(msg_type=kind, parent=request["header"], content=content, parts=[], header={}, body=[], signature=b"")


def _reply(executions: OpenRequests, request: dict, kind: str = "execute_reply") -> None:
    executions.received("shell", _judged(request, kind, status="ok"))


def _idle(executions: OpenRequests, request: dict, state: str = "idle") -> None:
    executions.received("iopub", _judged(request, "status", execution_state=state))


def test_without_requests_nothing_was_running():
    executions = OpenRequests()
    _reply(executions, _request())
    _idle(executions, _request())
    assert executions.take_oldest() == {}


def test_a_request_runs_until_its_reply(wire):
    executions, request = OpenRequests(), _request()
    executions.sent(wire(request, "shell"))
    _reply(executions, request)
    assert executions.take_oldest() == {}


def test_the_oldest_request_without_a_reply_was_running(wire):
    executions = OpenRequests()
    first, second, third = (_request() for _ in range(3))
    for request in (first, second, third):
        executions.sent(wire(request, "shell"))
    _reply(executions, first)
    assert executions.take_oldest()["msg_id"] == second["header"]["msg_id"]
    assert executions.take_oldest() == {}


def test_the_header_is_whole_so_that_an_epitaph_finds_its_cell(wire):
    executions, request = OpenRequests(), _request()
    executions.sent(wire(request, "shell"))
    header = executions.take_oldest()
    assert header["msg_type"] == "execute_request"
    assert header["session"] == request["header"]["session"]


def test_a_reply_to_another_client_ends_nothing(wire):
    executions, request = OpenRequests(), _request()
    executions.sent(wire(request, "shell"))
    _reply(executions, _request())
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


def test_other_messages_start_and_end_nothing(wire):
    executions, request = OpenRequests(), _request()
    executions.sent(wire(_request("complete_request", "execute_request"), "shell"))
    executions.sent(wire(_request("comm_msg", "execute_request"), "shell"))
    assert executions.take_oldest() == {}
    executions.sent(wire(request, "shell"))
    _idle(executions, request, "busy")
    executions.received("iopub", _judged(request, "stream", text="execute_reply"))
    executions.received("iopub", _judged(request, "execute_reply", status="ok"))
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


@pytest.mark.parametrize("order", [(_reply, _idle), (_idle, _reply)], ids=["reply first", "idle first"])
def test_an_execution_is_over_when_it_is_answered_and_idle(order):
    executions, request = OpenRequests(), _request()
    executions.sent(_v1(request, "shell"))
    msg_id = request["header"]["msg_id"]
    order[0](executions, request)
    assert executions.header(msg_id)
    order[1](executions, request)
    assert executions.header(msg_id) is None


@pytest.mark.parametrize(("first", "second", "lacks"), [(_reply, _idle, "iopub"), (_idle, _reply, "shell")])
def test_after_one_half_of_its_end_an_execution_lacks_the_other(first, second, lacks):
    executions, request = OpenRequests(), _request()
    executions.sent(_v1(request, "shell"))
    msg_id = request["header"]["msg_id"]
    assert executions.lacks(msg_id) is None
    first(executions, request)
    assert executions.lacks(msg_id) == lacks
    second(executions, request)
    assert executions.lacks(msg_id) is None


def test_that_one_half_of_an_end_came_is_told_once():
    """However often a kernel says that it is busy: each time something is waited for."""
    executions, request = OpenRequests(), _request()
    executions.sent(_v1(request, "shell"))
    msg_id = request["header"]["msg_id"]
    assert not executions.is_half_over(msg_id)
    _reply(executions, request)
    assert [executions.is_half_over(msg_id) for _ in range(3)] == [True, False, False]
    _idle(executions, request)
    assert not executions.is_half_over(msg_id)


def test_of_a_header_only_what_the_protocol_knows_is_kept_and_no_long_text():
    executions, header = OpenRequests(), _request()["header"]
    more = {"date": "now", "username": [[]] * 1000, "session": "x" * 1025, "version": "x" * 1024, "more": "x"}
    executions.sent_header(header | more)
    kept = executions.header(header["msg_id"])
    assert set(kept) == {"msg_id", "msg_type", "date", "version"}
    assert executions.last == kept
    for msg_id in ("x" * 1025, 1, None):
        executions.sent_header(header | {"msg_id": msg_id})
    assert executions.last == kept
    assert len(executions._open) == 1


def test_what_was_refused_belongs_to_the_execution_it_names():
    executions, first, second = OpenRequests(), _request(), _request()
    for request in (first, second):
        executions.sent(_v1(request, "shell"))
    assert executions.refused("iopub", second["header"], 10) == (executions.header(second["header"]["msg_id"]), True)
    assert executions.refused("iopub", second["header"], 5)[1] is False
    assert executions.refused_in_all(second["header"]["msg_id"]) == (2, 15)
    assert executions.refused_in_all(first["header"]["msg_id"]) == (0, 0)


@pytest.mark.parametrize("parent", [None, {}, {"msg_id": "foreign"}, {"msg_id": ["no", "text"]}])
def test_what_was_refused_and_names_nothing_belongs_to_what_runs(parent):
    executions, answered, running = OpenRequests(), _request(), _request()
    assert executions.refused("iopub", parent, 10) == ({}, True)
    for request in (answered, running):
        executions.sent(_v1(request, "shell"))
    _reply(executions, answered)
    assert executions.refused("shell", parent, 10)[0]["msg_id"] == running["header"]["msg_id"]
    assert executions.refused("iopub", parent, 10)[0]["msg_id"] == answered["header"]["msg_id"], "it is not idle yet"


def test_the_number_of_requests_is_bounded(wire):
    executions = OpenRequests()
    requests = [_request() for _ in range(200)]
    for request in requests:
        executions.sent(wire(request, "shell"))
    assert len(executions._open) == 128
    assert executions.take_oldest()["msg_id"] == requests[72]["header"]["msg_id"]


GARBAGE = [
    "",
    "execute_request execute_reply",
    '"execute_request execute_reply"',
    '["execute_request", "execute_reply"]',
    '{"header": "execute_request", "parent_header": "execute_reply"}',
    '{"header": null, "parent_header": null, "x": "execute_request execute_reply"}',
    '{"header": {"msg_type": "execute_request execute_reply"}}',
    "[" * 50_000 + '"execute_request execute_reply"',  # once: RecursionError ends the websocket
    b"",
    struct.pack("<4Q", 3, 32, 40, 400) + b"execute_request execute_reply",
    struct.pack("<4Q", 3, 400, 40, 32) + b"execute_request execute_reply",
    struct.pack("<1Q", 0) + b"execute_request execute_reply",
    struct.pack("<2Q", 1, 0) + b"execute_request execute_reply",
    struct.pack("<4Q", 3, 32, 34, 400) + b"\xff\xfeexecute_request execute_reply",
    struct.pack("<4Q", 3, 32, 33, 50_033) + b"s" + b"[" * 50_000 + b"execute_request execute_reply",
]


@pytest.mark.parametrize("message", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_ignored(message):
    executions, request = OpenRequests(), _request()
    executions.sent(message)
    assert executions.take_oldest() == {}
    executions.sent(_v1(request, "shell"))
    executions.sent(message)
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


def _forms_of(request: dict) -> dict[str, str | bytes]:
    """Ways to write a request that the server or the kernel reads as well as the usual one."""
    escaped = json.dumps(request["header"], default=str).replace("execute_request", "execute\\u005frequest").encode()
    unclean = json.dumps(request["header"] | {"username": "X"}, default=str).encode().replace(b'"X"', b'"\xff"')
    rest = [SESSION.pack(request[name]) for name in ("parent_header", "metadata", "content")]
    message = json.loads(_legacy(request, "shell")) | {"buffers": [b"x"]}
    return {
        "escapes": serialize_msg_to_ws_v1([escaped, *rest], "shell"),
        "escapes, as text": _legacy(request, "shell").replace("execute_request", "execute\\u005frequest"),
        "bytes that are no UTF-8": serialize_msg_to_ws_v1([unclean, *rest], "shell"),
        "many frames": serialize_msg_to_ws_v1([SESSION.pack(request["header"]), *rest, *[b""] * 5000], "shell"),
        "a long channel": serialize_msg_to_ws_v1([SESSION.pack(request["header"]), *rest], "shell" + " " * 5000),
        "buffers": text_of(serialize_binary_message(message)),
    }


@pytest.mark.parametrize("form", list(_forms_of(_request())))
def test_a_request_is_known_however_it_is_written(form):
    request = _request(code="1 + 1")
    message = _forms_of(request)[form]
    assert asked(message) == (request["header"]["msg_id"], "1 + 1")
    executions = OpenRequests()
    executions.sent(message)
    assert executions.header(request["header"]["msg_id"])


def _with_buffers() -> bytes:
    """A message in the old binary format, as a kernel's widget or picture makes it."""
    message = {"header": {"msg_type": "comm_msg", "session": "execute_request execute_reply"}, "parent_header": {}}
    data = serialize_binary_message(message | {"metadata": {}, "content": {}, "channel": "iopub", "buffers": [b"x"]})
    assert b"execute_reply" in data[:512]
    return data


@pytest.fixture
def half_a_second_of_work():
    """Interrupt what takes longer; the alarm of pytest-timeout is another one."""

    def give_up(_number, _frame):
        raise AssertionError("the event loop is blocked")

    previous = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, previous)


@pytest.mark.parametrize("data", [_with_buffers(), b"execute_request execute_reply"], ids=["with buffers", "text"])
def test_bytes_of_another_format_do_not_stop_the_server(half_a_second_of_work, data):
    # once: the first 8 bytes are read as a number of offsets, and a list of 10**17 numbers is begun
    executions = OpenRequests()
    executions.sent(_v1(_request(), "shell"))
    executions.sent(data)
    assert len(executions._open) == 1
