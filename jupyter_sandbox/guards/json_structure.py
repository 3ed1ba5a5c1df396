"""How deep JSON is and how many values it has, judged from its text before a reader builds them. Pure."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 100
"""JSON in JSON. Python gives up at about 1 000, other clients earlier; a Vega chart has 20."""
MAX_CONTAINERS: Final = 1 << 16
MAX_VALUES: Final = 1 << 19
"""Objects and arrays, and values. 8 MiB of `[],[],...` cost 180 MB and stop the server for 1.3 s; with these bounds any
8 MiB are read in about 50 ms."""

_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_bounded(data: bytes) -> bool:
    """Whether JSON is within the bounds; of what is no JSON that is said of any part that a reader would read.

    Counting text is fast, so most end at the first if. Text in strings is only ever counted too much: then the strings
    are taken out. They end where a reader ends them, in any part that it reads up to its first error.
    """
    containers = data.count(b"[") + data.count(b"{")
    if containers <= MAX_DEPTH and data.count(b",") <= MAX_VALUES:
        return True
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if data.count(b'"') > 2 * MAX_VALUES:
        return False
    bare = b"".join(data.split(b'"')[::2])
    containers = bare.count(b"[") + bare.count(b"{")
    if containers > MAX_CONTAINERS or bare.count(b",") > MAX_VALUES:
        return False
    brackets = bare.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return not brackets
