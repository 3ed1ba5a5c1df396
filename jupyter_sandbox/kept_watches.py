"""Watches of directories whose changes are fetched now and then, for clients that hold no stream open.

Each has a task that takes in what happens, and ends with its sandbox. What waits for its client is bounded: who comes
too late is told that changes were lost, and looks at the directory again.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import FileChangedError, SandboxError, UnknownFileError, UnknownWatchError
from jupyter_sandbox.host import changes, processes
from jupyter_sandbox.host.changes import What

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.file_watches import FileWatch, FileWatches
    from jupyter_sandbox.host.beneath import Entry
    from jupyter_sandbox.host.changes import Change
    from jupyter_sandbox.owners import Owner

MAX_CHANGES: Final = 1024
FORGOTTEN_S: Final = 3600.0
"""A watch from which nobody has fetched for so long is ended."""
_LOOK_S: Final = 60.0
_MAX_READS: Final = 128
"""Enough for all that the kernel keeps of one watch; what comes meanwhile may wait for the next time."""


@dataclass(eq=False, kw_only=True)
class _Kept:
    """One watch, and what waits for its client. `end`: the directory was moved or deleted."""

    sandbox: str
    watch: FileWatch
    with_entries: bool
    fetched_at_s: float
    waiting: list[Change] = field(default_factory=list)
    is_lost: bool = False
    end: UnknownFileError | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client knows of the end."""

    def add(self, found: tuple[Change, ...]) -> None:
        """Keep changes for the client, or the fact that there are too many."""
        if any(change.what is What.LOST for change in found) or len(self.waiting) + len(found) > MAX_CHANGES:
            self.is_lost = True
            self.waiting.clear()
        elif not self.is_lost:
            self.waiting += found


class KeptWatches:
    """Those of one server."""

    def __init__(self, watches: FileWatches) -> None:
        """There are none."""
        self._watches = watches
        self._kept: dict[str, _Kept] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(
        self, owner: Owner, sandbox: str, path: str, *, recursive: bool = False, with_entries: bool = False
    ) -> str:
        """Watch a directory from now on; return the id of the watch. Raises SandboxError.

        `recursive`: also those below it; `with_entries`: its client wants to know what is at the names, too.
        """
        watch_id = secrets.token_hex(10)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        kept = self._keep(watch_id, owner, sandbox, path, begun, recursive=recursive, with_entries=with_entries)
        task = asyncio.create_task(kept, name=f"watch {watch_id}")
        self._tasks[watch_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(watch_id, None))
        try:
            await asyncio.wait([task, begun], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            task.cancel()
            raise
        if not begun.done():
            task.result()
        return watch_id

    async def fetch(self, sandbox: str, watch_id: str) -> tuple[Change, ...]:
        """Return what happened since the last time, up to now, as `changes.separately` tells it.

        Raises UnknownWatchError, UnknownSandboxError; FileChangedError, once, when more happened than is kept;
        UnknownFileError, once, when the directory was moved or deleted, with which the watch has ended.
        """
        kept = self._find(sandbox, watch_id)
        kept.fetched_at_s = asyncio.get_running_loop().time()
        try:
            for _ in range(_MAX_READS):
                if not (found := await kept.watch.now()):
                    break
                kept.add(found)
        except UnknownFileError as error:
            kept.end = error
        if kept.is_lost:
            kept.is_lost = False
            raise FileChangedError("more has changed than is kept for a client; look at the directory again")
        if kept.waiting or kept.end is None:
            found, kept.waiting = tuple(kept.waiting), []
            return found
        kept.told.set()
        self._kept.pop(watch_id, None)
        raise kept.end

    async def entries(self, sandbox: str, watch_id: str, found: Iterable[Change]) -> dict[str, tuple[str, Entry]]:
        """See FileWatch, of names that were fetched; nothing if the client does not want to know."""
        kept = self._find(sandbox, watch_id)
        return await kept.watch.entries(found) if kept.with_entries else {}

    async def end(self, sandbox: str, watch_id: str) -> None:
        """End a watch. Raises UnknownWatchError."""
        self._find(sandbox, watch_id)
        await self._stop([self._tasks[watch_id]])

    async def stop(self) -> None:
        """End all."""
        await self._stop(list(self._tasks.values()))

    async def _keep(
        self,
        watch_id: str,
        owner: Owner,
        sandbox: str,
        path: str,
        begun: asyncio.Future[None],
        *,
        recursive: bool,
        with_entries: bool,
    ) -> None:
        """Be one watch, from its beginning to its end."""
        watching = self._watches.watching(
            owner, sandbox, path, recursive=recursive, fold=changes.separately, silence_s=_LOOK_S
        )
        try:
            async with watching as watch:
                clock = asyncio.get_running_loop().time
                kept = self._kept[watch_id] = _Kept(
                    sandbox=sandbox, watch=watch, with_entries=with_entries, fetched_at_s=clock()
                )
                processes.resolve(begun)
                try:
                    async for found in watch:
                        kept.add(found)
                        if clock() - kept.fetched_at_s > FORGOTTEN_S:
                            return
                except UnknownFileError as error:
                    kept.end = error
                    async with asyncio.timeout(FORGOTTEN_S):
                        await kept.told.wait()
                finally:
                    self._kept.pop(watch_id, None)
        except (SandboxError, TimeoutError):
            if not begun.done():
                raise

    @staticmethod
    async def _stop(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _find(self, sandbox: str, watch_id: str) -> _Kept:
        kept = self._kept.get(watch_id)
        if kept is None or kept.sandbox != sandbox:
            raise UnknownWatchError(f"no watch {watch_id[:40]!a} in sandbox {sandbox}")
        return kept
