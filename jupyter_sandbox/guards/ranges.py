"""The header Range of HTTP: a client's text becomes one range of bytes, or none. Pure.

What is no range, or several, is not obeyed, as RFC 9110 section 14.2 allows: the answer is the whole file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ONE: Final = re.compile(r"bytes=\s*(?P<first>[0-9]{0,30})-(?P<last>[0-9]{0,30})\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """At most `size` bytes from `start`, which counts from the end when it is negative; None: all that follow."""

    start: int
    size: int | None


def judge(text: str) -> ByteRange | None:
    """Return what a header's text asks for; None when that is not one range."""
    found = _ONE.fullmatch(text)
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        last = int(found["last"])
        return ByteRange(start=-last, size=None) if last else ByteRange(start=1 << 99, size=None)
    first = int(found["first"])
    if not found["last"]:
        return ByteRange(start=first, size=None)
    last = int(found["last"])
    return ByteRange(start=first, size=last - first + 1) if last >= first else None
