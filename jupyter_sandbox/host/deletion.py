"""Delete trees of a sandbox from the host, of any depth and size, while the sandbox may work against it.

No path is walked: what lies deep in the tree is moved up to its top, so that two descriptors are enough, and every name
is taken by a call that follows nothing. Permissions that the sandbox took from its own directories are given back.
Blocking, in bounded steps. Sources: unlink(2), rmdir(2), renameat2(2).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host.beneath import PLACE, parent, told
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.host.beneath import View

STEP: Final = 500
"""Names that one step takes at most, about."""
MAX_NAMES: Final = 2_000_000
"""Names that one deletion takes at most: a sandbox may make new ones as fast as they go."""
_LATER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.ENOSPC, errno.EDQUOT})
"""What may be otherwise at the next look: the sandbox put something else there, or there is no room yet to move up."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


def deletion(view: View, names: Names, *, recursive: bool) -> Generator[None, None, None]:
    """Delete what is at `names` while it is iterated. Raises the errors of files; the tree is then there in part."""
    with told(view, names), parent(view, names) as place:
        name = names[-1]
        if not stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=place)
            return
        if _is_gone(place, name):
            return
        if not recursive:
            raise OSError(errno.ENOTEMPTY, "")
        top = _opened(place, name)
        try:
            yield from _emptied(top)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=place)


def _emptied(top: int) -> Iterator[None]:
    taken = 0
    while batch := _some_names(top):
        for name in batch:
            for _ in _lifted(top, name):
                taken += 1
                if taken > MAX_NAMES:
                    raise OSError(errno.EBUSY, "")
                if taken % STEP == 0:
                    yield


def _lifted(top: int, name: str) -> Iterator[None]:
    """Take `name` from `top`: at once, or having moved up what is in it. Yields once for each name."""
    yield
    if _is_gone(top, name):
        return
    try:
        inner = _opened(top, name)
    except OSError as error:
        if error.errno not in _LATER:
            raise
        return
    try:
        for child in _some_names(inner):
            yield
            if not _is_gone(inner, child):
                _move_up(inner, child, top)
    finally:
        os.close(inner)
    _is_gone(top, name)


def _move_up(inner: int, name: str, top: int) -> None:
    try:
        os.close(_opened(inner, name))  # to write a new `..` into it, it must be ours
        linux.rename(inner, name, top, f".{os.urandom(12).hex()}", linux.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _LATER:
            raise


def _is_gone(place: int, name: str) -> bool:
    """Delete a name, unless it is a directory that is not empty; return whether it is gone."""
    try:
        try:
            os.unlink(name, dir_fd=place)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=place)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _opened(place: int, name: str) -> int:
    """Open a directory to empty it; its permissions are its owner's to give back, and so ours."""
    found = linux.open_beneath(place, name, PLACE)
    try:
        if os.fstat(found).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{found}", 0o700)  # fchmod(2) does not take O_PATH
        return linux.open_beneath(found, ".", _DIRECTORY)
    finally:
        os.close(found)


def _some_names(directory: int) -> list[str]:
    with os.scandir(directory) as found:
        return [entry.name for entry, _ in zip(found, range(STEP), strict=False)]
