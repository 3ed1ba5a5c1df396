"""The directories of one watch: which one each of the kernel's numbers stands for, whatever the sandbox moves about.

Pure: it is told what was read and what was found, and says what is to be looked at next. What is in a directory that
has just come may have come before the kernel was asked to tell of it, so new directories are looked into, and names
found there count as created. Sources: inotify(7).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host import changes
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.host.changes import Happening

READ_BYTES: Final = 64 * 1024
TOP: Final = ""
"""The path of the watched directory itself."""
_HEAD: Final = struct.Struct("iIII")
_LONGEST: Final = _HEAD.size + 256
_MAX_TOLD: Final = 16_384
"""No more events wait in the kernel's queue, inotify(7)."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one read told: what happened, which new directories are to be looked into, which numbers are given back.

    `is_lost`: some was not told, so the whole tree is to be looked at anew.
    """

    happened: list[Happening]
    new: tuple[str, ...]
    left: tuple[int, ...]
    is_lost: bool


@dataclass(kw_only=True)
class Found:
    """What a look at directories found.

    `top`: the number of the watched directory; `watched`: directories by number; `names` that are in them; `problem`:
    why there may be more.
    """

    top: int
    watched: dict[int, str] = field(default_factory=dict)
    names: list[Happening] = field(default_factory=list)
    problem: SandboxError | None = None


class Tree:
    """Those of one watch. `is_deep`: also those below the watched one."""

    def __init__(self, found: Found, *, is_deep: bool) -> None:
        """Begin with what was found."""
        self._is_deep, self._top = is_deep, found.top
        self._leaving: set[int] = set()
        self._told: set[str] = set()
        self._replace(found.watched)

    @property
    def top(self) -> int:
        """The number of the watched directory."""
        return self._top

    def __len__(self) -> int:
        """Return how many directories are watched."""
        return len(self._paths)

    def hear(self, data: bytes) -> Heard:
        """Understand what was read."""
        happened: list[Happening] = []
        new: dict[str, None] = {}
        left: list[int] = []
        is_lost = False
        for number, mask, name in _events(data):
            if mask & linux.IN_Q_OVERFLOW:
                is_lost = True
                self._leaving.clear()  # what they wait for may be among what was lost
                happened.append((mask, TOP))
            elif number in self._leaving:
                if mask & linux.IN_IGNORED:
                    self._leaving.discard(number)  # from now on the kernel may give it to another directory
            elif (place := self._paths.get(number)) is None:
                continue
            elif name:
                path = f"{place}/{name}" if place else name
                if self._is_deep and mask & linux.IN_ISDIR and mask & (changes.CREATED | changes.DELETED):
                    self._follow(mask, path, new, left)
                happened.append((self._untold(mask, path), path))
            elif number == self._top or mask & linux.IN_UNMOUNT:
                happened.append((mask, TOP))
            elif mask & linux.IN_IGNORED:
                self._drop(place, number)
        if len(data) <= READ_BYTES - _LONGEST:
            self._told.clear()  # all that was in the queue when these were found has been heard
        known = tuple(path for path in new if path.rpartition("/")[0] in self._numbers)
        return Heard(happened=happened, new=known, left=tuple(left), is_lost=is_lost and self._is_deep)

    def add(self, found: Found) -> list[Happening]:
        """Take in what was found in new directories; return what happened, so far as it was not told before."""
        for number, path in found.watched.items():
            self._set(number, path)
        fresh = [(mask, path) for mask, path in found.names if path not in self._told]
        if len(self._told) + len(fresh) > _MAX_TOLD:
            self._told.clear()
        self._told.update(path for _, path in fresh)
        return fresh

    def renew(self, found: Found) -> tuple[int, ...]:
        """Put what was found in the place of all that was known; return the numbers that are given back."""
        left = tuple(number for number in self._paths if number not in found.watched and number != self._top)
        self._leaving.update(left)
        self._told.clear()
        self._replace(found.watched)
        return left

    def _replace(self, watched: Mapping[int, str]) -> None:
        self._paths: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}
        for number, path in {self._top: TOP, **watched}.items():
            self._set(number, path)

    def _set(self, number: int, path: str) -> None:
        """Let a number stand for a directory, whatever it stood for."""
        if (before := self._paths.get(number)) is not None:
            self._drop(before, number)
        if (other := self._numbers.get(path)) is not None:
            self._drop(path, other)
        self._paths[number], self._numbers[path] = path, number
        if path != TOP:
            self._below.setdefault(path.rpartition("/")[0], set()).add(path)

    def _drop(self, path: str, number: int) -> None:
        del self._paths[number]
        self._numbers.pop(path, None)
        parent = path.rpartition("/")[0]
        if siblings := self._below.get(parent):
            siblings.discard(path)
            if not siblings:
                del self._below[parent]

    def _untold(self, mask: int, path: str) -> int:
        """Return what is still to be told of a name, which may have been found before the kernel told that it came."""
        if path in self._told and mask & (changes.CREATED | changes.DELETED):
            self._told.discard(path)
            if mask & changes.CREATED:
                return linux.IN_ISDIR if mask & linux.IN_ISDIR else linux.IN_MODIFY
        return mask

    def _follow(self, mask: int, path: str, new: dict[str, None], left: list[int]) -> None:
        """Keep up with a directory that came or went."""
        if mask & linux.IN_CREATE and path in self._told:
            return  # it was looked into when it was found
        if not mask & linux.IN_CREATE:
            self._told.clear()  # the same names below it may be others next time
        new.pop(path, None)
        self._forget(path, left)
        if mask & changes.CREATED:
            new[path] = None

    def _forget(self, path: str, left: list[int]) -> None:
        """Forget a directory and all below it: under which names they are now is not known."""
        waiting = [path]
        while waiting:
            each = waiting.pop()
            waiting += self._below.pop(each, ())
            if (number := self._numbers.get(each)) is not None:
                self._drop(each, number)
                self._leaving.add(number)
                left.append(number)


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    offset = 0
    while offset + _HEAD.size <= len(data):
        number, mask, _, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        yield number, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
        offset += length
