"""What one websocket was given and may not have: what comes before a ping is there when its pong is back. No I/O.

TCP says only that the next machine has taken something, and Jupyter's protocol has no receipts. So a ping follows what
is passed on, a moment later, and every client answers it by itself. When the websocket is cut, what lies behind the
last pong may be lost: output is not sent again, since it would be there twice if it is not; ends, of which a second
harms nobody, are.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.open_requests import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jupyter_sandbox.guards.kernel_messages import Channel
    from jupyter_sandbox.open_requests import Header
    from jupyter_sandbox.outlets import Item

_SHOWN: Final = frozenset(
    {
        *("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"),
        *("comm_open", "comm_msg", "comm_close"),
    }
)
_MAX_SPANS: Final = 1024
"""A client that answers no ping is told of the last ones only."""
_MAX_ENDS_BYTES: Final = 1 << 20
_MAX_DIGITS: Final = 20


class Mark(list[bytes]):
    """The frames of a message of ours that tells what is missing: when it is lost itself, that is told again."""

    def __init__(self, frames: Iterable[bytes], messages: int, size_bytes: int) -> None:
        """`messages`, `size_bytes`: what it tells."""
        super().__init__(frames)
        self.messages, self.size_bytes = messages, size_bytes


@dataclass
class _Span:
    """Output in a row in answer to one request. `number`: of the last ping before it."""

    number: int
    parent: Header
    messages: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Output in answer to one request that may not have arrived."""

    parent: Header
    messages: int = 0
    size_bytes: int = 0


class Receipts:
    """Those of one websocket."""

    def __init__(self) -> None:
        """Nothing was passed on."""
        self._number = 0
        self._is_due = False
        self._spans: collections.deque[_Span] = collections.deque(maxlen=_MAX_SPANS)
        self._ends: collections.deque[tuple[int, Item]] = collections.deque()
        self._ends_bytes = 0

    def passed_on(self, channel: Channel, msg_type: str, parent: Header, parts: Sequence[bytes]) -> bool:
        """Note a message; whether a ping is due that was not. `parts`: its frames, as they came or would have."""
        if channel != "iopub" or msg_type == "status":  # replies, questions to the person, and idle
            self._ends.append((self._number, (channel, list(parts))))
            self._ends_bytes += sum(map(len, parts))
            while self._ends_bytes > _MAX_ENDS_BYTES:
                self._forget_end()
        elif msg_type in _SHOWN:
            span = self._spans[-1] if self._spans else None
            if span is None or span.number != self._number or span.parent.get("msg_id") != parent.get("msg_id"):
                span = _Span(self._number, plain(parent))
                self._spans.append(span)
            told = parts if isinstance(parts, Mark) else Mark(parts, 1, sum(map(len, parts)))
            span.messages += told.messages
            span.size_bytes += told.size_bytes
        else:
            return False
        was_due, self._is_due = self._is_due, True
        return not was_due

    def ping(self) -> bytes:
        """Return what to send in a ping now."""
        self._number, self._is_due = self._number + 1, False
        return b"%d" % self._number

    def pong(self, data: bytes) -> None:
        """Note that a ping's answer came; quiet when that is none of ours."""
        if not (data.isdigit() and len(data) < _MAX_DIGITS and int(data) <= self._number):
            return
        while self._spans and self._spans[0].number < int(data):
            self._spans.popleft()
        while self._ends and self._ends[0][0] < int(data):
            self._forget_end()

    def take(self) -> tuple[list[Missing], list[Item]]:
        """Return what may be missing, by request, and what to send again; from now on nothing is."""
        missing: dict[object, Missing] = {}
        for span in self._spans:
            msg_id = span.parent.get("msg_id")
            known = missing.get(msg_id, Missing(parent=span.parent))
            missing[msg_id] = replace(
                known, messages=known.messages + span.messages, size_bytes=known.size_bytes + span.size_bytes
            )
        ends = [item for _, item in self._ends]
        self._spans.clear()
        self._ends.clear()
        self._ends_bytes = 0
        return list(missing.values()), ends

    def _forget_end(self) -> None:
        _, (_, parts) = self._ends.popleft()
        self._ends_bytes -= sum(map(len, parts))
