"""Visits: the sessions of MCP clients over HTTP, and whose they are. Pure.

An id of MCP's is no secret that opens anything: it means something to its owner alone, and to everybody else as much as
one that never was.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import UnknownRouteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.owners import Owner

CALLER: Final = "jupyter_sandbox.caller"
"""Where the request that brings a call is found in its ASGI scope."""
MAX_VISITS: Final = 64
"""Of one owner; when there are more, the one that was not used for the longest time ends."""


class Visits:
    """Those that there are."""

    def __init__(self, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`idle_s`: how long one stays that nobody uses."""
        self._idle_s, self._clock = idle_s, clock
        self._known: dict[str, tuple[Owner, float]] = {}  # the one that was not used for the longest time first

    def begin(self, owner: Owner, visit_id: str) -> str | None:
        """Note a new one; return the id of one that must end for it."""
        self._forget_idle()
        mine = [known for known, (whose, _) in self._known.items() if whose == owner]
        self._known[visit_id] = owner, self._clock()
        if len(mine) < MAX_VISITS:
            return None
        self.end(mine[0])
        return mine[0]

    def use(self, owner: Owner, visit_id: str) -> None:
        """Note that one is used; raises UnknownRouteError when the owner has none with that id."""
        self._forget_idle()
        if self._known.get(visit_id, (None, 0))[0] != owner:
            raise UnknownRouteError(f"no MCP session {visit_id[:60]!a}; begin a new one")
        del self._known[visit_id]
        self._known[visit_id] = owner, self._clock()

    def end(self, visit_id: str) -> None:
        """Forget one; quiet when it is not known."""
        self._known.pop(visit_id, None)

    def _forget_idle(self) -> None:
        since = self._clock() - self._idle_s
        for visit_id in [known for known, (_, used_at) in self._known.items() if used_at < since]:
            del self._known[visit_id]
