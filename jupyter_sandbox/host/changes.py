"""What happens in a directory of a sandbox, as the kernel tells it, put together so that it stays little.

The kernel's queue is the only one there is, and it is bounded: who reads slowly, or whose sandbox does very much, is
told that changes were lost, and looks at the directory again. Sources: inotify(7).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host import beneath
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.host.beneath import View

READ_BYTES: Final = 64 * 1024
_HEAD: Final = struct.Struct("iIII")
_CREATED: Final = linux.IN_CREATE | linux.IN_MOVED_TO
_DELETED: Final = linux.IN_DELETE | linux.IN_MOVED_FROM
_CHANGED: Final = linux.IN_MODIFY | linux.IN_ATTRIB
_AWAY: Final = linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
_MASK: Final = _CREATED | _DELETED | _CHANGED | _AWAY | linux.IN_ONLYDIR | linux.IN_EXCL_UNLINK


class What(StrEnum):
    """What happened to a name; CREATED also when another file took its place. LOST: more than could be told.

    ALTERED, its permissions or times, and MOVED, to another name or away, are told by `separately` only.
    """

    CREATED = "created"
    CHANGED = "changed"
    ALTERED = "altered"
    DELETED = "deleted"
    MOVED = "moved"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One name, and what became of it; a move is a deletion and a creation."""

    what: What
    name: str


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What one read of the kernel's queue told."""

    changes: tuple[Change, ...]
    is_gone: bool
    """The directory was deleted or moved."""
    is_unmounted: bool
    """The whole disk is gone."""


def start(view: View, names: Names) -> int:
    """Return a descriptor to read changes from, which keeps neither view nor disk alive. Raises as `beneath` does."""
    directory = beneath.open_directory(view, names)
    try:
        with beneath.told(view, names):
            return linux.inotify(f"/proc/self/fd/{directory}", _MASK)
    finally:
        os.close(directory)


def together(data: bytes) -> Changes:
    """Put together what the kernel said: each name once, in the order of their first change. Pure."""
    found: dict[str, What] = {}
    seen = 0
    for mask, name in _events(data):
        seen |= mask
        before = found.get(name)
        if mask & linux.IN_Q_OVERFLOW:
            found[""] = What.LOST
        elif not name:
            continue
        elif mask & _DELETED and before is What.CREATED:
            del found[name]  # it came and went
        elif mask & _DELETED:
            found[name] = What.DELETED
        elif mask & _CREATED:
            found[name] = What.CHANGED if before is What.DELETED else What.CREATED
        elif mask & _CHANGED:
            found[name] = before or What.CHANGED
    return _changes([Change(what=what, name=name) for name, what in found.items()], seen)


def separately(data: bytes) -> Changes:
    """Tell what the kernel said in its order, the same of a name not twice in a row. Pure.

    A new file is told as changed, too: the kernel does not say with what it was made. The name that a draft has for a
    moment, while it takes the place of another file, is not told.
    """
    found: list[Change] = []
    last: dict[str, What] = {}
    seen = 0
    for mask, name in _events(data):
        seen |= mask
        if mask & linux.IN_Q_OVERFLOW:
            name = ""
        elif not name or beneath.is_moment(name):
            continue
        for what in _told(mask):
            if last.get(name) is not what:
                last[name] = what
                found.append(Change(what=what, name=name))
    return _changes(found, seen)


def _told(mask: int) -> tuple[What, ...]:
    if mask & linux.IN_Q_OVERFLOW:
        return (What.LOST,)
    if mask & _CREATED:
        return (What.CREATED,) if mask & linux.IN_ISDIR else (What.CREATED, What.CHANGED)
    kinds = {
        linux.IN_MODIFY: What.CHANGED,
        linux.IN_ATTRIB: What.ALTERED,
        linux.IN_DELETE: What.DELETED,
        linux.IN_MOVED_FROM: What.MOVED,
    }
    return tuple(what for bit, what in kinds.items() if mask & bit)


def _changes(found: list[Change], seen: int) -> Changes:
    return Changes(changes=tuple(found), is_gone=bool(seen & _AWAY), is_unmounted=bool(seen & linux.IN_UNMOUNT))


def _events(data: bytes) -> Iterator[tuple[int, str]]:
    offset = 0
    while offset + _HEAD.size <= len(data):
        _, mask, _, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        yield mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
        offset += length
