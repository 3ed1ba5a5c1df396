"""Which request was running when a kernel died, read from either wire format, whatever else is on the wire."""

from __future__ import annotations

import json
import signal
import struct

import pytest
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import serialize_binary_message, serialize_msg_to_ws_v1

from jupyter_sandbox.kernel_websocket import Executions

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


def _reply(request: dict, kind: str = "execute_reply") -> dict:
    return SESSION.msg(kind, {"status": "ok"}, parent=request)


def test_without_requests_nothing_was_running(wire):
    executions = Executions()
    executions.received(wire(_reply(_request()), "shell"))
    assert executions.take_oldest() == {}


def test_a_request_runs_until_its_reply(wire):
    executions, request = Executions(), _request()
    executions.sent(wire(request, "shell"))
    executions.received(wire(_reply(request), "shell"))
    assert executions.take_oldest() == {}


def test_the_oldest_request_without_a_reply_was_running(wire):
    executions = Executions()
    first, second, third = (_request() for _ in range(3))
    for request in (first, second, third):
        executions.sent(wire(request, "shell"))
    executions.received(wire(_reply(first), "shell"))
    assert executions.take_oldest()["msg_id"] == second["header"]["msg_id"]
    assert executions.take_oldest() == {}


def test_the_header_is_whole_so_that_an_epitaph_finds_its_cell(wire):
    executions, request = Executions(), _request()
    executions.sent(wire(request, "shell"))
    header = executions.take_oldest()
    assert header["msg_type"] == "execute_request"
    assert header["session"] == request["header"]["session"]


def test_a_reply_to_another_client_ends_nothing(wire):
    executions, request = Executions(), _request()
    executions.sent(wire(request, "shell"))
    executions.received(wire(_reply(_request()), "shell"))
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


def test_other_messages_start_and_end_nothing(wire):
    executions, request = Executions(), _request()
    executions.sent(wire(_request("complete_request", "execute_request"), "shell"))
    executions.sent(wire(_request("comm_msg", "execute_request"), "shell"))
    assert executions.take_oldest() == {}
    executions.sent(wire(request, "shell"))
    executions.received(wire(_reply(request, "status"), "iopub"))
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


def test_output_that_mentions_a_reply_ends_nothing(wire):
    executions, request = Executions(), _request()
    executions.sent(wire(request, "shell"))
    executions.received(wire(SESSION.msg("stream", {"text": "execute_reply"}, parent=request), "iopub"))
    # once: received() looks for the word anywhere in the message and never asks for the message's type
    assert executions.take_oldest().get("msg_id") == request["header"]["msg_id"]


def test_the_number_of_requests_is_bounded(wire):
    executions = Executions()
    requests = [_request() for _ in range(200)]
    for request in requests:
        executions.sent(wire(request, "shell"))
    assert len(executions._pending) == 128
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
    executions, request = Executions(), _request()
    executions.sent(message)
    assert executions.take_oldest() == {}
    executions.sent(_v1(request, "shell"))
    executions.received(message)
    assert executions.take_oldest()["msg_id"] == request["header"]["msg_id"]


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


@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("data", [_with_buffers(), b"execute_request execute_reply"], ids=["with buffers", "text"])
def test_bytes_of_another_format_do_not_stop_the_server(half_a_second_of_work, direction, data):
    # once: the first 8 bytes are read as a number of offsets, and a list of 10**17 numbers is begun. A kernel can
    # send such a message (comm_msg or display_data with buffers) to every client that did not choose the v1 protocol.
    executions = Executions()
    executions.sent(_v1(_request(), "shell"))
    getattr(executions, direction)(data)
    assert len(executions._pending) == 1
