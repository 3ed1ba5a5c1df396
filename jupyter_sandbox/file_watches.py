"""Directories of sandboxes, watched for whoever wants to know what changes in them.

A watch holds nothing of the sandbox and ends with it. How many there are is bounded, also of one owner and of one
sandbox, and so is what one tells at once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakValueDictionary

from jupyter_sandbox import files
from jupyter_sandbox.errors import (
    CapacityError,
    FileConflictError,
    FileRefusedError,
    SandboxError,
    UnknownFileError,
    UnknownSandboxError,
)
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import changes, processes, scans, tasks, trees
from jupyter_sandbox.shares import Shares
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from jupyter_sandbox.files import Files
    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.host.beneath import Entry
    from jupyter_sandbox.host.changes import Change, Changes, Happening
    from jupyter_sandbox.host.trees import Heard, Tree
    from jupyter_sandbox.owners import Owner

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
        names: Names,
        descriptor: int,
        tree: Tree,
        *,
        files: Files,
        fold: Callable[[Iterable[Happening]], Changes],
        silence_s: float | None,
        until: asyncio.Future[None],
        turn: asyncio.Lock,
        looking: asyncio.Lock,
    ) -> None:
        """Use `FileWatches.watching`."""
        self._sandbox, self._names, self._descriptor, self._tree = sandbox, names, descriptor, tree
        self._files, self._fold, self._silence_s, self._until = files, fold, silence_s, until
        self._turn, self._looking, self._mine = turn, looking, asyncio.Lock()
        self._heard: Heard | None = None
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
        async with self._mine:  # so the tree is changed by one only, and what is told first happened first
            async with self._taking_turn():
                if not self._has_heard():
                    return ()
                if not self._must_look():
                    return self._told([])
            more = await self._look()
            async with self._taking_turn():
                return self._told(more)

    async def entries(self, found: Iterable[Change]) -> dict[str, tuple[str, Entry]]:
        """Return paths and what is there by the names that were told, of those that are there. Raises SandboxError."""
        names = dict.fromkeys(change.name for change in found if change.what in changes.STAYING)
        return await self._files.entries(self._sandbox, paths.text(self._names), names)

    def close(self) -> None:
        """Use the descriptor no more."""
        self._is_closed = True

    @contextlib.asynccontextmanager
    async def _taking_turn(self) -> AsyncIterator[None]:
        async with self._turn:
            await asyncio.sleep(0)
            yield

    def _has_heard(self) -> bool:
        """Whether there is something to tell, or to look at; what a cancelled caller did not come to stays."""
        if self._is_closed:
            return False
        if self._end is not None:
            raise self._end
        if self._heard is None:
            try:
                self._heard = self._tree.hear(os.read(self._descriptor, trees.READ_BYTES))
            except BlockingIOError:
                return False
            self._give_back(self._heard.left)
        return True

    def _must_look(self) -> bool:
        return self._heard is not None and bool(self._heard.new or self._heard.is_lost)

    async def _look(self) -> list[Happening]:
        """Look at the directories that are new, or at all; return what happened besides.

        Of a sandbox one look at a time, so that it takes one thread, whatever it does.
        """
        heard = cast("Heard", self._heard)
        try:
            async with self._looking, self._files.view(self._sandbox) as view:
                if self._is_closed:
                    return []
                with _duplicate(self._descriptor) as descriptor:  # ours may be closed meanwhile
                    if heard.is_lost:
                        found = await files.whole(scans.look_anew, view, self._names, descriptor)
                    else:
                        room = scans.MAX_DIRECTORIES - len(self._tree)
                        look = functools.partial(scans.look_into, room=room)
                        found = await files.whole(look, view, self._names, descriptor, heard.new)
        except (UnknownSandboxError, UnknownFileError, FileConflictError, FileRefusedError) as error:
            self._end = error if isinstance(error, UnknownSandboxError) else self._gone()
            return []
        if found.top != self._tree.top:
            self._end = self._gone()  # another directory has its path
            return []
        more = [] if found.problem is None else [changes.MORE]
        if not heard.is_lost:
            return self._tree.add(found) + more
        if not self._is_closed:
            self._give_back(self._tree.renew(found))
        return more

    def _told(self, more: list[Happening]) -> tuple[Change, ...]:
        heard, self._heard = cast("Heard", self._heard), None
        found = self._fold([*heard.happened, *more])
        if found.is_unmounted:
            self._end = UnknownSandboxError(f"sandbox {self._sandbox} has ended")
        elif found.is_gone:
            self._end = self._gone()
        if self._end is not None and not found.changes:
            raise self._end
        return found.changes

    def _gone(self) -> SandboxError:
        return UnknownFileError(f"{paths.text(self._names)!a} in sandbox {self._sandbox} was moved or deleted")

    def _give_back(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            with contextlib.suppress(OSError):  # the directory is gone, and with it the kernel's watch
                linux.remove_watch(self._descriptor, number)

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


@contextlib.contextmanager
def _duplicate(descriptor: int) -> Iterator[int]:
    other = os.dup(descriptor)
    try:
        yield other
    finally:
        os.close(other)


class FileWatches:
    """The watches of this process."""

    def __init__(self, files: Files) -> None:
        """Watch in sandboxes that `files` reaches."""
        self._files = files
        self._shares = Shares(MAX_WATCHES, "watches of directories")
        self._counts: collections.Counter[str] = collections.Counter()
        self._turn = asyncio.Lock()
        self._looking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def watching(
        self,
        owner: Owner,
        sandbox: str,
        path: str,
        *,
        recursive: bool = False,
        fold: Callable[[Iterable[Happening]], Changes] = changes.together,
        silence_s: float | None = None,
        until: asyncio.Future[None] | None = None,
    ) -> AsyncIterator[FileWatch]:
        """Watch the names in a directory from now on, with `recursive` also those below its directories.

        `fold`: how changes are told. Raises QuotaError, and CapacityError, also when there are too many directories.
        """
        names = paths.names(path)
        async with contextlib.AsyncExitStack() as undo:
            if self._counts[sandbox] >= MAX_OF_SANDBOX:
                raise CapacityError(
                    f"{MAX_OF_SANDBOX} directories of sandbox {sandbox} are watched; try again later", retry_after_s=10
                )
            undo.enter_context(self._shares.place(owner))
            self._counts[sandbox] += 1
            undo.callback(self._forget, sandbox)
            looking = self._looking.setdefault(sandbox, asyncio.Lock())
            async with looking, self._files.view(sandbox) as view:
                start = files.whole(scans.start, view, names, is_deep=recursive)
                taking = tasks.take(undo, start, lambda begun: os.close(begun[0]))
                descriptor, tree = await tasks.whole(taking)  # the view is held as long as it is looked at
            until = asyncio.get_running_loop().create_future() if until is None else until
            watch = FileWatch(
                sandbox,
                names,
                descriptor,
                tree,
                files=self._files,
                fold=fold,
                silence_s=silence_s,
                until=until,
                turn=self._turn,
                looking=looking,
            )
            undo.callback(watch.close)
            yield watch

    def _forget(self, sandbox: str) -> None:
        self._counts -= collections.Counter({sandbox: 1})  # and sandboxes of which none is watched
