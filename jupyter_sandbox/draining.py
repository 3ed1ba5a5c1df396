"""What SIGTERM begins: nothing new is accepted, what runs may end for a while, the rest is for the next start.

The server's own answer to the signal, its end, comes after that; a second signal brings it at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 0.05

log = logging.getLogger(__name__)


class Draining:
    """The draining of one server."""

    def __init__(self, drain_s: float, is_busy: Callable[[], bool], begun: Callable[[], object]) -> None:
        """Wait at most `drain_s` while `is_busy`; `begun` is called before."""
        self._drain_s, self._is_busy, self._begun = drain_s, is_busy, begun
        self._stock: Any = None
        self._task: asyncio.Task[None] | None = None
        self.has_begun = False

    def listen(self, stock: Callable[..., object]) -> bool:
        """Come before `stock`, if that is who answers the signal now; whether it is."""
        if signal.getsignal(signal.SIGTERM) != stock:
            return False
        self._stock, self._loop = stock, asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, self._signalled)
        return True

    def stop(self) -> None:
        """Leave the signal to whom it belonged."""
        if self._stock is not None and signal.getsignal(signal.SIGTERM) == self._signalled:
            signal.signal(signal.SIGTERM, self._stock)

    def _signalled(self, number: int, frame: object) -> None:
        if self.has_begun:
            self._stock(number, frame)
            return
        self.has_begun = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._begun()
        self._task = asyncio.create_task(self._drain(), name="draining")

    async def _drain(self) -> None:
        deadline = self._loop.time() + self._drain_s
        while self._is_busy() and self._loop.time() < deadline:  # noqa: ASYNC110 - kernels tell nobody
            await asyncio.sleep(_LOOK_S)
        log.info("what runs %s", "is left to the next start of the server" if self._is_busy() else "has ended")
        self._stock(signal.SIGTERM, None)
