"""How deep JSON is, how many values it has and how many hard numbers: judged from its text before it is read. Pure."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 100
"""JSON in JSON. Python gives up at about 1 000, other clients earlier; a Vega chart has 20."""
MAX_CONTAINERS: Final = 1 << 16
MAX_VALUES: Final = 1 << 19
"""Objects and arrays, and values. 8 MiB of `[],[],...` cost 180 MB and stop the server for 1.3 s; with these bounds any
8 MiB are read in about 0.2 s, as are 8 MiB of ordinary numbers."""
MAX_EXTREME_NUMBERS: Final = 1 << 17
"""Numbers with an exponent of three digits. Each costs three ordinary ones to read, and again to write; the tails of a
distribution have some."""
MAX_LONG_RUNS: Final = 1 << 11
_LONG_RUN: Final = b"0" * 1024
"""So many digits in a row, again and again: an integer costs the square of its digits to read, and more to write."""
_PIECE: Final = 1 << 18
"""What has too much of everything is known for it before all of it was looked through."""

_FEW: Final = 64
"""As often as this a byte is found in less time than it is counted."""
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))
_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789E-", b"000000000e+")
_EXTREME: Final = (b"e000", b"e+000")
_LARGE: Final = (*_EXTREME, b"0" * 200)


def is_bounded(data: bytes) -> bool:
    """Whether JSON is within the bounds; of what is no JSON that is said of any part that a reader would read.

    Finding is faster than counting, and counting than reading, so most end at the first if. Text in strings is only
    ever counted too much: then the strings are taken out. They end where a reader ends them, in any part that it reads
    up to its first error.
    """
    has_few_containers = not (_has_more(data, b"[", MAX_DEPTH // 2) or _has_more(data, b"{", MAX_DEPTH // 2))
    if has_few_containers and not _has_more(data, b",", _FEW):
        return True
    has_few_values = has_few_containers and data.count(b",") <= MAX_VALUES
    return (has_few_values or _has_bounded_structure(data)) and _has_bounded_numbers(data)


def _has_bounded_structure(data: bytes) -> bool:
    data = _without_escapes(data)
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


def _has_bounded_numbers(data: bytes) -> bool:
    alike = data.translate(_DIGITS_ALIKE)
    if _extreme_numbers(alike) <= MAX_EXTREME_NUMBERS and alike.count(_LONG_RUN) <= MAX_LONG_RUNS:
        return True
    alike = _without_escapes(alike)
    extreme = long_runs = quotes = 0
    for at in range(0, len(alike), _PIECE):
        parts = alike[at : at + _PIECE].split(b'"')
        bare = b'"'.join(parts[quotes % 2 :: 2])
        quotes += len(parts) - 1
        extreme += _extreme_numbers(bare)
        long_runs += bare.count(_LONG_RUN)
        # a value may be a text and have a name, which are four quotes
        if extreme > MAX_EXTREME_NUMBERS or long_runs > MAX_LONG_RUNS or quotes > 5 * MAX_VALUES:
            return False
    return True


def may_be_infinite(data: bytes) -> bool:
    """Whether a number of JSON could be beyond what a float holds, 1.8e308: it or its exponent is long enough.

    Of few values it is said unseen: there looking takes longer than reading them with care.
    """
    if not _has_more(data, b",", _FEW):
        return True
    alike = data.translate(_DIGITS_ALIKE)
    return any(large in alike for large in _LARGE)


def _extreme_numbers(alike: bytes) -> int:
    return sum(map(alike.count, _EXTREME))


def _without_escapes(data: bytes) -> bytes:
    """Return JSON in which every quote begins or ends a text."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data


def _has_more(data: bytes, byte: bytes, most: int) -> bool:
    """Whether a byte is there more than `most` times. Looks no further than it must, and fast where there are few."""
    at = -1
    for _ in range(most + 1):
        at = data.find(byte, at + 1)
        if at < 0:
            return False
    return True
