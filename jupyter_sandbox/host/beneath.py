"""Files of a sandbox, reached by the host below one directory descriptor, however much the sandbox moves them about.

Every function takes a `View` and names that `guards.paths` judged. Directories are opened by openat2(2), which neither
leaves the view nor follows a symlink, and what is in them is named by one plain name. Files that are read must be
regular ones: they are opened without waiting and judged by what was opened, never by what was looked at before.
A file is written where it has no name (O_TMPFILE, open(2)) and gets one when it is whole; so whatever ends half-way,
also by SIGKILL, leaves nothing. What replaces another file needs a name for the moment between two system calls;
that name is made from the target's and used again by the next writer.

Hard links are files like any other: a disk is one file system, so all names of a file are of the same sandbox.
All of it is blocking: call it in threads. Raises the errors of files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import os
import re
import stat as mode_bits
import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import (
    DiskFullError,
    FileChangedError,
    FileConflictError,
    FileRefusedError,
    SandboxError,
    UnknownFileError,
)
from jupyter_sandbox.guards import paths
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jupyter_sandbox.guards.paths import Names

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
PLACE: Final = os.O_PATH | os.O_DIRECTORY
_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755
_ATTEMPTS: Final = 16
_MOMENT: Final = re.compile(r"\.[0-9a-f]{16}\.upload")

_replacing = tuple(threading.Lock() for _ in range(64))
"""One is held for the two calls of a replacement: writers of one file in this process do not meet at the moment's name.

One for all would let a sandbox whose disk is slow keep others waiting.
"""

_ERRORS: Final[dict[int, tuple[type[SandboxError], str]]] = {
    errno.ENOENT: (UnknownFileError, "there is no {path} in sandbox {sandbox}"),
    errno.ENOTDIR: (FileConflictError, "{path} in sandbox {sandbox}: something on the way is no directory"),
    errno.EISDIR: (FileConflictError, "{path} in sandbox {sandbox} is a directory"),
    errno.EEXIST: (FileConflictError, "{path} exists in sandbox {sandbox}"),
    errno.ENOTEMPTY: (FileConflictError, "{path} in sandbox {sandbox} is a directory that is not empty"),
    errno.EINVAL: (FileConflictError, "{path} in sandbox {sandbox} cannot go below itself"),
    errno.EMLINK: (FileConflictError, "{path} in sandbox {sandbox}: the directory cannot hold more directories"),
    errno.ELOOP: (FileRefusedError, "{path} in sandbox {sandbox} leads through a symlink, and none is followed"),
    errno.EACCES: (FileRefusedError, "{path} in sandbox {sandbox}: its permissions do not allow this"),
    errno.EPERM: (FileRefusedError, "{path} in sandbox {sandbox}: its permissions do not allow this"),
    errno.ENXIO: (FileRefusedError, "{path} in sandbox {sandbox} is no regular file"),
    errno.ENODEV: (FileRefusedError, "{path} in sandbox {sandbox} is no regular file"),
    errno.EXDEV: (FileRefusedError, "{path} in sandbox {sandbox} is on another file system"),
    errno.EAGAIN: (FileChangedError, "{path} in sandbox {sandbox} is being changed from inside; try again"),
    errno.EBUSY: (FileChangedError, "{path} in sandbox {sandbox} is being changed from inside; try again"),
    errno.ESTALE: (FileChangedError, "{path} in sandbox {sandbox} is being changed from inside; try again"),
    errno.ENOSPC: (DiskFullError, "the disk of sandbox {sandbox} is full: {path} was not written; delete files there"),
    errno.EDQUOT: (DiskFullError, "the disk of sandbox {sandbox} is full: {path} was not written; delete files there"),
    errno.EFBIG: (DiskFullError, "the disk of sandbox {sandbox} takes no file so large: {path} was not written"),
}


class Kind(StrEnum):
    """What a name in a directory stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class View:
    """The host's view of a sandbox's disk: `directory` is its descriptor."""

    sandbox: str
    directory: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name in a directory. `mode` are its permission bits.

    `target`: where a symlink leads, in its sandbox's words, for people to read and nobody to follow; None when it is no
    symlink, or cannot be told. Not every name that a sandbox chose is text, or can be part of a path: `guards.paths`.
    """

    name: str
    is_nameable: bool
    kind: Kind
    size_bytes: int
    mode: int
    modified_ns: int
    target: str | None = None


def stat(view: View, names: Names) -> Entry:
    """Return what is at `names`; a symlink is told as one."""
    with told(view, names):
        if not names:
            return _entry("", os.fstat(view.directory))
        with parent(view, names) as place:
            return _entry_in(place, names[-1])


def entries(view: View, wanted: Mapping[str, Names]) -> dict[str, Entry]:
    """Return what is at each of the paths where something is, by what they are called."""
    found = {}
    for called, names in wanted.items():
        with contextlib.suppress(SandboxError):
            found[called] = stat(view, names)
    return found


def listing(view: View, names: Names, *, after: str, limit: int) -> tuple[list[Entry], str | None]:
    """Return at most `limit` entries of a directory whose names are greater than `after`, and the next `after`, if any.

    In the order of their names, so that pages fit together though names come and go; memory is that of one page.
    """
    with told(view, names), _opened(view, names, _DIRECTORY) as directory:
        with os.scandir(directory) as found:
            ahead = heapq.nsmallest(limit + 1, (entry.name for entry in found if entry.name > after))
        entries = []
        for name in ahead[:limit]:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                entries.append(_entry_in(directory, name))
        return entries, ahead[limit - 1] if len(ahead) > limit else None


def open_file(view: View, names: Names) -> tuple[int, Entry]:
    """Return a descriptor to read a regular file, and what it was when it was opened."""
    with told(view, names), contextlib.ExitStack() as undo:
        descriptor = _open(view, names, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        undo.callback(os.close, descriptor)
        status, top = os.fstat(descriptor), os.fstat(view.directory)
        if mode_bits.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "")
        if not mode_bits.S_ISREG(status.st_mode) or status.st_dev != top.st_dev:
            raise OSError(errno.ENXIO, "")
        undo.pop_all()
        return descriptor, _entry(names[-1], status)


def read(view: View, names: Names, descriptor: int, size: int, offset: int) -> bytes:
    """Return `size` bytes from `offset` of a file that `open_file` opened; FileChangedError when it became shorter."""
    with told(view, names):
        data = os.pread(descriptor, size, offset)
        while len(data) < size:
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                raise OSError(errno.ESTALE, "")
            data += more
        return data


def open_directory(view: View, names: Names) -> int:
    """Return a descriptor of a directory."""
    with told(view, names):
        return _open(view, names, _DIRECTORY)


def is_moment(name: str) -> bool:
    """Whether it looks like a name that a draft has for a moment, while it replaces a file."""
    return _MOMENT.fullmatch(name) is not None


class Draft:
    """A file that is being written and has no name yet. Nothing of it stays unless `publish` was called."""

    def __init__(self, view: View, names: Names) -> None:
        """Begin; what is at `names` must be a regular file, or nothing."""
        self._view, self._names = view, names
        with told(view, names), contextlib.ExitStack() as undo:
            self._place = _open(view, names[:-1], PLACE)
            undo.callback(os.close, self._place)
            mode = _FILE_MODE
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(names[-1], dir_fd=self._place, follow_symlinks=False).st_mode
                if mode_bits.S_ISDIR(there):
                    raise IsADirectoryError(errno.EISDIR, "")
                if not mode_bits.S_ISREG(there):
                    raise OSError(errno.ENXIO, "")
                mode = there & 0o777
            self._file = linux.open_beneath(self._place, ".", os.O_TMPFILE | os.O_WRONLY, mode)
            undo.pop_all()

    def write(self, data: bytes) -> None:
        """Append."""
        rest = memoryview(data)
        with told(self._view, self._names):
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def publish(self, *, replace: bool) -> Entry:
        """Give the file its name: at one moment the old file is there, at the next the new one, whole."""
        name = self._names[-1]
        with told(self._view, self._names):
            try:
                self._link(name)
            except FileExistsError:
                if not replace:
                    raise
                place = os.fstat(self._place)
                with _replacing[hash((place.st_dev, place.st_ino, name)) % len(_replacing)]:
                    self._replace(name)
            return _entry(name, os.fstat(self._file))

    def close(self) -> None:
        """End; without `publish` all of it is gone."""
        os.close(self._file)
        os.close(self._place)

    def _link(self, name: str) -> None:
        os.link(f"/proc/self/fd/{self._file}", name, dst_dir_fd=self._place, follow_symlinks=True)

    def _replace(self, name: str) -> None:
        moment = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.upload"
        for _ in range(_ATTEMPTS):
            try:
                self._link(moment)
                os.rename(moment, name, src_dir_fd=self._place, dst_dir_fd=self._place)
                return
            except FileExistsError:  # of a writer that was killed just there, or another one's
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(moment, dir_fd=self._place)
            except FileNotFoundError:  # another writer took it away, or the directory is gone
                if os.fstat(self._place).st_nlink == 0:
                    raise
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(moment, dir_fd=self._place)
                raise
        raise BlockingIOError(errno.EAGAIN, "")


def make_directory(view: View, names: Names, *, parents: bool) -> bool:
    """Make a directory, with `parents` all that are missing on the way; return whether it was new."""
    with told(view, names), contextlib.ExitStack() as undo:
        first = 0 if parents else len(names) - 1
        place = _open(view, names[:first], PLACE)
        undo.callback(os.close, place)
        is_new = False
        for name in names[first:]:
            try:
                os.mkdir(name, _DIRECTORY_MODE, dir_fd=place)
                is_new = True
            except FileExistsError:
                is_new = False
            place = linux.open_beneath(place, name, PLACE)
            undo.callback(os.close, place)
        return is_new


def move(view: View, source: Names, target: Names, *, replace: bool) -> None:
    """Give something another name; what it is does not matter, and nothing is followed."""
    with told(view, source), parent(view, source) as old:
        os.stat(source[-1], dir_fd=old, follow_symlinks=False)
        with told(view, target), parent(view, target) as new:
            linux.rename(old, source[-1], new, target[-1], 0 if replace else linux.RENAME_NOREPLACE)


def _open(view: View, names: Names, flags: int) -> int:
    path = "/".join(names) or "."
    return linux.open_beneath(view.directory, path, flags, resolve=linux.RESOLVE_NO_XDEV)


@contextlib.contextmanager
def _opened(view: View, names: Names, flags: int) -> Iterator[int]:
    descriptor = _open(view, names, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def parent(view: View, names: Names) -> contextlib.AbstractContextManager[int]:
    """Hold the directory that `names[-1]` is in."""
    return _opened(view, names[:-1], PLACE)


def _entry_in(directory: int, name: str) -> Entry:
    entry = _entry(name, os.stat(name, dir_fd=directory, follow_symlinks=False))
    if entry.kind is Kind.SYMLINK:
        with contextlib.suppress(OSError):  # it is something else by now
            target = os.readlink(name, dir_fd=directory)
            return replace(entry, target=target if paths.is_tellable(target) else None)
    return entry


def _entry(name: str, status: os.stat_result) -> Entry:
    kinds = ((mode_bits.S_ISREG, Kind.FILE), (mode_bits.S_ISDIR, Kind.DIRECTORY), (mode_bits.S_ISLNK, Kind.SYMLINK))
    kind = next((kind for judge, kind in kinds if judge(status.st_mode)), Kind.OTHER)
    return Entry(
        name=name,
        is_nameable=paths.is_nameable(name),
        kind=kind,
        size_bytes=status.st_size,
        mode=mode_bits.S_IMODE(status.st_mode) & 0o777,
        modified_ns=status.st_mtime_ns,
    )


@contextlib.contextmanager
def told(view: View, names: Names) -> Iterator[None]:
    """Say what an error number means for a person who knows sandboxes and paths in them."""
    try:
        yield
    except OSError as error:
        kind, text = _ERRORS.get(error.errno or 0, (SandboxError, "{path} in sandbox {sandbox}: {reason}"))
        path = ascii(paths.text(names))[1:-1]
        raise kind(text.format(path=path, sandbox=view.sandbox, reason=os.strerror(error.errno or 0))) from error
