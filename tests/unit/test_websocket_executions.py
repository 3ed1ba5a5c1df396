"""Executions of a websocket: each that was sent has one end, whatever its kernel and its client do."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox.events import ExecutionEnd, ExecutionEnded, ExecutionStarted
from jupyter_sandbox.guards.kernel_messages import Judged
from jupyter_sandbox.open_requests import asked
from jupyter_sandbox.owners import EVERYBODY
from jupyter_sandbox.websocket_executions import WebsocketExecutions

pytestmark = pytest.mark.unit

SANDBOX = f"sbx_{'0' * 20}"


class Kernel:
    """What a websocket's executions tell of a kernel that says what a test lets it say."""

    def __init__(self, sandbox_id: str | None = SANDBOX) -> None:
        self.told = []
        self.executions = WebsocketExecutions(
            emit=self.told.append, owner=EVERYBODY, request_id="r", sandbox_id=lambda: sandbox_id, context_id="k"
        )

    def says(self, msg_id, msg_type, channel="iopub", **content):
        body = [b"{}", b"{}", b"{}", json.dumps(content).encode(), b"buffer"]
        judged = Judged(
            msg_type=msg_type,
            header={},
            parent={"msg_id": msg_id},
            content=content,
            parts=[],
            body=body,
            signature=b"",
        )
        self.executions.received(channel, judged)

    @property
    def ends(self):
        return [event for event in self.told if isinstance(event, ExecutionEnded)]


@pytest.mark.parametrize(("status", "end"), [("ok", "ok"), ("error", "error"), ("aborted", "aborted"), ("?", "error")])
@pytest.mark.parametrize("is_reply_first", [True, False])
def test_reply_and_idle_are_the_end_in_any_order(status, end, is_reply_first):
    kernel = Kernel()
    kernel.executions.sent("m", "1 + 1")
    kernel.says("m", "status", execution_state="busy")
    kernel.says("m", "stream", name="stdout", text="2")
    kernel.executions.refused("m")
    halves = [
        lambda: kernel.says("m", "execute_reply", "shell", status=status),
        lambda: kernel.says("m", "status", execution_state="idle"),
    ]
    for half in halves if is_reply_first else reversed(halves):
        assert kernel.ends == []
        half()
    started, ended = kernel.told
    assert isinstance(started, ExecutionStarted)
    assert (started.code_characters, started.execution_id) == (5, ended.execution_id)
    assert (ended.outcome, ended.refused_messages, ended.sandbox_id) == (end, 1, SANDBOX)
    assert ended.output_bytes == len(json.dumps({"name": "stdout", "text": "2"})) + len(b"buffer")
    assert ended.duration_s >= 0


def test_what_never_had_its_turn_has_no_duration():
    kernel = Kernel()
    kernel.executions.sent("m", "1")
    kernel.executions.all_ended(ExecutionEnd.DIED)
    assert (kernel.ends[0].outcome, kernel.ends[0].duration_s) == (ExecutionEnd.DIED, None)


def test_a_kernel_whose_sandbox_is_gone_runs_nothing():
    kernel = Kernel(sandbox_id=None)
    kernel.executions.sent("m", "1")
    assert kernel.told == []


@pytest.mark.parametrize("code", [None, 1, [], {"code": "1"}])
def test_code_that_is_none_has_no_length(code):
    kernel = Kernel()
    kernel.executions.sent("m", code)
    assert kernel.told[0].code_characters == 0


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["sent", "reply", "idle", "refused", "died"]), st.integers(0, 200)), max_size=400
)


@given(ACTIONS)
def test_each_has_one_end_and_few_are_open(actions):
    kernel = Kernel()
    for action, number in actions:
        msg_id = f"m{number}"
        match action:
            case "sent":
                kernel.executions.sent(msg_id, "1")
            case "reply":
                kernel.says(msg_id, "execute_reply", "shell", status="ok")
            case "idle":
                kernel.says(msg_id, "status", execution_state="idle")
            case "refused":
                kernel.executions.refused(msg_id)
            case "died":
                kernel.executions.all_ended(ExecutionEnd.DIED)
        assert len(kernel.executions._open) <= 128
    kernel.executions.all_ended(ExecutionEnd.UNWATCHED)
    started = [event.execution_id for event in kernel.told if isinstance(event, ExecutionStarted)]
    assert Counter(event.execution_id for event in kernel.ends) == Counter(started)


def test_what_a_client_asks_is_read_from_text():
    message = {"header": {"msg_id": "m", "msg_type": "execute_request"}, "content": {"code": "1"}}
    assert asked(json.dumps(message)) == ("m", "1")
    assert asked(json.dumps(message | {"content": []})) == ("m", None)
    assert asked(json.dumps(message | {"header": {"msg_type": "kernel_info_request"}})) is None
    for nonsense in ("execute_request", "[]", b"execute_request", b"\xff" * 8 + b"execute_request"):
        assert asked(nonsense) is None
