"""What a client hears of executions that were under way when a server ended: each gap and each lost end once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jupyter_sandbox.aftermath import Aftermath

pytestmark = pytest.mark.unit

HEADERS = {name: {"msg_id": name, "msg_type": "execute_request"} for name in ("a", "b")}
QUESTIONS = [{"msg_id": "first question"}, {"msg_id": "question"}]


@pytest.fixture
def after():
    return Aftermath(HEADERS, QUESTIONS)


def said(msg_type: str, parent: str, state: str = "") -> SimpleNamespace:
    content = {"execution_state": state} if state else {}
    return SimpleNamespace(msg_type=msg_type, parent={"msg_id": parent}, content=content)


@pytest.mark.parametrize("message", [("stream", "a"), ("status", "a", "idle"), ("execute_result", "a")])
def test_a_gap_is_told_once_before_the_first_message(after, message):
    assert after.gap_before("iopub", said(*message)) == HEADERS["a"]
    assert after.gap_before("iopub", said(*message)) is None


def test_what_begins_now_has_no_gap(after):
    assert after.gap_before("iopub", said("status", "a", "busy")) is None
    assert after.gap_before("iopub", said("stream", "a")) is None


@pytest.mark.parametrize(
    ("channel", "parent"), [("shell", "a"), ("control", "a"), ("iopub", "c"), ("iopub", "question")]
)
def test_other_messages_tell_no_gap(after, channel, parent):
    assert after.gap_before(channel, said("stream", parent)) is None


def test_what_was_not_answered_when_the_question_is_is_unknown(after):
    assert not after.is_answer("shell", said("execute_reply", "a"))
    after.answered("a")
    assert after.is_answer("shell", said("kernel_info_reply", "question"))
    assert after.unanswered() == [HEADERS["b"]]
    assert after.unheard() == [HEADERS["a"]], "its reply came, and nothing of what it wrote"


def test_what_was_heard_and_answered_is_neither(after):
    after.gap_before("iopub", said("status", "a", "busy"))
    after.answered("a")
    after.answered("a")
    assert after.unheard() == []
    assert after.unanswered() == [HEADERS["b"]]


def test_what_answers_the_question_is_for_nobody_else(after):
    assert after.is_answer("iopub", said("status", "question", "busy"))
    assert not after.is_answer("stdin", said("input_request", "question"))
    assert not after.is_answer("iopub", said("status", "a", "busy"))


def test_only_the_last_question_is_behind_all_executions(after):
    for channel, message, is_last in (
        ("shell", ("kernel_info_reply", "first question"), False),
        ("iopub", ("status", "first question", "idle"), False),
        ("shell", ("kernel_info_reply", "question"), True),
        ("shell", ("kernel_info_reply", "question"), False),
    ):
        assert after.is_answer(channel, said(*message))
        assert after.is_last_reply(channel, said(*message)) == is_last
    after.answered("a")
    assert not after.is_over()
    assert not after.is_last_reply("iopub", said("status", "question", "idle"))
    assert after.is_over()
