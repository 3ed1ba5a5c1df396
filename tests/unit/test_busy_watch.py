"""What comes for a loop is another thread's only while the loop is at work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from types import SimpleNamespace

import pytest
from tornado.ioloop import IOLoop

from sandbox_worker.busy_watch import BusyWatch


class Watched:
    """What this loop waits for, and its watch."""

    def __init__(self) -> None:
        self.descriptor, self.loop = os.eventfd(0, os.EFD_NONBLOCK), IOLoop.current()
        self.watch = BusyWatch(self.descriptor, self.loop)
        self.was_told: list[bool] = []
        self.loop.add_handler(self.descriptor, self._read, self.loop.READ)

    def come(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def is_told(self) -> bool:
        """Whether a thread that waits for the watch would be woken."""
        return bool(select.select([self.watch], [], [], 0)[0])

    def _read(self, *_: object) -> None:
        self.was_told.append(self.is_told())
        os.eventfd_read(self.descriptor)
        self.watch.begin()


@contextlib.contextmanager
def watching():
    made = Watched()
    yield made
    made.loop.remove_handler(made.descriptor)
    os.close(made.descriptor)


async def test_what_comes_while_the_loop_waits_is_its_own():
    with watching() as watched:
        for _ in range(3):
            await asyncio.to_thread(watched.come)
            await asyncio.sleep(0.05)
        assert watched.was_told == [False] * 3


async def test_what_comes_while_it_is_at_work_is_told():
    with watching() as watched:
        watched.come()
        await asyncio.sleep(0.05)
        assert not watched.is_told()
        watched.come()
        assert watched.is_told()
        await asyncio.sleep(0.05)
        assert not watched.is_told()


async def test_other_things_may_be_its_work():
    with watching() as watched:
        await asyncio.sleep(0.01)  # a timer wakes it
        watched.come()
        assert watched.is_told()


async def test_the_loop_is_left_as_it_was():
    with watching() as watched:
        await asyncio.sleep(0.01)
        watched.watch.end()
        await asyncio.sleep(0.01)
        watched.come()
        assert not watched.is_told()
        await asyncio.sleep(0.01)
        assert watched.was_told == [False]


async def test_a_descriptor_that_is_closed_is_not_missed():
    with watching() as watched:
        os.close(watched.descriptor)
        watched.descriptor = os.eventfd(0)  # for the fixture
        watched.watch.begin()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop", [SimpleNamespace(), SimpleNamespace(asyncio_loop=SimpleNamespace())])
def test_a_loop_that_is_not_asyncios_own_is_refused(loop):
    with pytest.raises(AttributeError):
        BusyWatch(0, loop)
