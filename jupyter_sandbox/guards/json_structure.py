"""How deep JSON is and how many values it has, judged from its text before a reader builds them. Pure."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 100
"""JSON in JSON. Python gives up at about 1 000, other clients earlier; a Vega chart has 20."""
MAX_CONTAINERS: Final = 1 << 16
MAX_VALUES: Final = 1 << 19
"""Objects and arrays, and values. 8 MiB of `[],[],...` cost 180 MB and stop the server for 1.3 s; with these bounds any
8 MiB are read in about 50 ms."""
_PIECE: Final = 1 << 18
"""What has too much of everything is known for it before all of it was looked through."""

_FEW: Final = 64
"""As often as this a byte is found in less time than it is counted."""
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))


def is_bounded(data: bytes) -> bool:
    """Whether JSON is within the bounds; of what is no JSON that is said of any part that a reader would read.

    Finding is faster than counting, and counting than reading, so most end at the first if. Text in strings is only
    ever counted too much: then the strings are taken out. They end where a reader ends them, in any part that it reads
    up to its first error.
    """
    has_few_containers = not (_has_more(data, b"[", MAX_DEPTH // 2) or _has_more(data, b"{", MAX_DEPTH // 2))
    if has_few_containers and (not _has_more(data, b",", _FEW) or data.count(b",") <= MAX_VALUES):
        return True
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b""
    containers = values = quotes = 0
    for at in range(0, len(data), _PIECE):
        parts = data[at : at + _PIECE].translate(_ONE_KIND, _NO_STRUCTURE).split(b'"')
        bare = b"".join(parts[quotes % 2 :: 2])  # after an odd number of quotes it begins within a string
        quotes += len(parts) - 1
        containers += bare.count(b"[")
        values += bare.count(b",")
        if containers > MAX_CONTAINERS or values > MAX_VALUES or quotes > 2 * MAX_VALUES:
            return False
        brackets += bare.replace(b",", b"")
        if len(brackets) > 2 * MAX_CONTAINERS:  # more end than begin
            return False
    for _ in range(MAX_DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _has_more(data: bytes, byte: bytes, most: int) -> bool:
    """Whether a byte is there more than `most` times. Looks no further than it must, and fast where there are few."""
    at = -1
    for _ in range(most + 1):
        at = data.find(byte, at + 1)
        if at < 0:
            return False
    return True
