"""What goes to a client that comes back to a server that was started anew, message by message, without any server."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from jupyter_client.session import Session

from jupyter_sandbox import aftermath, events
from jupyter_sandbox.kernel_websocket import SandboxKernelWebsocketHandler
from jupyter_sandbox.open_requests import OpenRequests
from jupyter_sandbox.receipts import Receipts
from jupyter_sandbox.slate import Slate
from jupyter_sandbox.websocket_executions import WebsocketExecutions
from jupyter_sandbox.websocket_slate import WebsocketSlate

pytestmark = pytest.mark.unit

KEY = b"key"
KERNEL = Session(key=KEY)
CLIENT = Session(key=KEY, session="s")
REQUEST = json.loads(CLIENT.pack(CLIENT.msg("execute_request", {"code": "1"})["header"]))


class Handler(SandboxKernelWebsocketHandler):
    """The handler of a websocket whose client is a list."""

    def __init__(self, slate) -> None:
        self.sent = []
        self._is_stock = True
        self._executions, self._heard_at = OpenRequests(), {}
        self._receipts = Receipts()
        self._told = WebsocketExecutions(
            emit=events.ignore, owner="*", request_id="r", sandbox_id=lambda: "sbx", context_id="k"
        )
        self._slate = WebsocketSlate(slate, "k", "s")
        self.connection = SimpleNamespace(
            session=Session(key=KEY, session="s"),
            subprotocol=None,
            multi_kernel_manager=SimpleNamespace(allow_tracebacks=True),
            _limit_rate=lambda *_: False,
        )
        self._aftermath = self._slate.aftermath(self.connection.session, self._executions)

    def write_message(self, message, binary=False):
        self.sent.append(json.loads(message))
        self._slate.passed_on(self._slate.take_ended())

    def hear(self, channel, msg_type, content, parent=REQUEST) -> None:
        """A message that was kept."""
        message = KERNEL.msg(msg_type, content, parent=parent)
        stream = SimpleNamespace(channel=channel, judged=None, closed=lambda: False)
        self._outgoing(stream, KERNEL.serialize(message, ident=b"topic"))

    def told(self) -> list[tuple[str, str]]:
        """Type and gist of what the client got."""
        gist = ("text", "status", "execution_state", "code")
        return [
            (each["header"]["msg_type"], next(str(each["content"][name]) for name in gist if name in each["content"]))
            for each in self.sent
        ]


@pytest.fixture
def slate(tmp_path):
    """The slate of a server whose predecessor had one execution under way."""
    before = Slate(tmp_path / "x.slate")
    WebsocketSlate(before, "k", "s").sent(REQUEST)
    before.close()
    slate = Slate(tmp_path / "x.slate")
    yield slate
    slate.close()


@pytest.fixture
def handler(jp_asyncio_loop, slate):
    return Handler(slate)


OK = {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
INFO = {"status": "ok", "protocol_version": "5.4"}
GAP = ("stream", aftermath.GAP + "\n")


async def test_what_was_kept_is_passed_on_behind_a_gap_and_once(handler, slate):
    handler.hear("iopub", "stream", {"name": "stdout", "text": "late"})
    handler.hear("iopub", "status", {"execution_state": "idle"})
    handler.hear("shell", "execute_reply", OK)
    assert handler.told() == [GAP, ("stream", "late"), ("status", "idle"), ("execute_reply", "ok")]
    assert slate.under_way() == []
    handler.hear("shell", "kernel_info_reply", INFO, parent=handler._aftermath.questions[-1]["header"])
    assert len(handler.sent) == 4
    assert handler._aftermath is None


async def test_what_begins_after_the_adoption_has_no_gap(handler, slate):
    for state in ("busy", "idle"):
        handler.hear("iopub", "status", {"execution_state": state})
    handler.hear("shell", "execute_reply", OK)
    assert handler.told() == [("status", "busy"), ("status", "idle"), ("execute_reply", "ok")]
    assert slate.under_way() == []


async def test_what_ended_meanwhile_is_unknown_once(handler, slate):
    question = handler._aftermath.questions[-1]["header"]
    for state in ("busy", "idle"):
        handler.hear("iopub", "status", {"execution_state": state}, parent=question)
    handler.hear("shell", "kernel_info_reply", INFO, parent=question)
    told = handler.told()
    assert told == [("stream", aftermath.UNKNOWN + "\n"), ("execute_reply", "error"), ("status", "idle")]
    assert {each["parent_header"]["msg_id"] for each in handler.sent} == {REQUEST["msg_id"]}
    assert handler.sent[1]["content"]["ename"] == "UnknownOutcome"
    assert slate.under_way() == []
    assert Handler(slate)._aftermath is None, "nothing is told a second time"


async def test_a_reply_without_what_was_written_has_a_gap(handler):
    question = handler._aftermath.questions[-1]["header"]
    handler.hear("shell", "execute_reply", OK)
    handler.hear("shell", "kernel_info_reply", INFO, parent=question)
    handler.hear("iopub", "status", {"execution_state": "idle"}, parent=question)
    assert handler.told() == [("execute_reply", "ok"), GAP]
    assert handler._aftermath is None


async def test_replies_that_overtake_what_was_written_make_no_gap(handler):
    """Once: on a busy machine a cell that began after the adoption was told to have one."""
    question = handler._aftermath.questions[-1]["header"]
    handler.hear("shell", "execute_reply", OK)
    handler.hear("shell", "kernel_info_reply", INFO, parent=question)
    for state in ("busy", "idle"):
        handler.hear("iopub", "status", {"execution_state": state})
    handler.hear("iopub", "status", {"execution_state": "idle"}, parent=question)
    assert handler.told() == [("execute_reply", "ok"), ("status", "busy"), ("status", "idle")]
    assert handler._aftermath is None


async def test_what_was_kept_of_an_execution_that_this_server_let_begin_is_wiped_off(slate):
    first = Handler(slate)
    another = REQUEST | {"msg_id": "another"}
    first._slate.sent(another)
    again = Handler(slate)
    again.hear("shell", "execute_reply", OK, parent=another)
    assert [each.header["msg_id"] for each in slate.under_way()] == [REQUEST["msg_id"]]
    assert again.told() == [("execute_reply", "ok")]
