"""What the server holds of large answers until their clients took them, counted for each owner.

It knows no connection: who answers says how much, when it is gone, and how to hang up on who does not take it in time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import pace
from jupyter_sandbox.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.owners import Owner

MAX_BYTES: Final = 16 << 20
"""Who has so much waiting for his clients waits with his next answer until they took some of it."""
MAX_WAITING_BYTES: Final = 16 << 20
"""Whose answers that wait so would be larger in all has them refused."""


class Unsent:
    """The counts of one server."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._bytes: Counter[Owner] = Counter()
        self._waiting_bytes: Counter[Owner] = Counter()
        self._freed = asyncio.Event()

    def is_full(self, owner: Owner) -> bool:
        """Whether the owner's next answer must wait."""
        return self._bytes[owner] >= MAX_BYTES

    async def room(self, owner: Owner, size: int, is_gone: Callable[[], bool] = lambda: False) -> None:
        """Wait until the owner may have one more answer, of so many bytes, or until nobody waits for it any more.

        Raises BusyError. See `look_again` for `is_gone`.
        """
        if self._waiting_bytes[owner] + size > MAX_WAITING_BYTES:
            raise self._busy(owner)
        self._waiting_bytes[owner] += size
        try:
            async with asyncio.timeout(pace.allowed_s(MAX_BYTES)):
                while self.is_full(owner) and not is_gone():
                    await self._freed.wait()
        except TimeoutError:
            raise self._busy(owner) from None
        finally:
            self._waiting_bytes -= Counter({owner: size})  # which forgets who has nothing left

    def _busy(self, owner: Owner) -> BusyError:
        unread = self._bytes[owner] + self._waiting_bytes[owner]
        return BusyError(f"{unread} bytes of earlier answers wait to be read", retry_after_s=1)

    def look_again(self) -> None:
        """Wake who waits: something was taken, or somebody has gone."""
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()

    def hold(self, sent: asyncio.Future[Any], hang_up: Callable[[], object], *, size: int, owner: Owner | None) -> None:
        """Count an answer as the owner's until it is `sent`, None for no owner; `hang_up` when that takes too long."""
        late = asyncio.get_running_loop().call_later(pace.allowed_s(size), hang_up)
        if owner is not None:
            self._bytes[owner] += size

        def gone(_: object) -> None:
            late.cancel()
            if owner is not None:
                self._bytes -= Counter({owner: size})
                self.look_again()

        sent.add_done_callback(gone)
