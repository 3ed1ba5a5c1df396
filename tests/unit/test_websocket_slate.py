"""What a websocket's client asked for is on the slate until its end has left the process, whatever it calls it."""

from __future__ import annotations

import pytest
from jupyter_client.session import Session

from jupyter_sandbox.open_requests import OpenRequests
from jupyter_sandbox.slate import Slate
from jupyter_sandbox.websocket_slate import WebsocketSlate

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key", session="s")
REQUEST = SESSION.msg("execute_request", {"code": "1"})["header"] | {"date": "2026-01-01T00:00:00Z"}
MSG_ID = REQUEST["msg_id"]


@pytest.fixture
def slate(tmp_path):
    slate = Slate(tmp_path / "x.slate")
    yield slate
    slate.close()


def next_start(slate) -> Slate:
    """The slate as the next server finds it."""
    slate.close()
    return Slate(slate._path)


def on(slate, context="k", session="s") -> WebsocketSlate:
    return WebsocketSlate(slate, context, session)


def test_an_execution_is_there_until_its_end_was_passed_on(slate):
    ours = on(slate)
    ours.sent(REQUEST)
    ours.ended(MSG_ID)
    assert len(slate.under_way()) == 1
    ended = ours.take_ended()
    assert ours.take_ended() == [], "each end goes with one message"
    assert len(slate.under_way()) == 1
    ours.passed_on(ended)
    assert slate.under_way() == []


def test_the_same_id_of_two_clients_is_two_executions(slate):
    first, second = on(slate, "k1"), on(slate, "k2")
    first.sent(REQUEST)
    second.sent(REQUEST)
    first.ended(MSG_ID)
    first.passed_on(first.take_ended())
    assert [each.context_id for each in slate.under_way()] == ["k2"]


@pytest.mark.parametrize(
    "header",
    [None, [], {}, {"msg_type": "execute_request"}, {"msg_type": "execute_request", "msg_id": 1}, {"msg_type": "x"}],
)
def test_what_is_no_execute_request_is_not_written_down(slate, header):
    on(slate).sent(header)
    assert slate.under_way() == []


def test_a_dead_kernels_executions_are_over_for_this_client(slate):
    ours, other = on(slate), on(slate, session="t")
    ours.sent(REQUEST)
    other.sent(REQUEST | {"msg_id": "other"})
    ours.all_ended()
    ours.passed_on(ours.take_ended())
    assert [each.session for each in slate.under_way()] == ["t"]


def test_the_next_start_tells_the_client_that_comes_back_and_no_other(slate):
    on(slate).sent(REQUEST)
    after = next_start(slate)
    for context, session in (("k", "t"), ("j", "s"), ("k", "")):
        assert on(after, context, session).aftermath(SESSION, OpenRequests()) is None
    executions = OpenRequests()
    aftermath = on(after).aftermath(SESSION, executions)
    assert [header["msg_id"] for header in aftermath.unanswered()] == [MSG_ID]
    assert executions.header(MSG_ID)["msg_id"] == MSG_ID
    assert [each["msg_type"] for each in aftermath.questions] == ["kernel_info_request"] * 2
    again = on(after)
    again.ended(MSG_ID)
    again.passed_on(again.take_ended())
    assert on(after).aftermath(SESSION, OpenRequests()) is None
    after.close()


def test_without_a_slate_nothing_is_written_down():
    none = on(None)
    none.sent(REQUEST)
    none.ended(MSG_ID)
    none.all_ended()
    none.passed_on(none.take_ended())
    assert none.aftermath(SESSION, OpenRequests()) is None
