"""How slow a client may be, and how much waits for one owner's clients."""

from __future__ import annotations

import asyncio

import pytest

from jupyter_sandbox import pace, unsent
from jupyter_sandbox.errors import BusyError
from jupyter_sandbox.execution import Execution, NewExecution
from jupyter_sandbox.unsent import MAX_BYTES, MAX_WAITING_BYTES, Unsent

pytestmark = pytest.mark.unit


def test_who_sends_nothing_is_given_up_after_a_minute_whatever_came_before():
    assert pace.left_s(0, 0) == pace.SILENCE_S
    assert pace.left_s(1 << 30, 100) == pace.SILENCE_S


def test_a_byte_a_minute_is_as_good_as_none():
    """One byte each 59 s: the second one comes too late."""
    assert 0 < pace.left_s(1, 59) < 2
    assert pace.left_s(2, 118) == 0


def test_the_slowest_rate_that_is_waited_for_goes_on_for_ever():
    for seconds in (1, 100, 10_000):
        assert pace.left_s(pace.SLOWEST_BYTES_PER_S * seconds, seconds) == pace.SILENCE_S


def test_a_large_answer_has_longer():
    assert pace.allowed_s(0) == pace.SILENCE_S
    assert pace.allowed_s(8 << 20) == pace.SILENCE_S + 256


async def test_an_owner_with_much_unsent_waits_and_another_does_not():
    counts, sent = Unsent(), asyncio.Future()
    counts.hold(sent, lambda: None, size=MAX_BYTES, owner="alice")
    await counts.room("bob", 1)
    waiting = asyncio.create_task(counts.room("alice", 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    sent.set_result(None)
    await waiting
    assert not counts.is_full("alice")


async def test_answers_that_wait_are_bounded_and_those_of_another_owner_are_not_among_them():
    counts, sent, half = Unsent(), {each: asyncio.Future() for each in ("alice", "bob")}, MAX_WAITING_BYTES // 2
    for owner, future in sent.items():
        counts.hold(future, lambda: None, size=MAX_BYTES, owner=owner)
    waiting = [asyncio.create_task(counts.room(owner, half)) for owner in ("alice", "alice", "bob")]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await counts.room("alice", 1)
    waiting[0].cancel()  # its client has gone
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(counts.room("alice", half)))
    await asyncio.sleep(0)
    for future in sent.values():
        future.set_result(None)
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [
        asyncio.CancelledError,
        *[type(None)] * 3,
    ]


async def test_who_waits_for_nothing_is_told_in_the_end(monkeypatch):
    monkeypatch.setattr(pace, "SILENCE_S", 0.01)
    monkeypatch.setattr(unsent.pace, "SLOWEST_BYTES_PER_S", 1 << 40)
    counts, hung_up = Unsent(), asyncio.Event()
    counts.hold(asyncio.Future(), hung_up.set, size=MAX_BYTES, owner="alice")
    with pytest.raises(BusyError):
        await counts.room("alice", 1)
    await hung_up.wait()


async def test_who_stops_watching_an_execution_frees_its_kernel():
    execution, held = (
        Execution("alice", "sbx", "ctx", NewExecution(code="", timeout_s=9, max_output_bytes=1 << 30), 0),
        [],
    )
    execution.on_backlog = held.append
    events = execution.events()
    for _ in range(3):
        execution.take("iopub", "stream", {"name": "stdout", "text": "x" * (4 << 20)})
    await anext(events)
    for _ in range(3):
        execution.take("iopub", "stream", {"name": "stdout", "text": "x" * (4 << 20)})
    assert held[-1]
    await events.aclose()
    assert not held[-1]
