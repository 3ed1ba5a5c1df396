"""The client's half of ZMTP 3.0 without I/O: bytes in, events out, every amount bounded.

libzmq bounds one frame (ZMQ_MAXMSGSIZE) and the number of whole messages that wait (ZMQ_RCVHWM); it does not bound the
frames of a message, collects them before anybody sees one, and hangs up for good over a frame that is too large. Here a
message that is too large is skipped and counted, and the connection goes on.

Sources: RFC 23 (ZMTP 3.0) and RFC 28 of the ZeroMQ project; no encryption (mechanism NULL).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from jupyter_sandbox.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

GREETING: Final = b"\xff" + bytes(7) + b"\x01\x7f" + bytes((3, 0)) + b"NULL".ljust(20, b"\0") + bytes(32)
SUBSCRIBE_ALL: Final = b"\x00\x01\x01"
_GREETING_BYTES: Final = 64
_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4
_MAX_COMMAND_BYTES: Final = 4096
_MAX_SKIPPED_PARTS: Final = 1 << 13
_MAX_HEAD: Final = 8
_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_IDENTITY_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Ready:
    """The handshake is done: messages may be sent."""


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message."""

    parts: list[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Oversized:
    """The end of a message that was skipped. `head`: its first frames, as far as they were small."""

    size_bytes: int
    head: list[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ping:
    """The other end wants to know whether we live; answer with `pong(context)`."""

    context: bytes


Event = Ready | Message | Oversized | Ping


def ready(socket_type: Literal["DEALER", "SUB"], identity: bytes = b"") -> bytes:
    """Return the command that ends our half of the handshake. `identity`: at most 255 bytes, of a DEALER."""
    body = b"\x05READY" + _property(b"Socket-Type", socket_type.encode())
    if socket_type == "DEALER":
        body += _property(b"Identity", identity[:_MAX_IDENTITY_BYTES])
    return _frame(_COMMAND, body)


def pong(context: bytes) -> bytes:
    """Return the answer to a ping."""
    return _frame(_COMMAND, b"\x04PONG" + context[:16])


def encode(parts: Sequence[bytes | memoryview]) -> bytes:
    """Return the bytes of one message."""
    last = len(parts) - 1
    pieces: list[bytes | memoryview] = []
    for index, part in enumerate(parts):
        size, flags = memoryview(part).nbytes, _MORE if index < last else 0
        pieces.append(bytes((flags, size)) if size < 256 else bytes((flags | _LONG,)) + size.to_bytes(8, "big"))
        pieces.append(part)
    return b"".join(pieces)


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | _LONG,)) + len(body).to_bytes(8, "big") + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


class Decoder:
    """Reads what the other end of one connection sends.

    It holds at most `max_bytes` of one message and what was fed since the last event was taken.
    """

    def __init__(self, *, max_bytes: int, max_parts: int, give_up_bytes: int) -> None:
        """Bounds of a message.

        `max_bytes`, `max_parts`: what a message may have. `give_up_bytes`: when even skipping it ends.
        """
        self._max_bytes, self._max_parts, self._give_up_bytes = max_bytes, max_parts, give_up_bytes
        self._buffer = bytearray()
        self._is_greeted = self._is_ready = False
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the message so far
        self._is_skipping = False
        self._skipped_parts = 0
        self._to_skip = 0  # bytes of the frame that is being skipped
        self._skips_last = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the connection."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return what happened next, or None until more is fed.

        Raises:
            ProtocolError: the other end does not speak ZMTP 3, refused us, or sends a message without end. The
                connection must be closed.
        """
        if not self._is_greeted and not self._read_greeting():
            return None
        message = self._whole_message() if self._is_ready and not self._is_skipping else None
        return message or self._any_event()

    def _whole_message(self) -> Message | None:
        """The usual case, in one loop: frames of a message that are here and small enough. Another frame ends it."""
        parts, room = self._parts, self._max_bytes - self._size
        at, end, is_last = 0, len(self._buffer), False
        with memoryview(self._buffer) as buffer:
            while not is_last and at + 2 <= end and buffer[at] < _COMMAND and len(parts) < self._max_parts:
                flags, start, size = buffer[at], at + 2, buffer[at + 1]
                if flags & _LONG:
                    start, size = at + 9, int.from_bytes(buffer[at + 1 : at + 9], "big")
                if size > room or start + size > end:
                    break
                at, room, is_last = start + size, room - size, not flags & _MORE
                parts.append(buffer[start:at].tobytes())
        del self._buffer[:at]
        if not is_last:
            self._size = self._max_bytes - room
            return None
        self._parts, self._size = [], 0
        return Message(parts)

    def _any_event(self) -> Event | None:
        while True:
            if self._to_skip and not self._skip():
                return None
            if self._is_skipping and self._skips_last:
                return self._end_of_skipped()
            head = self._frame_head()
            if head is None:
                return None
            flags, start, size = head
            if not flags & _COMMAND and self._is_too_much(size):
                self._begin_skipping(flags, start, size)
                continue
            if len(self._buffer) < start + size:
                return None
            body = self._take(start, size)
            event = self._command(body) if flags & _COMMAND else self._part(body, is_last=not flags & _MORE)
            if event is not None:
                return event

    def _read_greeting(self) -> bool:
        if len(self._buffer) < _GREETING_BYTES:
            return False
        greeting = self._take(0, _GREETING_BYTES)
        if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3:
            raise ProtocolError("a kernel's socket does not speak ZMTP 3")
        if greeting[12:32].rstrip(b"\0") != b"NULL":
            raise ProtocolError("a kernel's socket wants another security mechanism")
        self._is_greeted = True
        return True

    def _frame_head(self) -> tuple[int, int, int] | None:
        """Return flags, start of the body and its size, or None when they are not here yet."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        flags = buffer[0]
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise ProtocolError("a frame of a kernel's socket has unknown flags")
        if flags & _COMMAND == 0 and not self._is_ready:
            raise ProtocolError("a message came before the handshake was done")
        if not flags & _LONG:
            return flags, 2, buffer[1]
        if len(buffer) < 9:
            return None
        size = int.from_bytes(buffer[1:9], "big")
        if flags & _COMMAND and size > _MAX_COMMAND_BYTES:
            raise ProtocolError("a command of a kernel's socket is too large")
        return flags, 9, size

    def _is_too_much(self, size: int) -> bool:
        return self._is_skipping or self._size + size > self._max_bytes or len(self._parts) >= self._max_parts

    def _part(self, body: bytes, *, is_last: bool) -> Message | None:
        self._parts.append(body)
        self._size += len(body)
        if not is_last:
            return None
        message, self._parts, self._size = Message(self._parts), [], 0
        return message

    def _take(self, start: int, size: int) -> bytes:
        with memoryview(self._buffer) as view:
            taken = bytes(view[start : start + size])
        del self._buffer[: start + size]
        return taken

    def _command(self, body: bytes) -> Event | None:
        length = body[0] if body else 0
        name, rest = body[1 : 1 + length], body[1 + length :]
        if not self._is_ready:
            if name != b"READY":
                raise ProtocolError("a kernel's socket refused the handshake")
            self._is_ready = True
            return Ready()
        if name == b"PING" and len(rest) >= 2:
            return Ping(rest[2:18])
        return None

    def _begin_skipping(self, flags: int, start: int, size: int) -> None:
        if not self._is_skipping:
            self._is_skipping = True
            self._parts = list(itertools.takewhile(lambda part: len(part) <= _MAX_HEAD_BYTES, self._parts[:_MAX_HEAD]))
        self._size += size
        self._skipped_parts += 1
        if self._size > self._give_up_bytes or self._skipped_parts > _MAX_SKIPPED_PARTS:
            raise ProtocolError("a message of a kernel has no end")
        del self._buffer[:start]
        self._to_skip, self._skips_last = size, not flags & _MORE

    def _skip(self) -> bool:
        """Throw the body of a frame away; whether all of it was here."""
        thrown = min(self._to_skip, len(self._buffer))
        del self._buffer[:thrown]
        self._to_skip -= thrown
        return self._to_skip == 0

    def _end_of_skipped(self) -> Oversized:
        skipped = Oversized(self._size, self._parts)
        self._parts, self._size, self._skipped_parts, self._is_skipping, self._skips_last = [], 0, 0, False, False
        return skipped
