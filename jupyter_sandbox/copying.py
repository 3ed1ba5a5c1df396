"""Files and directories copied between this machine and a sandbox, whole or not at all.

A file gets its name when all of it is there. So does a directory that is new: it is filled beside its place, under a
name of the moment, and moved when nothing is missing. Where something is in the way nothing is merged or replaced but a
file by a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import (
    FileConflictError,
    FileRefusedError,
    FileTooLargeError,
    InvalidRequestError,
    UnknownFileError,
)
from jupyter_sandbox.files import BLOCK, MAX_PAGE
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import processes, tasks
from jupyter_sandbox.host.beneath import Kind
from jupyter_sandbox.terminal import Progress, size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jupyter_sandbox.files import Files
    from jupyter_sandbox.host.beneath import Entry

STANDARD: Final = "-"
MAX_TOLD: Final = 20
_MOMENT: Final = ".copying-"


async def entries(files: Files, sandbox: str, path: str) -> AsyncIterator[Entry]:
    """Yield all entries of a directory of a sandbox."""
    after: str | None = ""
    while after is not None:
        page = await files.listing(sandbox, path, after=after, limit=MAX_PAGE)
        for entry in page.entries:
            yield entry
        after = page.after


class Copy:
    """One copy. `passed_over` says what of it was left out, in words; after many only that there were more."""

    def __init__(self, files: Files, *, recursive: bool, max_bytes: int) -> None:
        """`max_bytes`: the most that comes out of a sandbox."""
        self._files = files
        self._recursive = recursive
        self._left = max_bytes
        self._progress = Progress(None)
        self.passed_over: list[str] = []

    # -- into a sandbox

    async def into(self, source: str, sandbox: str, path: str) -> None:
        """Copy what is at `source` on this machine, or standard input. Raises SandboxError, OSError."""
        if source == STANDARD:
            names = paths.entry(path)
            with Progress(None) as self._progress:
                await self._files.write(sandbox, "/".join(names), self._counted(_standard_input()))
            return
        origin = Path(source)
        is_directory = await asyncio.to_thread(origin.is_dir)
        if is_directory and not self._recursive:
            raise InvalidRequestError(f"{source} is a directory; copy it with -r")
        place = await self._place_inside(sandbox, path, origin)
        if is_directory:
            total = await asyncio.to_thread(_size, origin)
            with Progress(total) as self._progress:
                await self._directory_into(origin, sandbox, place)
            return
        status = await asyncio.to_thread(origin.stat)
        with Progress(status.st_size) as self._progress:
            await self._file_into(origin, sandbox, place)

    async def _place_inside(self, sandbox: str, path: str, origin: Path) -> str:
        names = paths.names(path)
        place = "/".join(names) or "."
        entry = await self._look(sandbox, place)
        if entry is not None and entry.kind is Kind.DIRECTORY:
            name = (await asyncio.to_thread(origin.resolve)).name
            return "/".join(paths.entry("/".join((*names, name)))) if name else place
        if path.endswith("/"):
            raise UnknownFileError(f"there is no directory {paths.text(names)!a} in sandbox {sandbox}")
        return place

    async def _look(self, sandbox: str, path: str) -> Entry | None:
        try:
            return await self._files.stat(sandbox, path)
        except UnknownFileError:
            return None

    async def _directory_into(self, origin: Path, sandbox: str, place: str) -> None:
        if await self._look(sandbox, place) is not None:
            raise FileConflictError(f"{place!a} exists in sandbox {sandbox}, and directories are not merged")
        draft = "/".join((*place.split("/")[:-1], f"{_MOMENT}{secrets.token_hex(8)}"))
        try:
            await self._files.make_directory(sandbox, draft)
            await self._fill(origin, sandbox, draft)
            await self._files.move(sandbox, draft, place)
        except BaseException:
            with contextlib.suppress(UnknownFileError):
                await tasks.whole(self._files.delete(sandbox, draft, recursive=True))
            raise

    async def _fill(self, origin: Path, sandbox: str, draft: str) -> None:
        for each in await asyncio.to_thread(lambda: sorted(origin.iterdir())):
            status = await asyncio.to_thread(each.lstat)
            inner = f"{draft}/{each.name}"
            if not paths.is_nameable(each.name):
                self._pass_over(str(each))
            elif stat.S_ISDIR(status.st_mode):
                await self._files.make_directory(sandbox, inner)
                await self._fill(each, sandbox, inner)
            elif stat.S_ISREG(status.st_mode):
                await self._file_into(each, sandbox, inner, os.O_NOFOLLOW)
            else:
                self._pass_over(str(each))

    async def _file_into(self, origin: Path, sandbox: str, place: str, flags: int = 0) -> None:
        """Copy a file. `flags`: os.O_NOFOLLOW where it was found and not named, so that it is no symlink by now."""
        descriptor = await asyncio.to_thread(os.open, origin, flags | os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileRefusedError(f"{origin} is no regular file; use - for standard input")
            await self._files.write(sandbox, place, self._counted(_blocks(descriptor)))
        finally:
            os.close(descriptor)

    async def _counted(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in content:
            yield block
            self._progress.add(len(block))

    # -- out of a sandbox

    async def out(self, sandbox: str, path: str, target: str) -> None:
        """Copy what is at `path` in a sandbox to this machine, or to standard output. Raises SandboxError, OSError."""
        place = "/".join(paths.names(path)) or "."
        entry = await self._files.stat(sandbox, place)
        if entry.kind is Kind.DIRECTORY:
            if not self._recursive or target == STANDARD:
                raise InvalidRequestError(f"{place!a} is a directory; copy it with -r, to a path")
            goal = await asyncio.to_thread(_goal, target, entry.name if place != "." else sandbox)
            with Progress(None) as self._progress:
                await self._directory_out(sandbox, place, goal)
            return
        with Progress(entry.size_bytes) as self._progress:
            if target == STANDARD:
                await self._pour(sandbox, place, sys.stdout.fileno())
                return
            goal = await asyncio.to_thread(_goal, target, entry.name)
            if await asyncio.to_thread(lambda: goal.exists() and not goal.is_file()):
                raise FileConflictError(f"{goal} is no regular file; use - for standard output")
            await self._file_out(sandbox, place, goal)

    async def _directory_out(self, sandbox: str, place: str, goal: Path) -> None:
        if await asyncio.to_thread(os.path.lexists, goal):
            raise FileConflictError(f"{goal} exists, and directories are not merged")
        async with contextlib.AsyncExitStack() as undo:
            making = asyncio.to_thread(tempfile.mkdtemp, dir=goal.parent, prefix=_MOMENT)
            draft = Path(await tasks.take(undo, making, functools.partial(shutil.rmtree, ignore_errors=True)))
            await self._empty(sandbox, place, draft)
            await tasks.whole(asyncio.to_thread(_publish, draft, goal, 0o777))

    async def _empty(self, sandbox: str, place: str, draft: Path) -> None:
        async for entry in entries(self._files, sandbox, place):
            inner = f"{place}/{entry.name}"
            if not entry.is_nameable:
                self._pass_over(inner)
            elif entry.kind is Kind.DIRECTORY:
                await asyncio.to_thread((draft / entry.name).mkdir)
                await self._empty(sandbox, inner, draft / entry.name)
            elif entry.kind is Kind.FILE:
                await self._file_out(sandbox, inner, draft / entry.name)
            else:
                self._pass_over(inner)

    async def _file_out(self, sandbox: str, place: str, goal: Path) -> None:
        async with contextlib.AsyncExitStack() as undo:
            making = asyncio.to_thread(tempfile.mkstemp, dir=goal.parent, prefix=_MOMENT)
            descriptor, name = await tasks.take(undo, making, _discard)
            await self._pour(sandbox, place, descriptor)
            await tasks.whole(asyncio.to_thread(_publish, Path(name), goal, 0o666))

    async def _pour(self, sandbox: str, place: str, descriptor: int) -> None:
        async with self._files.reading(sandbox, place) as reading:
            if reading.size > self._left:
                raise FileTooLargeError(f"{place!a} has {size(reading.size)}, and --max-mib allows less")
            self._left -= reading.size
            async for block in reading:
                await tasks.whole(asyncio.to_thread(_write, descriptor, block))
                self._progress.add(len(block))

    def _pass_over(self, what: str) -> None:
        if len(self.passed_over) < MAX_TOLD:
            self.passed_over.append(what)
        elif len(self.passed_over) == MAX_TOLD:
            self.passed_over.append("more like these")


# -- this machine


def _goal(target: str, name: str) -> Path:
    """Return where on this machine something called `name` goes. Raises SandboxError."""
    goal = Path(target).resolve()
    if goal.is_dir():
        goal /= name
    elif target.endswith("/") or not goal.parent.is_dir():
        raise InvalidRequestError(f"there is no directory for {target}")
    return goal


def _publish(draft: Path, goal: Path, mode: int) -> None:
    """Give a draft its name, and the permissions that any new file has."""
    mask = os.umask(0o077)
    os.umask(mask)
    draft.chmod(mode & ~mask)
    draft.replace(goal)


def _discard(draft: tuple[int, str]) -> None:
    descriptor, name = draft
    os.close(descriptor)
    Path(name).unlink(missing_ok=True)


def _size(origin: Path) -> int:
    """Return how many bytes the files of a directory have."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(origin) for name in names)


def _write(descriptor: int, block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[os.write(descriptor, left) :]


async def _blocks(descriptor: int) -> AsyncIterator[bytes]:
    while block := await tasks.whole(asyncio.to_thread(os.read, descriptor, BLOCK)):
        yield block


async def _standard_input() -> AsyncIterator[bytes]:
    """Yield what comes; a thread that waits for it could not be stopped, so the event loop does."""
    descriptor = sys.stdin.fileno()
    while True:
        with contextlib.suppress(PermissionError):  # of a file there is always something to read, epoll_ctl(2)
            await processes.readable(descriptor)
        block = await tasks.whole(asyncio.to_thread(os.read, descriptor, BLOCK))
        if not block:
            return
        yield block
