"""How long an agent waits for a word of its broker: only while it runs itself.

A paused worker is frozen with its agent, for hours maybe. When it goes on its broker has the time to speak that it had
before: a look counts for at most a minute, so whoever waits has to look more often than that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S: Final = 60.0


class Patience:
    """The patience of one agent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """It begins now."""
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Begin anew: there was a word."""
        self._waited_s, self._looked_at = 0.0, self._clock()

    def left_s(self, limit_s: float) -> float:
        """Return how much is left of it if it is `limit_s` long; 0: it is over."""
        now = self._clock()
        self._waited_s += min(now - self._looked_at, LOOK_S)
        self._looked_at = now
        return max(0.0, limit_s - self._waited_s)
