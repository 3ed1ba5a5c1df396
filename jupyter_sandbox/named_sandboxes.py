"""Named sandboxes: each has one context and a name of its owner's making, and is made when the name is first used.

They serve clients that know no more than the name: they claim nothing and release little. What nobody uses for a time
is given back, and what crashed or does not obey is replaced by the next use. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import notes
from jupyter_sandbox.contexts import NewContext
from jupyter_sandbox.errors import (
    BusyError,
    InvalidRequestError,
    SandboxError,
    SandboxLostError,
    UnknownContextError,
    UnknownSandboxError,
)
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.guards import paths
from jupyter_sandbox.sandbox import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.contexts import Contexts
    from jupyter_sandbox.execution import ExecutionView, NewExecution
    from jupyter_sandbox.executions import Executions
    from jupyter_sandbox.files import Files
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandbox import Sandbox
    from jupyter_sandbox.sandboxes import Sandboxes

_PART: Final = "named"
METADATA: Final = "name"
"""What the name is called in the sandbox's metadata."""
MAX_WAITING: Final = 16
"""How many executions one of them takes at a time."""


@dataclass(frozen=True, kw_only=True)
class NewNamedSandbox:
    """What is wanted. `idle_s`: how long it stays when nobody uses it.

    `cwd` None: where kernels start; a directory of the disk that is missing is made. `label`: what its client calls
    it, when the name is not its client's choice.
    """

    template: str
    language: str
    idle_s: float
    cwd: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is noted of one."""

    name: str
    context_id: str
    made_at: str
    wanted: NewNamedSandbox


@dataclass(eq=False, kw_only=True)
class NamedSandbox:
    """One of them, while it lives. `waiting`: how many executions wait for their turn, or have it."""

    owner: Owner
    name: str
    wanted: NewNamedSandbox
    sandbox_id: str
    context_id: str
    made_at: datetime
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    runs_s: float = 0
    """How long the code may take that runs now."""


class NamedSandboxes:
    """The named sandboxes of one server."""

    def __init__(self, sandboxes: Sandboxes, contexts: Contexts, executions: Executions, files: Files) -> None:
        """Start with none."""
        self._sandboxes, self._contexts, self._executions, self._files = sandboxes, contexts, executions, files
        self._tasks: dict[tuple[Owner, str], asyncio.Task[NamedSandbox]] = {}

    async def enter(self, owner: Owner, name: str, wanted: NewNamedSandbox) -> NamedSandbox:
        """Return the sandbox with that name, made anew if there is none that lives; raises SandboxError.

        Who asks at the same time gets the same one.
        """
        task = self._tasks.get((owner, name))
        if task is None or (task.done() and not self._lives(task)):
            left = _result(task)
            self._tasks = {key: each for key, each in self._tasks.items() if not each.done() or self._lives(each)}
            task = asyncio.create_task(self._make(owner, name, wanted, left), name=f"named sandbox {name}")
            self._tasks[owner, name] = task
        named = await asyncio.shield(task)
        self._touch(named)
        return named

    def find(self, owner: Owner, name: str) -> NamedSandbox:
        """Return one that lives; raises UnknownSandboxError."""
        named = _result(task) if (task := self._tasks.get((owner, name))) and self._lives(task) else None
        if named is None:
            raise UnknownSandboxError(f"no sandbox has the name {name[:60]!r}")
        self._touch(named)
        return named

    def all_of(self, owner: Owner) -> list[NamedSandbox]:
        """Return those of `owner` that live, oldest first."""
        living = [_result(task) for (whose, _), task in self._tasks.items() if whose == owner and self._lives(task)]
        return [named for named in living if named is not None]

    async def release(self, owner: Owner, name: str) -> None:
        """End one, its files and its kernel; raises UnknownSandboxError."""
        named = self.find(owner, name)
        self._tasks.pop((owner, name), None)
        await self._sandboxes.release(owner, named.sandbox_id)

    async def execute(
        self,
        named: NamedSandbox,
        wanted: NewExecution,
        when_gone: Callable[[Callable[[], object]], None],
        ruins: Callable[[ExecutionView], bool] | None = None,
    ) -> ExecutionView:
        """Run code when its turn has come, and wait for its end; its time counts from then on.

        `when_gone` hears what to do when nobody waits for the end any more. When the code did not end in time, or the
        kernel died, the sandbox is given back: the next use makes a new one; `ruins` judges that, if a surface does it
        otherwise. Raises SandboxError; BusyError when too many wait, SandboxLostError when it ended meanwhile.
        """
        if named.waiting >= MAX_WAITING:
            raise BusyError(f"{named.waiting} executions wait in sandbox {named.name[:60]!r}", retry_after_s=1)
        is_gone = asyncio.Event()
        when_gone(is_gone.set)
        named.waiting += 1
        try:
            async with named.turn:
                if is_gone.is_set():
                    raise InvalidRequestError("the client hung up before its code had its turn")
                return await self._execute(named, wanted, when_gone, ruins or is_ruined)
        finally:
            named.waiting -= 1

    async def _execute(
        self,
        named: NamedSandbox,
        wanted: NewExecution,
        when_gone: Callable[[Callable[[], object]], None],
        ruins: Callable[[ExecutionView], bool],
    ) -> ExecutionView:
        try:
            execution = self._executions.start(named.owner, named.sandbox_id, named.context_id, wanted)
        except (UnknownSandboxError, UnknownContextError) as error:
            raise SandboxLostError(f"sandbox {named.name[:60]!r} ended before the code had its turn") from error
        named.runs_s = wanted.timeout_s
        self._touch(named)
        when_gone(execution.cancel)
        try:
            view = await execution.ended()
        finally:
            named.runs_s = 0
        if ruins(view):
            await self._drop(named)
        else:
            self._touch(named)
        return view

    async def _drop(self, named: NamedSandbox) -> None:
        if _result(self._tasks.get((named.owner, named.name))) is named:
            del self._tasks[named.owner, named.name]
        with contextlib.suppress(SandboxError):
            await self._sandboxes.release(named.owner, named.sandbox_id)

    async def _make(self, owner: Owner, name: str, wanted: NewNamedSandbox, left: NamedSandbox | None) -> NamedSandbox:
        """Make one; `left` is the one of that name that has no kernel any more, but perhaps its sandbox."""
        if left is not None:
            await self._drop(left)
        claim = Claim(template=wanted.template, timeout_s=wanted.idle_s, metadata={METADATA: name})
        sandbox = await self._sandboxes.claim(owner, claim)
        try:
            if wanted.cwd is not None and wanted.cwd.startswith(f"{paths.HOME}/"):
                await self._files.make_directory(sandbox.id, wanted.cwd, parents=True)
            context = await self._contexts.create(
                owner, sandbox.id, NewContext(language=wanted.language, cwd=wanted.cwd)
            )
        except BaseException:
            with contextlib.suppress(SandboxError):
                await self._sandboxes.release(owner, sandbox.id)
            raise
        named = NamedSandbox(
            owner=owner,
            name=name,
            wanted=wanted,
            sandbox_id=sandbox.id,
            context_id=context.id,
            made_at=datetime.now(UTC),
        )
        note = _Note(name=name, context_id=context.id, made_at=named.made_at.isoformat(), wanted=wanted)
        self._sandboxes.notes.keep(self._sandboxes.find(owner, sandbox.id), _PART, notes.text_of(note))
        await self._sandboxes.noted(sandbox.id)
        return named

    def take_back(self) -> None:
        """Know again those that the server before this one had."""
        for sandbox, text in self._sandboxes.parts(_PART):
            note = notes.read(_Note, text)
            named = note and _named(note, sandbox)
            if named and (named.owner, named.name) not in self._tasks:
                self._tasks[named.owner, named.name] = asyncio.create_task(_there(named), name="named in the past")

    def _lives(self, task: asyncio.Task[NamedSandbox]) -> bool:
        named = _result(task)
        if named is None:
            return False
        try:
            self._sandboxes.find_ready(named.owner, named.sandbox_id)
            self._contexts.get(named.owner, named.sandbox_id, named.context_id)
        except SandboxError:
            return False
        return True

    def _touch(self, named: NamedSandbox) -> None:
        self._sandboxes.keep(named.owner, named.sandbox_id, named.wanted.idle_s + named.runs_s)


def _named(note: _Note, sandbox: Sandbox) -> NamedSandbox | None:
    """Return one that was noted; None when that is none."""
    try:
        made_at = datetime.fromisoformat(note.made_at)
    except ValueError:
        return None
    if sandbox.owner is None or made_at.tzinfo is None or not 0 < note.wanted.idle_s < math.inf:
        return None
    return NamedSandbox(
        owner=sandbox.owner,
        name=note.name,
        wanted=note.wanted,
        sandbox_id=sandbox.id,
        context_id=note.context_id,
        made_at=made_at,
    )


async def _there(named: NamedSandbox) -> NamedSandbox:
    return named


def is_ruined(view: ExecutionView) -> bool:
    """Whether an execution has left its kernel dead, or busy with what nobody waits for."""
    return view.started_at is not None and (is_deaf(view) or view.outcome in (Outcome.TIMEOUT, Outcome.DIED))


def is_deaf(view: ExecutionView) -> bool:
    """Whether its code runs on although it was interrupted. What never began is not running."""
    is_stopped = view.outcome in (Outcome.TIMEOUT, Outcome.INTERRUPTED, Outcome.OUTPUT_LIMIT)
    return is_stopped and view.message is not None and view.folded.execution_count is not None


def _result(task: asyncio.Task[NamedSandbox] | None) -> NamedSandbox | None:
    """Return the sandbox that a task has made; None when it makes it still, or failed."""
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()
