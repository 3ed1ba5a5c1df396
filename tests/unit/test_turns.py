"""Sources of work share an event loop: each in its turn, and all together never for long."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from jupyter_sandbox import turns

pytestmark = pytest.mark.unit


async def test_work_that_is_short_is_done_at_once():
    done = []
    turns.of(asyncio.get_running_loop()).join(asyncio.get_running_loop(), lambda: done.append(1))
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
        turns.of(loop).join(loop, source(number))
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
        turns.of(loop).join(loop, lambda: order.append("second"))
        order.append("first")
        return False

    turns.of(loop).join(loop, first)
    await asyncio.sleep(0)
    assert order == ["first", "second"]


def test_a_loop_that_is_gone_is_forgotten():
    loop = asyncio.new_event_loop()
    turns.of(loop).join(loop, lambda: False)
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
