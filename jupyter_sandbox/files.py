"""The files of sandboxes, for whoever serves them: list, look, read, write, make directories, move, delete.

It knows sandboxes, paths and bytes; it does not know HTTP, users or tokens. The broker hands out a view of a
sandbox's disk for one operation and never sees names or bytes; what may be done with it is done by `host.beneath`.
Bytes come and go in blocks of bounded size, from and to threads, so neither memory nor the event loop notices how
large a file is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeAlias, TypeVar

from traitlets import Int
from traitlets.config import Configurable

from jupyter_sandbox import events, owners, request_ids
from jupyter_sandbox.broker import client
from jupyter_sandbox.errors import FileRangeError, FileTooLargeError, InvalidRequestError
from jupyter_sandbox.events import Direction, FileDeleted, FileMoved, FileTransferred
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import beneath, tasks
from jupyter_sandbox.host.beneath import Entry, View
from jupyter_sandbox.host.deletion import deletion

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Iterator,
    )
    from contextlib import AbstractContextManager

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.guards.paths import Names

Publish: TypeAlias = "Callable[[], Awaitable[Entry]]"
"""Gives a file its name and returns what is there then. Call it once."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

MAX_PAGE: Final = 1000
BLOCK: Final = 1 << 20

# Their own: while a disk is slow, what else of the server needs threads goes on.
_threads = concurrent.futures.ThreadPoolExecutor(16, "files")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some entries of a directory, in the order of their names; `after` begins the next page, None after the last."""

    entries: tuple[Entry, ...]
    after: str | None


@contextlib.contextmanager
def _uncounted(_sandbox: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class Reading:
    """A file that is open, and the `size` bytes from `start` that were asked for. Iterate it once."""

    def __init__(self, view: View, names: Names, descriptor: int, entry: Entry, start: int, size: int) -> None:
        """Use `Files.reading`."""
        self._view, self._names, self._descriptor = view, names, descriptor
        self.entry = entry
        self.start = start
        self.size = size
        self.taken = 0
        """How many bytes were read."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield blocks of `BLOCK` bytes at most; FileChangedError when the file has become shorter."""
        end = self.start + self.size
        for offset in range(self.start, end, BLOCK):
            part = min(BLOCK, end - offset)
            block = await whole(beneath.read, self._view, self._names, self._descriptor, part, offset)
            self.taken += len(block)
            yield block


class Files(Configurable):
    """The files of every sandbox that this process may use. Paths are a client's texts, judged here."""

    max_file_mib = Int(
        2048, min=1, help="The largest file that may be written or brought from a URL at once, MiB. A disk is smaller."
    ).tag(config=True)

    def __init__(
        self,
        open_disk: Callable[[str], Awaitable[int]] = client.open_disk,
        writing: Callable[[str], AbstractContextManager[Callable[[int], None]]] = _uncounted,
        *,
        emit: Emit = events.ignore,
        **kwargs: object,
    ) -> None:
        """`open_disk` returns a new descriptor of a sandbox's view; see `broker.client`.

        `writing` is held while a file of a sandbox is written: it yields what hears how many bytes come and may refuse.
        """
        super().__init__(**kwargs)
        self._open_disk, self._writing, self._emit = open_disk, writing, emit

    async def stat(self, sandbox: str, path: str) -> Entry:
        """Return what is at `path`; a symlink is told as one."""
        names = paths.names(path)
        async with self.view(sandbox) as view:
            return await whole(beneath.stat, view, names)

    async def entries(self, sandbox: str, path: str, below: Iterable[str]) -> dict[str, tuple[str, Entry]]:
        """Return, by paths below `path`, the whole path and what is there; of those where something is."""
        names = paths.names(path)
        found = {each: (*names, *each.split("/")) for each in below if paths.is_usable(each)}
        if not found:
            return {}
        async with self.view(sandbox) as view:
            entries = await whole(beneath.entries, view, found)
        return {each: (paths.text(found[each]), entry) for each, entry in entries.items()}

    async def listing(self, sandbox: str, path: str, *, after: str = "", limit: int = MAX_PAGE) -> Page:
        """Return a page of a directory: at most `limit` entries whose names are greater than `after`."""
        names = paths.names(path)
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequestError(f"a page has 1 to {MAX_PAGE} entries")
        async with self.view(sandbox) as view:
            entries, following = await whole(beneath.listing, view, names, after=after, limit=limit)
        return Page(entries=tuple(entries), after=following)

    @contextlib.asynccontextmanager
    async def reading(
        self, sandbox: str, path: str, *, start: int = 0, size: int | None = None, host: str | None = None
    ) -> AsyncIterator[Reading]:
        """Open a file to read at most `size` bytes from `start`, which counts from the end when it is negative.

        What is read is what the file had when it was opened: bytes that come later are not. `host`: where they go, if
        not to the caller's client.
        """
        names = paths.entry(path)
        async with self.view(sandbox) as view, contextlib.AsyncExitStack() as undo:
            opening = _thread(beneath.open_file, view, names)
            descriptor, entry = await tasks.take(undo, opening, lambda opened: os.close(opened[0]))
            first = max(0, entry.size_bytes + start) if start < 0 else start
            if first > entry.size_bytes or (size is not None and size < 0):
                raise FileRangeError(f"{paths.text(names)!a} in sandbox {sandbox} has {entry.size_bytes} bytes")
            rest = entry.size_bytes - first
            reading = Reading(view, names, descriptor, entry, first, rest if size is None else min(size, rest))
            told = _transfer(sandbox, names, Direction.OUT, reading.size, host)  # its request may be over before we are
            is_used = False
            try:
                yield reading
                is_used = True
            finally:
                if is_used or reading.taken:
                    is_whole = is_used and reading.taken == reading.size
                    self._emit(dataclasses.replace(told, size_bytes=reading.taken, whole=is_whole))

    async def write(
        self,
        sandbox: str,
        path: str,
        content: AsyncIterable[bytes],
        *,
        replace: bool = True,
        parents: bool = False,
        max_bytes: int | None = None,
        host: str | None = None,
    ) -> Entry:
        """Write a file whole, or leave what is there: on any error, and when the caller is cancelled.

        `parents` makes directories that are missing; `max_bytes` is a limit below `max_file_mib`; `host`: where the
        bytes come from, if not from the caller's client.
        """
        async with contextlib.AsyncExitStack() as undo:
            publish = await self.draft(
                undo, sandbox, path, content, replace=replace, parents=parents, max_bytes=max_bytes, host=host
            )
            return await publish()

    async def draft(
        self,
        undo: contextlib.AsyncExitStack,
        sandbox: str,
        path: str,
        content: AsyncIterable[bytes],
        *,
        replace: bool = True,
        parents: bool = False,
        max_bytes: int | None = None,
        host: str | None = None,
    ) -> Publish:
        """Write a file that has no name yet; return what gives it one, or nothing is left when `undo` is unwound.

        So several are there together or not at all. The arguments are those of `write`.
        """
        names = paths.entry(path)
        limit = min(self.max_file_mib << 20, self.max_file_mib << 20 if max_bytes is None else max_bytes)
        own = await undo.enter_async_context(contextlib.AsyncExitStack())  # a file that has its name needs no other
        view = await own.enter_async_context(self.view(sandbox))
        if parents and names[1:]:
            await whole(beneath.make_directory, view, names[:-1], parents=True)
        beginning = _thread(beneath.Draft, view, names)
        draft = await tasks.take(own, beginning, lambda draft: _thread(draft.close))
        count = own.enter_context(self._writing(sandbox))
        async with contextlib.aclosing(_blocks(content)) as blocks:
            async for block in blocks:
                count(len(block))
                limit -= len(block)
                if limit < 0:
                    raise FileTooLargeError(f"{paths.text(names)!a} in sandbox {sandbox} would be too large")
                await whole(draft.write, block)

        async def publish() -> Entry:
            entry = await whole(draft.publish, replace=replace)
            await own.aclose()
            self._emit(_transfer(sandbox, names, Direction.IN, entry.size_bytes, host))
            return entry

        return publish

    async def make_directory(self, sandbox: str, path: str, *, parents: bool = False) -> bool:
        """Make a directory, with `parents` all that are missing on the way; return whether it was new."""
        names = paths.entry(path)
        async with self.view(sandbox) as view:
            return await whole(beneath.make_directory, view, names, parents=parents)

    async def move(self, sandbox: str, source: str, target: str, *, replace: bool = False) -> None:
        """Give a file or directory another path in the same sandbox."""
        old, new = paths.entry(source), paths.entry(target)
        async with self.view(sandbox) as view:
            await whole(beneath.move, view, old, new, replace=replace)
        self._emit(FileMoved(sandbox_id=sandbox, path=paths.text(old), target=paths.text(new)))

    async def delete(self, sandbox: str, path: str, *, recursive: bool = False) -> None:
        """Delete a file, or a directory with all that is in it if `recursive`. What is cancelled stays in part."""
        names = paths.entry(path)
        async with self.view(sandbox) as view:
            steps = deletion(view, names, recursive=recursive)
            is_whole = False
            try:
                while await whole(_advance, steps):
                    pass
                is_whole = True
            finally:
                await whole(steps.close)
                if is_whole or recursive:
                    path = paths.text(names)
                    self._emit(FileDeleted(sandbox_id=sandbox, path=path, recursive=recursive, whole=is_whole))

    @contextlib.asynccontextmanager
    async def view(self, sandbox: str) -> AsyncIterator[View]:
        """Hold a view of a sandbox's disk, for one operation: the disk of a released sandbox lives as long."""
        async with contextlib.AsyncExitStack() as undo:
            directory = await tasks.take(undo, self._open_disk(sandbox), os.close)
            yield View(sandbox=sandbox, directory=directory)


def _transfer(sandbox: str, names: Names, direction: Direction, size_bytes: int, host: str | None) -> FileTransferred:
    """Return what is told when all of a file went, for the request that is being served."""
    return FileTransferred(
        owner=owners.current(),
        request_id=request_ids.current(),
        sandbox_id=sandbox,
        path=paths.text(names),
        direction=direction,
        size_bytes=size_bytes,
        host=host,
        whole=True,
    )


async def _thread(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_threads, functools.partial(function, *args, **kwargs))


async def whole(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Call in a thread; a cancelled caller leaves when that has ended, and so may close what it used."""
    return await tasks.whole(_thread(function, *args, **kwargs))


def _advance(steps: Generator[None, None, None]) -> bool:
    """Take one step; return whether there may be more."""
    return next(steps, steps) is None


async def _blocks(content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Collect small pieces, so that there are few calls for a file, in blocks that are not much larger than `BLOCK`."""
    pieces: list[bytes] = []
    size = 0
    async for piece in content:
        pieces.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)
