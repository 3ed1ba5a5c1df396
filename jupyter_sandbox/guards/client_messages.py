"""Judges one websocket message of a client before anybody reads it: Jupyter's code believes the numbers in it.

A count of eight bytes makes a stock server build lists without end, and text of ten MiB may be read for seconds. It
knows no socket. The formats: jupyter_server's documentation, "WebSocket kernel wire protocols".
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

from jupyter_sandbox.guards import json_structure
from jupyter_sandbox.guards.kernel_messages import MAX_PARTS

_JSON_PARTS: Final = 4


def is_sound(message: str | bytes, *, is_v1: bool) -> bool:
    """Whether a message may be read: of a text that its JSON is bounded, of bytes that parts are where they shall be.

    `is_v1`: whether the format is that of the subprotocol with the version 1, else it is the older one.
    """
    if isinstance(message, str):
        return json_structure.is_bounded(message.encode(errors="replace"))
    if is_v1:  # a channel, the JSON parts, buffers, and an offset for the end
        parts = _parts(message, "<Q", has_end=True)
        return parts is not None and all(map(json_structure.is_bounded, parts[1 : 1 + _JSON_PARTS]))
    parts = _parts(message, "!I", has_end=False)
    return parts is not None and json_structure.is_bounded(parts[0])


def _parts(message: bytes, number: str, *, has_end: bool) -> list[bytes] | None:
    """Return the parts that come after a count and as many offsets, or None when they are not one after the other."""
    size = struct.calcsize(number)
    count = struct.unpack_from(number, message)[0] if len(message) >= size else 0
    if not 1 <= count <= MAX_PARTS or len(message) < size * (count + 1):
        return None
    offsets = list(struct.unpack_from(f"{number[0]}{count}{number[1]}", message, size))
    if not has_end:
        offsets.append(len(message))
    borders = [size * (count + 1), *offsets, len(message)]
    if any(start > stop for start, stop in pairwise(borders)):
        return None
    return [message[start:stop] for start, stop in pairwise(offsets)]
