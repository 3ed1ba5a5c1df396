"""Directories of sandboxes, watched for whoever wants to know what changes in them.

A watch holds nothing of the sandbox and ends with it. How many there are is bounded, also of one sandbox, and so is
what one tells at once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import CapacityError, SandboxError, UnknownFileError, UnknownSandboxError
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import changes, processes, tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jupyter_sandbox.files import Files
    from jupyter_sandbox.host.changes import Change, Changes

MAX_WATCHES: Final = 64
"""Half of what Linux allows one user by default, inotify(7)."""
MAX_OF_SANDBOX: Final = 16
_GATHER_S: Final = 0.05


class FileWatch:
    """One directory that is watched: iterate it for changes, some at a time, none after `silence_s` of silence.

    It ends when `until` is resolved, and raises UnknownFileError when the directory is moved or deleted, and
    UnknownSandboxError when the sandbox ends.
    """

    def __init__(
        self,
        sandbox: str,
        path: str,
        descriptor: int,
        *,
        fold: Callable[[bytes], Changes],
        silence_s: float | None,
        until: asyncio.Future[None],
        turn: asyncio.Lock,
    ) -> None:
        """Use `FileWatches.watching`."""
        self._sandbox, self._path, self._descriptor = sandbox, path, descriptor
        self._fold, self._silence_s, self._until, self._turn = fold, silence_s, until, turn
        self._end: SandboxError | None = None
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[tuple[Change, ...]]:
        """Yield changes as they happen."""
        while not self._until.done():
            if self._end is None:
                if not await self._readable():
                    yield ()
                    continue
                await asyncio.sleep(_GATHER_S)  # what happens together is told together
            if found := await self.now():
                yield found

    async def now(self) -> tuple[Change, ...]:
        """Return changes that have not been told yet, none when there are none. Raises as above.

        One watch of all has its turn at a time, and the loop one of its own before: what each tells takes milliseconds.
        """
        async with self._turn:
            await asyncio.sleep(0)
            return () if self._is_closed else self._now()

    def close(self) -> None:
        """Use the descriptor no more."""
        self._is_closed = True

    def _now(self) -> tuple[Change, ...]:
        if self._end is not None:
            raise self._end
        try:
            found = self._fold(os.read(self._descriptor, changes.READ_BYTES))
        except BlockingIOError:
            return ()
        if found.is_unmounted:
            self._end = UnknownSandboxError(f"sandbox {self._sandbox} has ended")
        elif found.is_gone:
            self._end = UnknownFileError(f"{self._path!a} in sandbox {self._sandbox} was moved or deleted")
        if self._end is not None and not found.changes:
            raise self._end
        return found.changes

    async def _readable(self) -> bool:
        """Wait until there is something to read; return False when it is time to look up first."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._descriptor, processes.resolve, ready)
        try:
            await asyncio.wait([ready, self._until], timeout=self._silence_s, return_when=asyncio.FIRST_COMPLETED)
            return ready.done()
        finally:
            loop.remove_reader(self._descriptor)


class FileWatches:
    """The watches of this process."""

    def __init__(self, files: Files) -> None:
        """Watch in sandboxes that `files` reaches."""
        self._files = files
        self._counts: collections.Counter[str] = collections.Counter()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def watching(
        self,
        sandbox: str,
        path: str,
        *,
        fold: Callable[[bytes], Changes] = changes.together,
        silence_s: float | None = None,
        until: asyncio.Future[None] | None = None,
    ) -> AsyncIterator[FileWatch]:
        """Watch the names in a directory, not those below its directories, from now on.

        `fold`: how changes are told. Raises CapacityError.
        """
        names = paths.names(path)
        if self._counts.total() >= MAX_WATCHES or self._counts[sandbox] >= MAX_OF_SANDBOX:
            most = f"{MAX_OF_SANDBOX} of one sandbox, {MAX_WATCHES} in all"
            raise CapacityError(f"no more directories can be watched ({most}); try again later", retry_after_s=10)
        self._counts[sandbox] += 1
        try:
            async with contextlib.AsyncExitStack() as undo:
                async with self._files.view(sandbox) as view:
                    descriptor = await tasks.take(undo, asyncio.to_thread(changes.start, view, names), os.close)
                until = asyncio.get_running_loop().create_future() if until is None else until
                path = paths.text(names)
                watch = FileWatch(
                    sandbox, path, descriptor, fold=fold, silence_s=silence_s, until=until, turn=self._turn
                )
                undo.callback(watch.close)
                yield watch
        finally:
            self._counts[sandbox] -= 1
            self._counts += collections.Counter()  # forget sandboxes of which none is watched
