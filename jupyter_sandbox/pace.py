"""How slow a client may be: decisions about bytes and seconds, apart from connections and clocks.

Who sends or takes nothing has `SILENCE_S` in all, and more for what came or has to go, by the slowest rate that is
waited for: one byte a minute is as good as none.
"""

from __future__ import annotations

from typing import Final

SILENCE_S: Final[float] = 60
"""Who sends nothing of a body for so long, or takes nothing of an answer, is given up."""
SLOWEST_BYTES_PER_S: Final = 32 << 10
"""Of a body or an answer, in the long run."""


def allowed_s(size: int) -> float:
    """Return how long so many bytes may take, seconds."""
    return SILENCE_S + size / SLOWEST_BYTES_PER_S


def left_s(come: int, waited_s: float) -> float:
    """Return how long more is waited for after so many bytes came in so many seconds of waiting; 0 is none."""
    return max(0.0, min(SILENCE_S, allowed_s(come) - waited_s))
