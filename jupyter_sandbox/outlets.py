"""What waits in the server on its way from a kernel to a client: how much of it there may be. No I/O.

An `Outlet` counts what an open websocket has not taken yet. An `OfflineBuffer` keeps what a closed tab will want when
it comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards import kernel_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RESERVE_BYTES: Final = 1 << 20
"""For replies and states, which are small and which a client waits for, when output has filled the buffer."""
_MESSAGE_BYTES: Final = 512
"""What a message costs beside its text."""
_MAX_UNSENT: Final = 256
"""Messages that wait for one client. Many small ones are sent at once, and each is then work, all in one turn."""
_OUTPUT: Final = frozenset({"stream", "display_data", "update_display_data", "execute_result"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLimits:
    """What the server holds of one kernel's output.

    `max_message_bytes`: one message. `max_unsent_bytes`: for one client that reads slowly; one message of each channel
    can come on top. `slow_reader_s`: how long such a client may take nothing, seconds. `max_offline_bytes`: for a tab
    that was closed.
    """

    max_message_bytes: int = 8 << 20
    max_unsent_bytes: int = 4 << 20
    slow_reader_s: float = 60
    max_offline_bytes: int = 16 << 20


class Outlet:
    """How much one websocket has not taken."""

    def __init__(self, max_unsent_bytes: int) -> None:
        """Start with nothing."""
        self._max_unsent_bytes = max_unsent_bytes
        self.unsent_bytes = 0
        self._unsent = 0
        self.taken = 0
        """How many messages it took so far: progress."""
        self.is_full = False

    def put(self, size_bytes: int) -> bool:
        """Count a message on its way; whether the outlet became full by it."""
        self.unsent_bytes += size_bytes
        self._unsent += 1
        if self.is_full or not self._holds_more_than(self._max_unsent_bytes, _MAX_UNSENT):
            return False
        self.is_full = True
        return True

    def took(self, size_bytes: int) -> bool:
        """Count a message that is sent; whether the outlet is no longer full. It stays full until half is gone."""
        self.unsent_bytes -= size_bytes
        self._unsent -= 1
        self.taken += 1
        if not self.is_full or self._holds_more_than(self._max_unsent_bytes // 2, _MAX_UNSENT // 2):
            return False
        self.is_full = False
        return True

    def _holds_more_than(self, size_bytes: int, messages: int) -> bool:
        return self.unsent_bytes > size_bytes or self._unsent > messages


Item = tuple[str, list[bytes]]


class OfflineBuffer(list[Item]):
    """A list of (channel, frames), as jupyter_server keeps it for a closed tab, that stops to grow.

    Output is dropped first, then everything. Reading it gives one more message at the end that says what is missing.
    """

    def __init__(self, max_bytes: int, marker: Callable[[int, int, dict[str, Any]], Item]) -> None:
        """`marker`: makes the message, from the number of messages and bytes and the header of the first parent."""
        super().__init__()
        self._max_bytes, self._marker = max_bytes, marker
        self._bytes = self.dropped = self.dropped_bytes = 0
        self._parent: dict[str, Any] = {}

    def append(self, item: Item) -> None:
        """Keep a message, or count it."""
        size = sum(map(len, item[1]))
        parent, msg_type = kernel_messages.peek(item[1])
        room = self._max_bytes + (0 if msg_type in _OUTPUT else _RESERVE_BYTES)
        if self._bytes + size + _MESSAGE_BYTES <= room:
            self._bytes += size + _MESSAGE_BYTES
            super().append(item)
        else:
            self.drop(size, parent)

    def drop(self, size_bytes: int, parent: dict[str, Any] | None) -> None:
        """Count a message that is not kept."""
        if not self.dropped:
            self._parent = parent or {}
        self.dropped += 1
        self.dropped_bytes += size_bytes

    def __len__(self) -> int:
        return super().__len__() + bool(self.dropped)

    def __iter__(self) -> Iterator[Item]:
        yield from super().__iter__()
        if self.dropped:
            yield self._marker(self.dropped, self.dropped_bytes, self._parent)
