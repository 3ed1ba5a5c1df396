"""The time of a claimed sandbox: until when it lives, what lengthens that, when its end is announced.

Pure: `now` and `at` are seconds of a monotonic clock, which no step of the wall clock moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

ANNOUNCED_S: Final = 60.0
_SHORT: Final = 0.2
_DRIFT: Final = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Term:
    """How long a sandbox lives. `length_s` counts from the last use if that renews it, else from its beginning."""

    length_s: float
    ends_at: float
    is_renewed_by_use: bool
    is_announced: bool = False

    @classmethod
    def begun(cls, now: float, length_s: float, *, is_renewed_by_use: bool) -> Term:
        """Return a term that begins now."""
        return cls(length_s=length_s, ends_at=now + length_s, is_renewed_by_use=is_renewed_by_use)

    def used(self, at: float) -> Term:
        """Return the term after a use."""
        if not self.is_renewed_by_use or at + self.length_s <= self.ends_at:
            return self
        return replace(self, ends_at=at + self.length_s, is_announced=False)

    def announced(self) -> Term:
        """Return the term once its end was announced."""
        return replace(self, is_announced=True)

    def is_over(self, now: float) -> bool:
        """Whether it has ended."""
        return now >= self.ends_at

    def is_to_be_announced(self, now: float) -> bool:
        """Whether to say that it ends soon: a minute before, of a short one when a fifth is left."""
        return not self.is_announced and self.ends_at - now <= min(ANNOUNCED_S, self.length_s * _SHORT)

    def end_on(self, wall: datetime, now: float, said_before: datetime | None) -> datetime:
        """Return when it ends on the wall clock; what was said before, unless that clock was moved since."""
        end = wall + timedelta(seconds=self.ends_at - now)
        return end if said_before is None or abs(end - said_before) > _DRIFT else said_before
