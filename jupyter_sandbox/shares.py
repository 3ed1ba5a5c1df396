"""Places of a server that its owners share: one of them never holds more than half, so that others find some.

Who logs in to the server as its only owner may have all, as with quotas.
"""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import owners
from jupyter_sandbox.errors import CapacityError, QuotaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.owners import Owner

_RETRY_S: Final = 10


class Shares:
    """The places of one kind."""

    def __init__(self, total: int, what: str) -> None:
        """All are free. `what` takes a place, as an error says it: `batches of files`."""
        self._total, self._what = total, what
        self._held: collections.Counter[Owner] = collections.Counter()

    @contextlib.contextmanager
    def place(self, owner: Owner) -> Iterator[None]:
        """Hold one. Raises CapacityError when all are taken, QuotaError when the owner has his half."""
        if self._held.total() >= self._total:
            raise CapacityError(f"all {self._total} {self._what} are taken; try again later", retry_after_s=_RETRY_S)
        if owner != owners.EVERYBODY and self._held[owner] >= self._total // 2:
            raise QuotaError(f"you may have {self._total // 2} {self._what}, and do", retry_after_s=_RETRY_S)
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held -= collections.Counter({owner: 1})  # which forgets who holds none
