"""The Connect protocol with JSON, as E2B's SDKs use it: envelopes of a stream, and how one begins and ends. Pure.

Source: the specification of the Connect protocol, version 1.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

UNARY: Final = "application/json"
STREAM: Final = "application/connect+json"
TIMEOUT_HEADER: Final = "Connect-Timeout-Ms"
_HEAD: Final = struct.Struct(">BI")
_END: Final = 0x02
_MAX_TIMEOUT_DIGITS: Final = 10


class TimeIsOverError(Exception):
    """The time is over that a client gave a stream."""


def envelope(message: dict[str, Any], *, is_end: bool = False) -> bytes:
    """Return a message of a stream."""
    data = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(_END if is_end else 0, len(data)) + data


def end(error: dict[str, Any] | None = None) -> bytes:
    """Return the last message of a stream."""
    return envelope({} if error is None else {"error": error}, is_end=True)


def messages(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the messages of a request that is a stream; raises InvalidRequestError."""
    position = 0
    while position < len(body):
        if len(body) - position < _HEAD.size:
            raise InvalidRequestError("the stream ends within an envelope")
        flags, size = _HEAD.unpack_from(body, position)
        position += _HEAD.size
        if flags & ~_END:
            raise InvalidRequestError("envelopes that are compressed are not taken")
        if size > len(body) - position:
            raise InvalidRequestError("the stream ends within an envelope")
        if not flags & _END:
            yield message(body[position : position + size])
        position += size


def message(data: bytes) -> dict[str, Any]:
    """Return one message; raises InvalidRequestError."""
    return shapes.decode_object(data or b"{}")


def timeout_s(header: str | None) -> float | None:
    """Return how long a client gives a request, in seconds; None: it does not say. Raises InvalidRequestError."""
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > _MAX_TIMEOUT_DIGITS:
        raise InvalidRequestError(f"{TIMEOUT_HEADER} is milliseconds, at most {_MAX_TIMEOUT_DIGITS} digits")
    return int(header) / 1000
