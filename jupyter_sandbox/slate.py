"""The slate of one server: which executions are under way, in a small file that outlives the server.

An execution is written down when it is sent to its kernel, and wiped off when its end has gone to the client. What is
left on the slate when the server starts anew is what nobody was told the end of. One process at a time has a slate, so
it also says which of two servers with the same name may adopt. The file is not forced to the medium: it has to outlive
us, not the machine. Where it cannot be written, as on a full disk, it stays as it was, and is written anew with what is
under way when that next changes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards import ids
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_FILE: Final = 1 << 20
"""Bytes after which it is written anew, with what is under way only, which is half of that at most."""
_MAX_OPEN: Final = 4096
_MAX_LINE: Final = 4096
_MAX_ID: Final = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chalked:
    """An execution on the slate. Of a websocket: its session and the header of its request; else REST's words for it.

    `began`: whether it was sent to its kernel, and did not only wait for its turn. `ended`: over, and to be
    fetched. `told`: its end is in the event log, though it is not known.
    """

    id: str
    context_id: str
    session: str = ""
    header: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    sandbox_id: str = ""
    detached: bool = False
    accepted_at: str = ""
    timeout_s: float = 0
    began: bool = True
    ended: bool = False
    told: bool = False


class Slate:
    """See the module. `left`: what was under way when the server before this one ended."""

    def __init__(self, path: Path) -> None:
        """Take the slate at `path`; raises BlockingIOError when another server has it, OSError when there can be none.

        What is left stays on it until it is wiped off, also where nothing can be written.
        """
        with contextlib.ExitStack() as undo:
            self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path = path
            self._open = _read(path)
            self._sizes = {execution_id: len(_line(each)) for execution_id, each in self._open.items()}
            self._open_bytes = sum(self._sizes.values())
            self.left = tuple(self._open.values())
            self._file, self._size, self._is_told = -1, 0, False
            self._try(self._begin_anew)
            undo.pop_all()

    def write(self, execution: Chalked) -> None:
        """Write an execution down, before it is sent. When there are too many the oldest goes."""
        line = _line(execution)
        if len(line) <= _MAX_LINE and len(execution.id) <= _MAX_ID:
            self._forget(execution.id)
            while self._open and (len(self._open) >= _MAX_OPEN or self._open_bytes + len(line) > _MAX_FILE // 2):
                self.wipe(next(iter(self._open)))
            self._open[execution.id], self._sizes[execution.id] = execution, len(line)
            self._open_bytes += len(line)
            self._append(line)

    def has(self, execution_id: str) -> bool:
        """Whether an execution is on it."""
        return execution_id in self._open

    def under_way(self) -> list[Chalked]:
        """Return what is on it."""
        return list(self._open.values())

    def wipe(self, execution_id: str) -> None:
        """Wipe an execution off: its end was told. Quiet when it is not there."""
        if self._forget(execution_id):
            self._append(json.dumps(execution_id) + "\n")

    def close(self) -> None:
        """Let go of it; what is on it is left for the next server. Quiet when done twice."""
        self._stop_writing()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _stop_writing(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _forget(self, execution_id: str) -> bool:
        """Take an execution off the list, whether it was there."""
        self._open_bytes -= self._sizes.pop(execution_id, 0)
        return self._open.pop(execution_id, None) is not None

    def _append(self, line: str) -> None:
        if self._lock >= 0:
            self._try(self._begin_anew if self._file < 0 else functools.partial(self._go_on, line))

    def _try(self, write: Callable[[], None]) -> None:
        """Write, or stop until the next change; the name stays ours: what we hold is nobody else's to adopt."""
        try:
            write()
        except OSError as error:
            self._stop_writing()  # what it ends with may be half a line
            if not self._is_told:
                log.warning(
                    "the slate of this server cannot be written (%s), and its next start would not know what is under "
                    "way now: free disk space in Jupyter's runtime directory; it is tried again with each change",
                    error.strerror,
                )
            self._is_told = True
        else:
            if self._is_told and self._size:  # an empty one needs no room
                log.info("the slate of this server is written again")
                self._is_told = False

    def _go_on(self, line: str) -> None:
        self._size += _write(self._file, line)  # into the page cache: some microseconds
        if self._size > _MAX_FILE:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Write a new file with what is under way, and put it in the place of the old one."""
        fresh = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.ExitStack() as undo:
            file = os.open(fresh, flags, 0o600)
            undo.callback(_discard, fresh)
            undo.callback(os.close, file)
            self._size = _write(file, "".join(map(_line, self._open.values())))
            fresh.replace(self._path)
            undo.pop_all()
        self._stop_writing()
        self._file = file


def _write(file: int, text: str) -> int:
    """Return how many bytes were written; raises OSError when these are not all."""
    data = text.encode()
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return len(data)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _line(execution: Chalked) -> str:
    return json.dumps(vars(execution), separators=(",", ":")) + "\n"


def _read(path: Path) -> dict[str, Chalked]:
    """Return what is on a slate; lines that say nothing are skipped, and so is what is more than may be."""
    found: dict[str, Chalked] = {}
    try:
        with path.open("rb") as file:
            lines = file.read(2 * _MAX_FILE).splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        log.warning(
            "the slate of the server before this one cannot be read (%s): what it had under way is not known",
            error.strerror,
        )
        return found
    for line in lines:
        said = _decoded(line)
        if isinstance(said, str):
            found.pop(said, None)
        elif said is not None and len(found) < _MAX_OPEN:
            found[said.id] = said
    return found


def _decoded(line: bytes) -> Chalked | str | None:
    try:
        said: Any = json.loads(line)
        if isinstance(said, str):
            return said
        chalked = messages.build(Chalked, said) if isinstance(said, dict) else None
    except (ValueError, RecursionError):
        return None
    is_good = (
        isinstance(chalked, Chalked)
        and len(chalked.id) <= _MAX_ID
        and (not chalked.sandbox_id or ids.is_sandbox_id(chalked.sandbox_id))
    )
    return chalked if is_good and isinstance(chalked, Chalked) else None
