"""Sources of work share an event loop: each in its turn, and all together never for long."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from jupyter_sandbox import turns
from tests.conftest import eventually

pytestmark = pytest.mark.unit


async def test_work_that_is_short_is_done_at_once():
    done = []
    loop = asyncio.get_running_loop()
    turns.of(loop).join(loop, turns.Account(), lambda: done.append(1))
    assert done == [1]


async def test_sources_that_never_end_leave_the_loop_its_turns_and_are_asked_alike():
    loop, asked = asyncio.get_running_loop(), [0] * 20
    ends_at = loop.time() + 0.5

    def source(number):
        def step():
            asked[number] += 1
            time.sleep(0.0005)
            return loop.time() < ends_at

        return step

    for number in range(20):
        turns.of(loop).join(loop, turns.Account(), source(number))
    rounds = 0
    while loop.time() < ends_at:
        await asyncio.sleep(0)
        rounds += 1
    assert rounds >= 10
    alike = asked[1:]  # the first one was alone for a moment
    assert max(alike) - min(alike) <= 2


async def test_who_joins_from_within_a_step_is_asked_later():
    loop, order = asyncio.get_running_loop(), []

    def first():
        turns.of(loop).join(loop, turns.Account(), lambda: order.append("second"))
        order.append("first")
        return False

    turns.of(loop).join(loop, turns.Account(), first)
    await asyncio.sleep(0)
    assert order == ["first", "second"]


async def test_a_step_that_raises_after_all_stops_nobody_else():
    loop, done = asyncio.get_running_loop(), []
    with pytest.raises(ZeroDivisionError):
        turns.of(loop).join(loop, turns.Account(), lambda: 1 / 0)
    turns.of(loop).join(loop, turns.Account(), lambda: done.append(1))
    assert done == [1]


class Flood:
    """A source that has more to do, in steps of 1 ms, until it is told that it is over."""

    def __init__(self) -> None:
        self.steps, self.is_over = 0, False

    def step(self) -> bool:
        time.sleep(0.001)
        self.steps += 1
        return not self.is_over


async def test_a_flood_rests_while_somebody_else_is_there_and_else_does_not():
    loop, flood = asyncio.get_running_loop(), Flood()
    turns.of(loop).join(loop, turns.Account(), flood.step)
    await eventually(lambda: flood.steps > 1500, timeout_s=20)  # its credit is 250, and then with rests 20 a second
    alone, quiet, served = flood.steps, turns.Account(), []
    while len(served) < 100:
        turns.of(loop).join(loop, quiet, lambda: served.append(1))
        await asyncio.sleep(0.01)
    assert flood.steps - alone < 2 * len(served)  # without rests it would have had time for eight each
    last = flood.steps
    await eventually(lambda: flood.steps > last + 500, timeout_s=10)  # nobody else is there any more
    flood.is_over = True


async def test_floods_among_themselves_do_not_rest():
    loop, floods = asyncio.get_running_loop(), [Flood(), Flood()]
    for flood in floods:
        turns.of(loop).join(loop, turns.Account(), flood.step)
    await eventually(lambda: sum(flood.steps for flood in floods) > 600)  # the credit of both is used up
    before = [flood.steps for flood in floods]
    await eventually(lambda: sum(flood.steps for flood in floods) > 2000, timeout_s=15)  # with rests: 600
    steps = [flood.steps - first for flood, first in zip(floods, before, strict=True)]
    assert max(steps) < 2 * min(steps)
    for flood in floods:
        flood.is_over = True


def test_a_flood_that_ended_is_forgiven():
    account = turns.Account()
    account.enter(0)
    account.take(0, 100)
    assert account.is_flood()
    account.leave(100)
    account.enter(100.3)
    assert account.is_flood()  # it had a debt
    account.leave(100.3)
    account.enter(101)
    assert not account.is_flood()


def test_many_short_steps_with_quiet_between_are_no_flood():
    account, now = turns.Account(), 0.0
    for _ in range(10_000):
        account.enter(now)
        account.take(now, now + 0.001)
        account.leave(now + 0.001)
        now += 0.01
    assert not account.is_flood()


def test_a_flood_rests_longer_after_a_long_step():
    rests = []
    for took_s in (0.0001, 0.001, 0.01):
        account = turns.Account()
        account.take(0, took_s)
        rests.append(account.rests_until - took_s)
    assert rests == pytest.approx([0.0023, 0.05, 3.2])


def test_a_loop_that_is_gone_is_forgotten():
    loop = asyncio.new_event_loop()
    turns.of(loop).join(loop, turns.Account(), lambda: False)
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
