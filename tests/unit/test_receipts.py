"""What a websocket may not have got when it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox.receipts import Mark, Receipts

pytestmark = pytest.mark.unit

ONE, TWO = {"msg_id": "1"}, {"msg_id": "2"}


def passed(receipts, msg_type, parent=ONE, channel="iopub", size=10):
    return receipts.passed_on(channel, msg_type, parent, [b"x" * size])


def missing(receipts):
    found, ends = receipts.take()
    return {each.parent["msg_id"]: (each.messages, each.size_bytes) for each in found}, len(ends)


def test_what_comes_before_a_ping_is_there_when_its_pong_is():
    receipts = Receipts()
    assert [passed(receipts, "stream"), passed(receipts, "stream")] == [True, False], "one ping for both"
    first = receipts.ping()
    assert passed(receipts, "stream", TWO), "a ping that is under way says nothing of what comes after it"
    receipts.pong(first)
    assert missing(receipts) == ({"2": (1, 10)}, 0)
    assert missing(receipts) == ({}, 0)


def test_of_a_request_only_its_header_is_kept():
    """Whoever runs in the kernel says what the request was."""
    receipts = Receipts()
    passed(receipts, "stream", ONE | {"session": "s", "username": [[]] * 1000, "more": [[]] * 1000})
    ((found,), _) = receipts.take()
    assert found.parent == ONE | {"session": "s"}


def test_a_pong_stands_for_all_before_it():
    receipts = Receipts()
    passed(receipts, "stream")
    receipts.ping()
    passed(receipts, "execute_reply", channel="shell")
    receipts.pong(receipts.ping())
    assert missing(receipts) == ({}, 0)


def test_what_is_missing_is_counted_by_request_and_ends_come_again():
    receipts = Receipts()
    for msg_type, parent, channel in (
        ("status", ONE, "iopub"),
        ("stream", ONE, "iopub"),
        ("execute_input", ONE, "iopub"),
        ("comm_msg", TWO, "iopub"),
        ("display_data", ONE, "iopub"),
        ("execute_reply", ONE, "shell"),
    ):
        passed(receipts, msg_type, parent, channel)
    receipts.ping()
    passed(receipts, "error", ONE)
    assert missing(receipts) == ({"1": (3, 30), "2": (1, 10)}, 2)


def test_a_mark_that_is_lost_counts_for_what_it_tells():
    receipts = Receipts()
    receipts.passed_on("iopub", "stream", ONE, Mark([b"x" * 500], 7, 1000))
    passed(receipts, "stream", ONE)
    assert missing(receipts) == ({"1": (8, 1010)}, 0)


@pytest.mark.parametrize("data", [b"", b"-1", b"2", b"x", b"9" * 200])
def test_a_pong_that_answers_no_ping_says_nothing(data):
    receipts = Receipts()
    passed(receipts, "stream")
    receipts.ping()
    receipts.pong(data)
    assert missing(receipts) == ({"1": (1, 10)}, 0)


def test_a_client_that_answers_no_ping_costs_so_much_and_no_more():
    receipts = Receipts()
    for number in range(5000):
        passed(receipts, "execute_reply", {"msg_id": str(number)}, "shell", 2000)
        receipts.ping()
    found, ends = receipts.take()
    assert found == []
    assert 500 <= len(ends) <= 1024
    assert sum(len(part) for _, parts in ends for part in parts) <= 1 << 20


@given(st.lists(st.sampled_from(["stream", "ping", "pong"]), max_size=60))
def test_everything_is_either_confirmed_or_missing(steps):
    receipts, sent, pings, confirmed = Receipts(), 0, [], 0
    for step in steps:
        if step == "stream":
            passed(receipts, "stream")
            sent += 1
        elif step == "ping":
            pings.append((receipts.ping(), sent))
        elif pings:
            data, confirmed = pings.pop(0)
            receipts.pong(data)
    found, _ = missing(receipts)
    assert found.get("1", (0, 0))[0] == sent - confirmed
