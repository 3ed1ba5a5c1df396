"""What connects whoever looks after sandboxes with the websockets of their kernels: words for the person, and uses.

Both are kept on Jupyter's manager of the kernel, so that neither end knows the other. A use is what a client does and
never what a kernel says: code could keep its own sandbox alive.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def listen(manager: Any, tell: Callable[[str], None]) -> None:
    """Call `tell` with everything that is said of a kernel, until `leave`."""
    manager.sandbox_listeners = [*_listeners(manager), tell]


def leave(manager: Any, tell: Callable[[str], None]) -> None:
    """Call it no more; quiet when it was not called."""
    manager.sandbox_listeners = [other for other in _listeners(manager) if other != tell]


def say(manager: Any, words: str) -> None:
    """Say a sentence to everybody who looks at a kernel."""
    for tell in _listeners(manager):
        tell(words)


def note_use(manager: Any) -> None:
    """Note that a client uses a kernel now."""
    manager.sandbox_used_at = time.monotonic()


def used_at(manager: Any) -> float | None:
    """Return when a client used a kernel last over a websocket, on the monotonic clock; None: never."""
    at: float | None = getattr(manager, "sandbox_used_at", None)
    return at


def _listeners(manager: Any) -> list[Callable[[str], None]]:
    return getattr(manager, "sandbox_listeners", [])
