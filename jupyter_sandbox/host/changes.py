"""What happens in a directory of a sandbox, as the kernel tells it, put together so that it stays little.

The kernel's queue is the only one there is, and it is bounded: who reads slowly, or whose sandbox does very much, is
told that changes were lost, and looks at the directory again. Sources: inotify(7).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host import beneath
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Happening = tuple[int, str]
"""What the kernel said, as a mask of inotify(7), and of which name: a path relative to what is watched."""
MORE: Final[Happening] = (linux.IN_Q_OVERFLOW, "")
"""More than could be told."""
CREATED: Final = linux.IN_CREATE | linux.IN_MOVED_TO
DELETED: Final = linux.IN_DELETE | linux.IN_MOVED_FROM
AWAY: Final = linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
MASK: Final = CREATED | DELETED | linux.IN_MODIFY | linux.IN_ATTRIB | AWAY | linux.IN_ONLYDIR | linux.IN_EXCL_UNLINK
_CHANGED: Final = linux.IN_MODIFY | linux.IN_ATTRIB


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


STAYING: Final = frozenset({What.CREATED, What.CHANGED, What.ALTERED})
"""After which something is at the name."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One name, and what became of it; a move is a deletion and a creation."""

    what: What
    name: str


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What one read of the kernel's queue told. The names are paths relative to what is watched."""

    changes: tuple[Change, ...]
    is_gone: bool
    """The directory was deleted or moved."""
    is_unmounted: bool
    """The whole disk is gone."""


def together(happened: Iterable[Happening]) -> Changes:
    """Put together what the kernel said: each name once, in the order in which they came, went or changed. Pure.

    What came or changed in a directory that then went is not told: it may be elsewhere, and is looked for there. A
    directory that went is told as created if something came in its place, and then so is what is in it.
    """
    found: dict[str, What] = {}
    seen = 0
    last: dict[str, int] = {}
    new: set[str] = set()
    went: dict[str, int] = {}
    for number, (mask, name) in enumerate(happened):
        seen |= mask
        if mask & linux.IN_Q_OVERFLOW:
            found[""] = What.LOST
        elif name:
            if mask & linux.IN_CREATE and name not in last:
                new.add(name)
            last[name] = number
            if mask & DELETED:
                found.pop(name, None)
                if name not in new:  # else it came and went
                    found[name] = What.DELETED
                if mask & linux.IN_ISDIR:
                    went[name] = number
            elif mask & CREATED:
                is_file = not mask & linux.IN_ISDIR and name not in went
                found[name] = What.CHANGED if found.pop(name, None) is What.DELETED and is_file else What.CREATED
            elif mask & _CHANGED:
                found.setdefault(name, What.CHANGED)
    return _changes(
        [
            Change(what=what, name=name)
            for name, what in found.items()
            if what is What.DELETED or not any(went.get(above, -1) > last.get(name, 0) for above in _above(name))
        ],
        seen,
    )


def separately(happened: Iterable[Happening]) -> Changes:
    """Tell what the kernel said in its order, the same of a name not twice in a row. Pure.

    A new file is told as changed, too: the kernel does not say with what it was made. The name that a draft has for a
    moment, while it takes the place of another file, is not told.
    """
    found: list[Change] = []
    last: dict[str, What] = {}
    seen = 0
    for mask, name in happened:
        seen |= mask
        if mask & linux.IN_Q_OVERFLOW:
            name = ""
        elif not name or beneath.is_moment(name.rpartition("/")[2]):
            continue
        if mask & DELETED and mask & linux.IN_ISDIR:
            last.clear()  # the same name below another directory is another thing
        for what in _told(mask):
            if last.get(name) is not what:
                last[name] = what
                found.append(Change(what=what, name=name))
    return _changes(found, seen)


def _above(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _told(mask: int) -> tuple[What, ...]:
    if mask & linux.IN_Q_OVERFLOW:
        return (What.LOST,)
    if mask & CREATED:
        return (What.CREATED,) if mask & linux.IN_ISDIR else (What.CREATED, What.CHANGED)
    kinds = {
        linux.IN_MODIFY: What.CHANGED,
        linux.IN_ATTRIB: What.ALTERED,
        linux.IN_DELETE: What.DELETED,
        linux.IN_MOVED_FROM: What.MOVED,
    }
    return tuple(what for bit, what in kinds.items() if mask & bit)


def _changes(found: list[Change], seen: int) -> Changes:
    return Changes(changes=tuple(found), is_gone=bool(seen & AWAY), is_unmounted=bool(seen & linux.IN_UNMOUNT))
