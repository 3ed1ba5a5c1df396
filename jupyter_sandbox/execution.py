"""One execution: what is wanted, how far it is, what changes for who watches it. It knows no kernel and no queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.events import Code, ExecutionEnd, ExecutionEnded, ExecutionStarted, Means
from jupyter_sandbox.execution_fold import ExecutionFold, Folded, Outcome, OutputEvent
from jupyter_sandbox.guards import ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jupyter_sandbox.guards.kernel_messages import Channel
    from jupyter_sandbox.owners import Owner

_UNWATCHED_BYTES: Final = 1 << 20
"""How much may wait for who watches an execution before we stop to read from the kernel."""
_EVENT_BYTES: Final = 256


class ExecutionState(StrEnum):
    """Where an execution is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class NewExecution:
    """What is wanted. A detached execution goes on without its client and can be fetched later."""

    code: str = field(repr=False)
    timeout_s: float
    max_output_bytes: int
    detached: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecutionView:
    """An execution as its owner sees it. `outcome` is None until it has ended; `message` is for people."""

    id: str
    sandbox_id: str
    context_id: str
    state: ExecutionState
    outcome: Outcome | None
    message: str | None
    detached: bool
    accepted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float | None
    folded: Folded


class Execution:
    """One of them, while it lives and after."""

    def __init__(
        self,
        owner: Owner,
        sandbox_id: str,
        context_id: str,
        wanted: NewExecution,
        deadline: float,
        request_id: str | None = None,
    ) -> None:
        """`deadline` is on the event loop's clock."""
        self.id = ids.new_execution_id()
        self.owner, self.sandbox_id, self.context_id = owner, sandbox_id, context_id
        self.wanted, self.deadline = wanted, deadline
        self.request_id = request_id
        self.fold = ExecutionFold(wanted.max_output_bytes)
        self.state = ExecutionState.WAITING
        self.is_cancelled = False
        self.heard_at = 0.0
        self.news = asyncio.Event()
        """Set when there is a reason to look: it is complete, over its limit, or cancelled."""
        self.on_backlog: Callable[[bool], None] = lambda _: (
            None
        )  # called when too much waits for who watches, or no more
        self._outcome: Outcome | None = None
        self._message: str | None = None
        self.accepted_at = datetime.now(UTC)
        self._started_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._began = self._took = 0.0
        self._ended = asyncio.Event()
        self.wait: asyncio.Task[None] | None = None
        """Ends it when its time or its client is gone before its turn comes."""
        self._is_watched = False
        self._backlog: list[OutputEvent] = []
        self._backlog_bytes = 0
        self.is_held_up = False
        """Whether the kernel waits for who watches it."""
        self._change = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state is ExecutionState.ENDED

    @property
    def is_detached(self) -> bool:
        """Whether it goes on without its client, and is kept."""
        return self.wanted.detached

    @property
    def kept_bytes(self) -> int:
        """How much of its outputs is kept."""
        return self.fold.kept_bytes

    # -- what a client does with it

    def cancel(self) -> None:
        """Ask for its end: it is interrupted, or never begun."""
        self.is_cancelled = True
        self.news.set()

    async def ended(self) -> ExecutionView:
        """Wait for its end."""
        await self._ended.wait()
        return self.view()

    def events(self) -> AsyncIterator[OutputEvent]:
        """Return what changes, from now until its end; who is slow makes the kernel wait. For one watcher."""
        self._is_watched = True
        return self._changes()

    async def _changes(self) -> AsyncIterator[OutputEvent]:
        try:
            while True:
                await self._change.wait()
                self._change.clear()
                events, self._backlog = self._backlog, []
                self._backlog_bytes = 0
                for event in events:
                    yield event
                if self._backlog_bytes < _UNWATCHED_BYTES:
                    self._let_go()
                if self._ended.is_set() and not self._backlog:
                    return
        finally:  # who watched it may have gone with much of it unread: its kernel waits for nobody then
            self._is_watched = False
            self._backlog, self._backlog_bytes = [], 0
            self._let_go()

    def _let_go(self) -> None:
        if self.is_held_up:
            self.is_held_up = False
            self.heard_at = asyncio.get_running_loop().time()
            self.on_backlog(False)

    def view(self) -> ExecutionView:
        """Return what its owner sees."""
        return ExecutionView(
            id=self.id,
            sandbox_id=self.sandbox_id,
            context_id=self.context_id,
            state=self.state,
            outcome=self._outcome,
            message=self._message,
            detached=self.wanted.detached,
            accepted_at=self.accepted_at,
            started_at=self._started_at,
            ended_at=self._ended_at,
            duration_s=self._took if self._ended_at and self._started_at else None,
            folded=self.fold.result(),
        )

    def start_event(self) -> ExecutionStarted:
        """Return what is told of it when it was accepted."""
        code = Code.of(self.wanted.code)
        return ExecutionStarted(
            **self._about(),
            code_characters=code.characters,
            code_sha256=code.sha256,
            timeout_s=self.wanted.timeout_s,
            detached=self.wanted.detached,
        )

    def end_event(self) -> ExecutionEnded:
        """Return what is told of it when it is over."""
        accepted = self.deadline - self.wanted.timeout_s
        omitted = self.fold.omitted
        return ExecutionEnded(
            **self._about(),
            outcome=ExecutionEnd(self._outcome or Outcome.DIED),
            waited_s=max(0.0, (self._began or asyncio.get_running_loop().time()) - accepted),
            duration_s=self._took if self._started_at else None,
            output_bytes=self.fold.kept_bytes,
            omitted_outputs=omitted.outputs,
            omitted_bytes=omitted.bytes,
            refused_messages=omitted.refused_messages,
        )

    # -- what a conversation tells it

    def take(self, channel: Channel, msg_type: str, content: dict[str, Any]) -> None:
        """See Listener."""
        was_over = self.fold.is_over_limit
        events = self.fold.take(channel, msg_type, content)
        self._heard(was_over)
        if events and self._is_watched:
            self._tell(events)

    def refuse(self, channel: Channel, size_bytes: int, msg_type: str | None) -> None:
        """See Listener."""
        was_over = self.fold.is_over_limit
        self.fold.refuse(channel, size_bytes, msg_type)
        self._heard(was_over)

    # -- what its queue does with it

    def begin(self) -> None:
        """It has its turn."""
        if self.wait is not None:
            self.wait.cancel()
            self.wait = None  # its end refers to us: neither would be freed for long
        self.state = ExecutionState.RUNNING
        self._started_at = datetime.now(UTC)
        self._began = asyncio.get_running_loop().time()

    def end(self, outcome: Outcome, message: str | None = None) -> None:
        """It is over. Quiet when it was before."""
        if self.is_over:
            return
        self.state, self._outcome, self._message = ExecutionState.ENDED, outcome, message
        self._ended_at = datetime.now(UTC)
        self._took = asyncio.get_running_loop().time() - self._began
        self._ended.set()
        self._change.set()
        self.news.set()

    def _about(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "request_id": self.request_id,
            "sandbox_id": self.sandbox_id,
            "context_id": self.context_id,
            "execution_id": self.id,
            "means": Means.REST,
        }

    def _heard(self, was_over_limit: bool) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        if self.fold.is_complete or (self.fold.is_over_limit and not was_over_limit):
            self.news.set()

    def _tell(self, events: list[OutputEvent]) -> None:
        for event in events:
            self._backlog_bytes += event.size_bytes + _EVENT_BYTES
            self._backlog.append(event)
        self._change.set()
        if self._backlog_bytes >= _UNWATCHED_BYTES and not self.is_held_up:
            self.is_held_up = True
            self.on_backlog(True)
