"""Who may work next on an event loop: many sources of work share it so that everything else gets its turn, too.

A source that has work joins and is asked for one small step at a time. However many sources there are, all of them
together take no longer than one turn before the loop does its other work, and who was asked last waits longest.
"""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    Step = Callable[[], bool]

_TURN_S: Final = 0.002
_ROUNDS: Final = 5
"""How often the loop does its other work between two turns: a request takes it several of its rounds."""


class Turns:
    """The queue of one event loop. It keeps no reference to the loop, which may go before we do."""

    def __init__(self) -> None:
        """Start with nobody in it."""
        self._steps: collections.deque[Step] = collections.deque()
        self._left_s = _TURN_S
        self._is_called = False

    def join(self, loop: asyncio.AbstractEventLoop, step: Step) -> None:
        """Call `step` until it returns False: at once, if there is time left in this turn. It must not raise."""
        self._steps.append(step)
        if len(self._steps) == 1 and self._left_s > 0:
            self._work()
        if self._steps or self._left_s < _TURN_S / 2:
            self._call(loop)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._take, loop, _ROUNDS)

    def _take(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        """When the loop has done its other work begin a new turn."""
        if rounds > 1:
            loop.call_soon(self._take, loop, rounds - 1)
            return
        self._is_called, self._left_s = False, _TURN_S
        self._work()
        if self._steps:
            self._call(loop)

    def _work(self) -> None:
        started = now = time.monotonic()
        while self._steps and now - started < self._left_s:
            if self._steps[0]():
                self._steps.rotate(-1)
            else:
                self._steps.popleft()
            now = time.monotonic()
        self._left_s -= now - started


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the queue of a loop."""
    if loop not in _turns:
        _turns[loop] = Turns()
    return _turns[loop]
