"""What the agent keeps of a process that it started: its pid, the end of its raw output, a kernel's relays."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandbox_worker.relay import Relay

LOG_BYTES: Final = 8192


class Process:
    """A kernel or command."""

    def __init__(self, pid: int, output: int | None, relays: list[Relay]) -> None:
        """`output` is what its raw output is read from, `relays` are those of a kernel that needs them."""
        self.pid = pid
        self.output = output
        self.relays = relays
        self._log: collections.deque[bytes] = collections.deque()
        self._log_bytes = 0

    def record(self, data: bytes) -> None:
        """Keep the end of what it wrote."""
        self._log.append(data)
        self._log_bytes += len(data)
        while self._log_bytes - len(self._log[0]) >= LOG_BYTES:
            self._log_bytes -= len(self._log.popleft())

    def tail(self, size: int) -> str:
        """Return the last bytes that it wrote, as text."""
        return b"".join(self._log)[-size:].decode(errors="replace")
