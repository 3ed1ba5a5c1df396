"""Whose the sandboxes were that are gone, and why they ended: of the last ones."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jupyter_sandbox.owners import Owner

_MOST: Final = 4096


class SandboxEnds:
    """Those of one server."""

    def __init__(self) -> None:
        """None has ended."""
        self._known: collections.OrderedDict[str, tuple[Owner | None, str]] = collections.OrderedDict()

    def add(self, sandbox_id: str, owner: Owner | None, words: str) -> None:
        """Know one more, and forget the oldest when there are too many."""
        self._known[sandbox_id] = owner, words
        while len(self._known) > _MOST:
            self._known.popitem(last=False)

    def words(self, owner: Owner, sandbox_id: str) -> str | None:
        """Return how a sandbox of `owner` ended; None when that is not known."""
        whose, words = self._known.get(sandbox_id, (None, None))
        return words if whose == owner else None
