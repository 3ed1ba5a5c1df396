"""Who may work next on an event loop: many sources of work share it so that everything else gets its turn, too.

A source that has work joins and is asked for one small step at a time. However many sources there are, all of them
together take no longer than one turn before the loop does its other work, and who was asked last waits longest.

What one kernel takes of the loop goes on its account. Who took much for a while is a flood, and rests after each step
while others want something now and then: longer after a long step, which is what the others would wait for. With nobody
else there, or floods only, nobody rests.
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
    _Source = tuple["Account", Step]

_TURN_S: Final = 0.002
_ROUNDS: Final = 5
"""How often the loop does its other work between two turns: a request takes it several of its rounds."""
_CREDIT_S: Final = 0.25
"""What an account may take at once. It grows again while its sources wait for nothing, by half of that time."""
_GROWTH: Final = 0.5
_ACTIVE_S: Final = 0.1
"""How long somebody counts as there after a step."""
_REST: Final = 20
_REST_PER_S: Final = 3e4
"""A flood rests 2.3 ms after a step of 0.1 ms, 50 ms after one of 1 ms, 3.2 s after one of 10 ms."""


class Account:
    """What the sources of one kernel take of a loop together."""

    def __init__(self) -> None:
        """Start with all credit."""
        self._left_s, self._sources, self._quiet_since = _CREDIT_S, 0, 0.0
        self.rests_until = 0.0

    def is_flood(self) -> bool:
        """Whether the credit is used up."""
        return self._left_s <= 0

    def enter(self, now: float) -> None:
        """One of its sources has work."""
        if self._sources == 0:
            self._left_s = min(_CREDIT_S, self._left_s + (now - self._quiet_since) * _GROWTH)
        self._sources += 1

    def leave(self, now: float) -> None:
        """One of its sources has none any more."""
        self._sources -= 1
        self._quiet_since = now

    def take(self, began: float, ended: float) -> None:
        """A step was made. No debt grows without bounds, or the end of a flood would not be forgiven."""
        took_s = ended - began
        self._left_s = max(-_CREDIT_S, self._left_s - took_s)
        self.rests_until = ended + took_s * (_REST + took_s * _REST_PER_S)


class Turns:
    """The queue of one event loop. It keeps no reference to the loop, which may go before we do."""

    def __init__(self) -> None:
        """Start with nobody in it."""
        self._sources: collections.deque[_Source] = collections.deque()
        self._floods: collections.deque[_Source] = collections.deque()
        self._left_s = _TURN_S
        self._is_called = self._is_working = False
        self._sleeper: asyncio.TimerHandle | None = None
        self._seen: tuple[Account | None, float] = (None, 0.0)
        """Who took a step last without being a flood, and when."""

    def join(self, loop: asyncio.AbstractEventLoop, account: Account, step: Step) -> None:
        """Call `step` until it returns False: at once, if there is time left in this turn. It must not raise."""
        account.enter(time.monotonic())
        self._queue(account, step)
        if not self._is_working:
            self._work()
            self._go_on(loop)

    def _queue(self, account: Account, step: Step) -> None:
        (self._floods if account.is_flood() else self._sources).append((account, step))

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that there is a next turn: soon, or when the first flood has rested."""
        if self._is_called:
            return
        rest_s = 0.0 if self._sources else self._least_rest_s()
        if self._sleeper is not None:
            self._sleeper.cancel()
            self._sleeper = None
        if rest_s > 0 and self._left_s >= _TURN_S / 2:
            self._sleeper = loop.call_later(rest_s, self._wake, loop)
        elif self._sources or self._floods or self._left_s < _TURN_S / 2:
            self._is_called = True
            loop.call_soon(self._take, loop, _ROUNDS)

    def _take(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        """When the loop has done its other work begin a new turn."""
        if rounds > 1:
            loop.call_soon(self._take, loop, rounds - 1)
            return
        self._is_called = False
        self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left_s = _TURN_S
        self._ask(self._rested())  # or those who are no flood could keep it waiting for ever
        self._work()
        self._go_on(loop)

    def _work(self) -> None:
        """Ask one after the other until the turn is over or those who are left rest."""
        while self._left_s > 0 and self._ask(self._sources.popleft() if self._sources else self._rested()):
            pass

    def _ask(self, source: _Source | None) -> bool:
        """Take one step of a source, if there is one."""
        if source is None:
            return False
        account, step = source
        was_flood = account.is_flood()
        self._is_working, began = True, time.monotonic()
        try:
            has_more, ended = step(), time.monotonic()
        finally:
            self._is_working = False
        self._left_s -= ended - began
        account.take(began, ended)
        if not was_flood:
            self._seen = (account, ended)
        if has_more:
            self._queue(account, step)
        else:
            account.leave(ended)
        return True

    def _rested(self) -> _Source | None:
        """Take the flood out that waits longest of those that need not rest."""
        now = time.monotonic()
        for index, source in enumerate(self._floods):
            if self._rest_s(source[0], now) <= 0:
                del self._floods[index]
                return source
        return None

    def _least_rest_s(self) -> float:
        now = time.monotonic()
        return min((self._rest_s(account, now) for account, _ in self._floods), default=0.0)

    def _rest_s(self, account: Account, now: float) -> float:
        """How long an account has to wait, as far as that is known now."""
        other, seen_at = self._seen
        if not account.is_flood() or other is None or other is account:
            return 0.0
        return min(account.rests_until, seen_at + _ACTIVE_S) - now


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the queue of a loop."""
    if loop not in _turns:
        _turns[loop] = Turns()
    return _turns[loop]
