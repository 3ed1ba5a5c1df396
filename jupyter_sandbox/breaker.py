"""Keeps what fails each time from being tried again and again. Pure: time, of a monotonic clock, is handed in.

Closed: everything is let through. After some failures in a row it opens: nothing is, for a while that grows with each
further failure. Then it is half open: one try at a time is let through, and decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

FAILURES_THAT_OPEN: Final = 3
_FIRST_WAIT_S: Final = 0.5
_MAX_WAIT_S: Final = 30.0


def backoff_s(failures: int) -> float:
    """Return how long to wait after `failures` in a row, without jitter."""
    return min(_FIRST_WAIT_S * 2 ** min(failures - 1, 16), _MAX_WAIT_S) if failures else 0.0


class BreakerState(StrEnum):
    """What a breaker lets through: everything, nothing, one try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """How the last tries went."""

    failures: int = 0
    """In a row."""
    opens_until: float = 0.0
    """When the next try is let through, once there were enough failures."""
    is_tried: bool = False
    """Whether the one try of a half open breaker is under way."""

    def state(self, now: float) -> BreakerState:
        """Return what is let through."""
        if self.failures < FAILURES_THAT_OPEN:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.opens_until else BreakerState.HALF_OPEN

    def wait_s(self, now: float) -> float:
        """Return when it is worth to ask again, in seconds; 0 when a try is let through now."""
        match self.state(now):
            case BreakerState.CLOSED:
                return 0.0
            case BreakerState.OPEN:
                return self.opens_until - now
            case BreakerState.HALF_OPEN:
                return _FIRST_WAIT_S if self.is_tried else 0.0

    def begun(self, now: float) -> Breaker:
        """Return the breaker after a try was let through."""
        return replace(self, is_tried=self.state(now) is BreakerState.HALF_OPEN)

    def failed(self, now: float) -> Breaker:
        """Return the breaker after a try failed; many that fail together are one failure once it is open."""
        if self.state(now) is BreakerState.OPEN:
            return self
        failures = self.failures + 1
        return Breaker(failures=failures, opens_until=now + backoff_s(failures))

    def undecided(self) -> Breaker:
        """Return the breaker after a try ended for a reason that says nothing."""
        return replace(self, is_tried=False)
