"""The Connect protocol with JSON, as E2B's SDKs use it: envelopes of a stream, and how one begins and ends. Pure.

Source: the specification of the Connect protocol, version 1.
"""

from __future__ import annotations

import itertools
import json
import struct
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import BodyTooLargeError, InvalidRequestError
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


class Envelopes:
    """A request that is a stream and comes in pieces: of what came, at most one envelope and a piece are kept.

    It ends where its body does: a last message of its own, with a flag, is for answers alone.
    """

    def __init__(self, max_bytes: int) -> None:
        """Nothing has come. `max_bytes`: of one message."""
        self._max_bytes, self._kept = max_bytes, bytearray()

    def take(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that are whole now; iterate to the end. Raises InvalidRequestError, BodyTooLargeError."""
        kept = self._kept
        kept += piece
        while len(kept) >= _HEAD.size:
            flags, size = _HEAD.unpack_from(kept)
            if flags:
                raise InvalidRequestError("envelopes that are compressed, or have another flag, are not taken")
            if size > self._max_bytes:
                raise BodyTooLargeError(f"a message has more than {self._max_bytes} bytes")
            whole = _HEAD.size + size
            if len(kept) < whole:
                return
            data = bytes(kept[_HEAD.size : whole])
            del kept[:whole]
            yield message(data)

    def finish(self) -> None:
        """Say that no more will come; raises InvalidRequestError when there is a part of an envelope."""
        if self._kept:
            raise InvalidRequestError("the stream ends within an envelope")


def only(body: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the one message of a request that is a stream; raises as `Envelopes` does."""
    envelopes = Envelopes(max_bytes)
    found = list(itertools.islice(envelopes.take(body), 2))
    if len(found) == 1:
        envelopes.finish()
        return found[0]
    raise InvalidRequestError("the request is one message")


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
