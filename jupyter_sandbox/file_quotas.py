"""How many bytes of files the server has written into each sandbox that lives, against the quota of its owner.

What a sandbox writes by itself is bounded by its disk and not counted here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_sandbox.owners import EVERYBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandboxes import Sandboxes


@dataclass
class _Written:
    owner: Owner
    size: int = 0


class FileQuotas:
    """The bytes of files in all sandboxes of one server."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        """Nothing is written."""
        self._sandboxes = sandboxes
        self._written: dict[str, _Written] = {}

    @contextlib.contextmanager
    def writing(self, sandbox_id: str) -> Iterator[Callable[[int], None]]:
        """Yield what counts the bytes of a file that is written; it raises QuotaError. What fails does not count."""
        living = self._sandboxes.whose()
        for known in self._written.keys() - living:
            del self._written[known]
        written = self._written.setdefault(sandbox_id, _Written(living.get(sandbox_id) or EVERYBODY))
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            held = sum(each.size for each in self._written.values() if each.owner == written.owner)
            self._sandboxes.quotas.check_bytes(written.owner, held + size)
            written.size += size
            counted += size

        try:
            yield count
        except BaseException:
            written.size -= counted
            raise
