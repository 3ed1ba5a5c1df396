"""Directories of sandboxes, watched for whoever wants to know what changes in them.

A watch holds nothing of the sandbox and ends with it. How many there are is bounded, and so is what one tells at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import CapacityError, UnknownFileError, UnknownSandboxError
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import changes, processes, tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jupyter_sandbox.files import Files
    from jupyter_sandbox.host.changes import Change

MAX_WATCHES: Final = 64
"""Half of what Linux allows one user by default, inotify(7)."""
_GATHER_S: Final = 0.05


class FileWatches:
    """The watches of this process."""

    def __init__(self, files: Files) -> None:
        """Watch in sandboxes that `files` reaches."""
        self._files = files
        self._count = 0

    @contextlib.asynccontextmanager
    async def watching(
        self,
        sandbox: str,
        path: str,
        *,
        silence_s: float | None = None,
        until: asyncio.Future[None] | None = None,
    ) -> AsyncIterator[AsyncIterator[tuple[Change, ...]]]:
        """Watch the names in a directory, not those below its directories, from now on.

        What is yielded gives changes, some at a time, each name once, and none after each `silence_s` without any. It
        ends when `until` is resolved, and raises UnknownFileError when the directory is moved or deleted, and
        UnknownSandboxError when the sandbox ends.
        """
        names = paths.names(path)
        if self._count >= MAX_WATCHES:
            raise CapacityError(f"{MAX_WATCHES} directories are watched; try again later", retry_after_s=10)
        self._count += 1
        try:
            async with contextlib.AsyncExitStack() as undo:
                async with self._files.view(sandbox) as view:
                    descriptor = await tasks.take(undo, asyncio.to_thread(changes.start, view, names), os.close)
                until = asyncio.get_running_loop().create_future() if until is None else until
                yield _told(sandbox, paths.text(names), descriptor, silence_s, until)
        finally:
            self._count -= 1


async def _told(
    sandbox: str, path: str, descriptor: int, silence_s: float | None, until: asyncio.Future[None]
) -> AsyncIterator[tuple[Change, ...]]:
    while not until.done():
        if not await _readable(descriptor, silence_s, until):
            yield ()
            continue
        await asyncio.sleep(_GATHER_S)  # what happens together is told together
        found = changes.together(os.read(descriptor, changes.READ_BYTES))
        if found.changes:
            yield found.changes
        if found.is_unmounted:
            raise UnknownSandboxError(f"sandbox {sandbox} has ended")
        if found.is_gone:
            raise UnknownFileError(f"{path!a} in sandbox {sandbox} was moved or deleted")


async def _readable(descriptor: int, silence_s: float | None, until: asyncio.Future[None]) -> bool:
    """Wait until there is something to read; return False when it is time to look up first."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, processes.resolve, ready)
    try:
        await asyncio.wait([ready, until], timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
        return ready.done()
    finally:
        loop.remove_reader(descriptor)
