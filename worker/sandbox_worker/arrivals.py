"""Requests that have come to a kernel and wait for it, in the order in which they were asked.

ZeroMQ tells a kernel that waited for a processor of one request of each connection in turn, or of all of one and then
of all of another. Their dates tell the order. Clients have clocks of their own, so dates count among those only that
were read in one go; what one connection has sent keeps its order in any case. And who is there for the first time waits
for those who were there before: what they sent may be about to come.
"""

from __future__ import annotations

import json
from collections import deque
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final

from jupyter_client.session import DELIM

if TYPE_CHECKING:
    import zmq

_MAX_KNOWN: Final = 64


class Request:
    """One request, with what tells its place among others."""

    def __init__(self, frames: list[zmq.Frame]) -> None:
        """`frames`: as they came, the identity of the connection first."""
        self.frames = frames
        self.connection = frames[0].bytes

    @cached_property
    def asked_at(self) -> datetime | None:
        """When that was by the clock of who asked, or None if that cannot be read."""
        frames = [frame.bytes for frame in self.frames]
        try:
            date = datetime.fromisoformat(json.loads(frames[frames.index(DELIM) + 2])["date"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return date if date.tzinfo else date.replace(tzinfo=UTC)

    def comes_before(self, other: Request) -> bool:
        """Whether this one, read later, was asked before the `other`."""
        if self.connection == other.connection:
            return False
        return self.asked_at is not None and other.asked_at is not None and self.asked_at < other.asked_at


class Arrivals:
    """A queue of requests."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: deque[Request] = deque()
        self._known: dict[bytes, None] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, frames: list[zmq.Frame], first: int) -> bool:
        """Take in what was just read, in one go with all from place `first` on.

        Return whether others were there before who asked, and he not.
        """
        request = Request(frames)
        place = len(self._waiting)
        while place > first and request.comes_before(self._waiting[place - 1]):
            place -= 1
        self._waiting.insert(place, request)
        return self._is_new(request.connection)

    def next(self) -> list[zmq.Frame]:
        """Take out the one that is to be handled. Raises IndexError when none waits."""
        return self._waiting.popleft().frames

    def _is_new(self, connection: bytes) -> bool:
        is_new = bool(self._known) and connection not in self._known
        self._known.pop(connection, None)
        self._known[connection] = None  # now it is the last to be forgotten
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return is_new
