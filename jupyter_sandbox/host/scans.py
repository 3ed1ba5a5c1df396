"""Directories of a sandbox are looked into and watched, one or a whole tree, however it is changed meanwhile.

Each is opened below the watched one, no link is followed, and the disk is not left. Work is bounded: of a tree so many
directories, so deep, and so many names at a time; what is more is a problem that is told. All of it is blocking: call
it in threads. Sources: inotify(7), openat2(2).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import CapacityError, SandboxError
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import beneath, changes
from jupyter_sandbox.host.trees import TOP, Found, Tree
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.host.beneath import View
    from jupyter_sandbox.host.changes import Happening

MAX_DIRECTORIES: Final = 1024
MAX_DEPTH: Final = 32
MAX_NEW_NAMES: Final = 4096
"""What is looked at of new directories at once; more is told as lost."""
MAX_NAMES: Final = 100_000
"""What is looked at of a whole tree."""
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV})
"""What became of a directory that somebody took away meanwhile, with something else in its place or not."""
_KERNELS: Final = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What inotify answers to a user who watches too much."""


def start(view: View, names: Names, *, is_deep: bool) -> tuple[int, Tree]:
    """Return a descriptor to read changes from, which keeps neither view nor disk alive, and what it tells of.

    Raises as `beneath` does, and CapacityError.
    """
    with _told(view, names):
        descriptor = linux.inotify()
    try:
        found = _looked(view, names, descriptor, (TOP,) if is_deep else (), _Bounds(MAX_DIRECTORIES, MAX_NAMES))
        if found.problem is not None:
            raise found.problem
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, Tree(found, is_deep=is_deep)


def look_into(view: View, names: Names, descriptor: int, new: Iterable[str], *, room: int) -> Found:
    """Watch new directories and all below them, `room` at most; tell their names. Raises as `beneath` does."""
    return _looked(view, names, descriptor, new, _Bounds(room, MAX_NEW_NAMES), is_news=True)


def look_anew(view: View, names: Names, descriptor: int) -> Found:
    """Watch what is there of the whole tree. Raises as `beneath` does."""
    return _looked(view, names, descriptor, (TOP,), _Bounds(MAX_DIRECTORIES, MAX_NAMES))


class _Bounds:
    """How much more one look may take."""

    def __init__(self, directories: int, names: int) -> None:
        self._directories, self._names = directories, names

    def take_directory(self, path: str) -> None:
        """Count one; raises CapacityError."""
        self._directories -= 1
        if self._directories < 0:
            raise CapacityError(f"of a tree at most {MAX_DIRECTORIES} directories are watched; watch a part of it")
        if path.count("/") >= MAX_DEPTH or len(os.fsencode(path)) > paths.MAX_PATH_BYTES:
            raise CapacityError(f"a tree is watched to a depth of {MAX_DEPTH}; watch a part of it")

    def take_name(self) -> None:
        """Count one; raises CapacityError."""
        self._names -= 1
        if self._names < 0:
            raise CapacityError(f"of a tree at most {MAX_NAMES} names are looked at; watch a part of it")


def _looked(
    view: View, names: Names, descriptor: int, starts: Iterable[str], bounds: _Bounds, *, is_news: bool = False
) -> Found:
    top = beneath.open_directory(view, names)
    try:
        with _told(view, names):
            found = Found(top=_watch(descriptor, top))
        waiting = collections.deque(starts)
        seen: set[str] = set()
        try:
            while waiting:
                path = waiting.popleft()
                if path in seen:
                    continue
                seen.add(path)
                with _told(view, (*names, path)):
                    for mask, below in _watched(descriptor, top, path, bounds, found):
                        if mask & linux.IN_ISDIR:
                            waiting.append(below)
                        if is_news:
                            found.names.append((mask, below))
        except SandboxError as problem:
            found.problem = problem
        return found
    finally:
        os.close(top)


def _watched(descriptor: int, top: int, path: str, bounds: _Bounds, found: Found) -> Iterator[Happening]:
    """Watch a directory, and then yield what is in it: so nothing is missed. Quiet when it is there no more."""
    with _opened(top, path) as directory:
        if directory is None:
            return
        bounds.take_directory(path)
        found.watched[_watch(descriptor, directory)] = path
        with os.scandir(directory) as entries:
            for entry in entries:
                bounds.take_name()
                if not beneath.is_moment(entry.name):
                    mask = linux.IN_CREATE | (linux.IN_ISDIR if entry.is_dir(follow_symlinks=False) else 0)
                    yield mask, f"{path}/{entry.name}" if path else entry.name


def _watch(descriptor: int, directory: int) -> int:
    return linux.add_watch(descriptor, f"/proc/self/fd/{directory}", changes.MASK)


@contextlib.contextmanager
def _opened(top: int, path: str) -> Iterator[int | None]:
    """Hold a directory below the watched one; None when it is there no more."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
    try:
        directory = linux.open_beneath(top, path or ".", flags, resolve=linux.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def _told(view: View, names: Names) -> Iterator[None]:
    """Say what an error number means, the kernel's own bounds of watches included."""
    with beneath.told(view, names):
        try:
            yield
        except OSError as error:
            if error.errno in _KERNELS:
                text = "the kernel watches no more directories for this user (fs.inotify, /proc/sys); try again later"
                raise CapacityError(text, retry_after_s=10) from error
            raise
