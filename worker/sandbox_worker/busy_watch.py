"""Watches a descriptor for another thread while the loop that watches it otherwise is at work.

To begin and to end that is a system call which wakes nobody: what comes while the loop waits is the loop's alone.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop


class BusyWatch:
    """A descriptor that is readable when the one watched is, and the loop is at work; for another thread's loop."""

    def __init__(self, descriptor: int, loop: IOLoop) -> None:
        """`loop`: the one of this thread. Raises AttributeError for one that is not asyncio's own."""
        asyncio_loop: Any = loop.asyncio_loop  # type: ignore[attr-defined]
        self._selector = asyncio_loop._selector  # noqa: SLF001
        self._select = self._selector.select
        self._descriptor = descriptor
        self._poll = select.epoll()
        self._poll.register(descriptor, 0)
        self._events = 0
        self._selector.select = self._wait

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return self._poll.fileno()

    def begin(self) -> None:
        """The loop has read all that there was: what comes from now on it may not see for long."""
        self._watch_for(select.EPOLLIN)

    def end(self) -> None:
        """Leave the loop as it was."""
        self._selector.select = self._select
        self._watch_for(0)

    def _wait(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """Wait as the loop does. It reads at once what wakes it: that is not for the other thread."""
        if timeout is not None and timeout <= 0:
            return self._select(timeout)  # type: ignore[no-any-return]
        self._watch_for(0)
        ready: list[tuple[Any, int]] = self._select(timeout)
        if not any(key.fd == self._descriptor for key, _ in ready):
            self.begin()
        return ready

    def _watch_for(self, events: int) -> None:
        if events == self._events:
            return
        try:
            self._poll.modify(self._descriptor, events)
        except OSError:  # it is closed: the process ends
            return
        self._events = events
