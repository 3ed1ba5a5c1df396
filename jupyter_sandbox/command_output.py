"""What a command has written, as its server keeps it: the end of each stream, every byte with its place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stream(StrEnum):
    """Where a command wrote. A command with a terminal has no other."""

    STDOUT = "stdout"
    STDERR = "stderr"
    TERMINAL = "terminal"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes of a stream; `offset` is how many came before them in that stream."""

    stream: Stream
    offset: int
    data: bytes


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        """Keep `limit` bytes, and what somebody is still to get."""
        self._limit = limit
        self._kept = bytearray()
        self.start = 0
        """How many bytes are not kept any more: the offset of the first that is."""

    @property
    def end(self) -> int:
        """How many bytes were written so far."""
        return self.start + len(self._kept)

    def put(self, data: bytes) -> None:
        """Keep more; `trim` forgets what is too much."""
        self._kept += data

    def trim(self, wanted_from: int) -> None:
        """Forget what is above the limit and before `wanted_from`."""
        surplus = min(self.end - self._limit, wanted_from) - self.start
        if surplus > 0:
            del self._kept[:surplus]
            self.start += surplus

    def since(self, offset: int, max_bytes: int) -> tuple[int, bytes]:
        """Return bytes from `offset` on, or from the first that is kept, and their offset."""
        first = max(offset, self.start)
        return first, bytes(self._kept[first - self.start : first - self.start + max_bytes])
