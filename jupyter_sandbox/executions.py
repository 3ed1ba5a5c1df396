"""Executions: runs of code in contexts, one at a time in each, with an end that does not depend on the kernel's word.

The time of an execution counts from when it was accepted. What is over is interrupted; what does not react within a
grace ends anyway. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import events, execution_slate, kept, kernel_pauses, request_ids, sandboxes
from jupyter_sandbox.conversations import INTERRUPT_AGAIN_S, Conversation
from jupyter_sandbox.errors import BusyError, UnknownExecutionError
from jupyter_sandbox.execution import Execution, ExecutionView, NewExecution
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.execution_slate import ExecutionSlate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_sandbox.contexts import Contexts
    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.owners import Owner

_LOOK_S: Final = 0.2
"""How often we look whether the kernel still lives."""
_HALF_END_S: Final = 5.0
"""An end has two halves, reply and idle. When one came and nothing more for so long, the other is not waited for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What executions may take. `grace_s`: from an interrupt to the end in any case.

    `max_waiting`: in one context behind the one that runs. `max_kept`, `max_kept_bytes`: detached executions of one
    owner that are over and may still be fetched; the oldest are forgotten.
    """

    grace_s: float = 0.7
    max_waiting: int = 16
    max_kept: int = 100
    max_kept_bytes: int = 32 << 20


class _Queue:
    """The executions of one context, one after the other."""

    def __init__(
        self,
        conversation: Conversation,
        bounds: Bounds,
        slate: ExecutionSlate,
        on_end: Callable[[Execution], None],
    ) -> None:
        self.conversation, self._bounds, self._slate, self._on_end = conversation, bounds, slate, on_end
        self._waiting: collections.deque[Execution] = collections.deque()
        self._is_running = False
        self.task: asyncio.Task[None] | None = None

    def add(self, execution: Execution) -> None:
        """Let it wait for its turn; raises BusyError when too many do."""
        if len(self._waiting) + self._is_running > self._bounds.max_waiting:
            raise BusyError(
                f"{self._bounds.max_waiting} executions wait in context {execution.context_id}", retry_after_s=1
            )
        self._waiting.append(execution)
        if self.task is None:
            self.task = asyncio.create_task(self._work(), name=f"executions of {execution.context_id}")
        else:
            self._watch_waiting(execution)

    def _watch_waiting(self, execution: Execution) -> None:
        """Its time and its client may be gone before its turn comes."""

        async def watch() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(execution.deadline):
                    await execution.news.wait()
            if execution in self._waiting:
                self._waiting.remove(execution)
                is_late = not execution.is_cancelled
                execution.end(
                    Outcome.TIMEOUT if is_late else Outcome.INTERRUPTED,
                    "Its time was over before its turn came." if is_late else None,
                )
                self._on_end(execution)

        execution.wait = asyncio.create_task(watch(), name=f"wait of {execution.id}")

    async def _work(self) -> None:
        try:
            while self._waiting:
                execution = self._waiting.popleft()
                self._is_running = True
                try:
                    await self._run(execution)
                except Exception:
                    log.exception("execution %s failed inside", execution.id)
                    execution.end(Outcome.DIED, "The server failed inside; its log says more.")
                finally:
                    self._is_running = False
                    self.conversation.end(interrupt_when_begun=False)
                    self._on_end(execution)
        finally:
            self.task = None

    async def _run(self, execution: Execution) -> None:
        loop = asyncio.get_running_loop()
        conversation, fold = self.conversation, execution.fold
        execution.begin()
        if not await conversation.open(lambda: execution.is_cancelled or loop.time() >= execution.deadline):
            execution.end(*self._unheard(execution))
            return
        execution.on_backlog = lambda is_full: conversation.pause() if is_full else conversation.resume()
        self._slate.sent(execution)
        conversation.execute(execution.wanted.code, execution)
        stopped: Outcome | None = None
        give_up_at = interrupt_at = float("inf")
        looked_at = loop.time()
        while not fold.is_complete:
            now = loop.time()
            if stopped is None and (stopped := self._why_to_stop(execution, now)) is not None:
                give_up_at = now + self._bounds.grace_s
                if not fold.is_begun:
                    conversation.end(interrupt_when_begun=True)
                    break
                interrupt_at = float("inf") if fold.is_answered else now  # its code has ended
            if now - looked_at >= _LOOK_S:
                looked_at = now
                if await conversation.is_over():
                    execution.end(Outcome.DIED, conversation.words())
                    return
                is_half = (fold.is_answered or fold.is_idle) and not execution.is_held_up
                if is_half and now - execution.heard_at > _HALF_END_S:
                    break
            if now >= give_up_at:
                break
            if now >= interrupt_at:  # again and again: a kernel that has just begun may not notice the first time
                interrupt_at = now + INTERRUPT_AGAIN_S
                await conversation.interrupt(INTERRUPT_AGAIN_S)
            until = min(looked_at + _LOOK_S, give_up_at, interrupt_at if stopped else execution.deadline)
            await _wait(execution.news, until)
        if stopped is None and fold.is_interrupted and conversation.is_ending:
            await self._see_out()
            execution.end(Outcome.DIED, conversation.words())
            return
        self._conclude(execution, stopped)

    async def _see_out(self) -> None:
        """Wait for the end of a kernel that is being ended, not long: what ended it can be told then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.grace_s):
                while not await self.conversation.is_over():  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(_LOOK_S)

    def _why_to_stop(self, execution: Execution, now: float) -> Outcome | None:
        if execution.is_cancelled:
            return Outcome.INTERRUPTED
        if execution.fold.is_over_limit:
            return Outcome.OUTPUT_LIMIT
        return Outcome.TIMEOUT if now >= execution.deadline else None

    def _unheard(self, execution: Execution) -> tuple[Outcome, str | None]:
        if execution.is_cancelled:
            return Outcome.INTERRUPTED, None
        if not self.conversation.is_possible:
            return Outcome.DIED, self.conversation.words()
        return Outcome.TIMEOUT, "The kernel did not answer in time."

    def _conclude(self, execution: Execution, stopped: Outcome | None) -> None:
        fold = execution.fold
        if stopped is None and fold.is_over_limit:
            stopped = Outcome.OUTPUT_LIMIT
        if stopped is None:
            execution.end(
                fold.result().outcome or Outcome.ERROR, None if fold.is_answered else "The kernel did not answer."
            )
        elif fold.is_complete:
            execution.end(stopped)
        elif fold.is_answered:
            execution.end(stopped, "The code has ended; not all that it said came in time.")
        elif fold.is_begun:
            execution.end(
                stopped, "The kernel did not react to an interrupt: it may still be busy. Restart the context."
            )
        else:
            execution.end(stopped, "The kernel was busy with something else; the code was not run.")


class Executions:
    """The executions of one server."""

    def __init__(
        self, contexts: Contexts, bounds: Bounds, emit: Emit = events.ignore, slate: ExecutionSlate | None = None
    ) -> None:
        """Start with none."""
        self._contexts, self.bounds, self._emit = contexts, bounds, emit
        self._slate = slate or ExecutionSlate()
        self._queues: dict[str, _Queue] = {}
        self._known: collections.OrderedDict[str, Execution] = collections.OrderedDict()

    def start(self, owner: Owner, sandbox_id: str, context_id: str, wanted: NewExecution) -> Execution:
        """Accept an execution. Raises SandboxError; BusyError when too many wait in the context."""
        self._contexts.sandboxes.require_staying()
        context = self._contexts.get_running(owner, sandbox_id, context_id)
        queue = self._queues.get(context.id)
        if queue is None or not queue.conversation.is_possible:
            self.hang_up_on_the_gone()
            conversation = Conversation(context, self._contexts.multi_manager)
            queue = self._queues[context.id] = _Queue(conversation, self.bounds, self._slate, self._ended)
        deadline = asyncio.get_running_loop().time() + wanted.timeout_s
        execution = Execution(owner, context.sandbox_id, context.id, wanted, deadline, request_ids.current())
        queue.add(execution)
        self._slate.accepted(execution)
        self._contexts.sandboxes.watch()
        self._contexts.sandboxes.terms.use(context.sandbox_id)
        self._known[execution.id] = execution
        self._emit(execution.start_event())
        return execution

    def get(self, owner: Owner, sandbox_id: str, context_id: str, execution_id: str) -> Execution:
        """Return an execution that is not over, or a detached one that is kept; raises UnknownExecutionError.

        A detached execution can be fetched after its context and sandbox are gone.
        """
        execution = self._known.get(execution_id)
        if (
            execution is None
            or execution.owner != owner
            or (execution.sandbox_id, execution.context_id) != (sandbox_id, context_id)
        ):
            raise UnknownExecutionError(f"no execution {execution_id[:60]!r}; only detached ones are kept, for a while")
        return execution

    def all_in(self, owner: Owner, sandbox_id: str, context_id: str) -> list[ExecutionView]:
        """Return the executions of a context that are known, oldest first; raises SandboxError without the context."""
        context = self._contexts.get(owner, sandbox_id, context_id)
        return [each.view() for each in self._known.values() if each.owner == owner and each.context_id == context.id]

    def in_use(self) -> Iterator[str]:
        """Yield the sandboxes in which executions run or wait; each of them has a time."""
        return (execution.sandbox_id for execution in self._known.values() if not execution.is_over)

    def hang_up_on_the_gone(self) -> bool:
        """Hang up on kernels that are gone; return whether others are left. To be called now and then."""
        for context_id, queue in list(self._queues.items()):
            if queue.task is None and not queue.conversation.is_possible:
                queue.conversation.close()
                del self._queues[context_id]
        return bool(self._queues)

    @property
    def is_busy(self) -> bool:
        """Whether some code runs, or waits for its turn, whoever asked for it. In what is paused nothing runs."""
        return any(
            getattr(manager, "execution_state", "") == "busy"
            or (kernel_id in self._queues and self._queues[kernel_id].task)
            for kernel_id, manager, _ in sandboxes.kernels(self._contexts.multi_manager)
            if kernel_pauses.find(manager) is None
        )

    async def take_back(self) -> None:
        """Know again what the server before this one was asked for; interrupt code whose client has gone with it."""
        deserted: set[str] = set()
        for chalked in self._slate.left():
            execution = execution_slate.past(chalked) if chalked.detached else None
            if execution is not None:
                self._known[execution.id] = execution
                if not (chalked.told or chalked.ended):
                    self._emit(execution.end_event())
                    self._slate.told(chalked)
                self._settle(execution)
            elif not chalked.detached:
                deserted.add(chalked.context_id)
        for context_id in deserted:
            with contextlib.suppress(Exception):  # Jupyter's managers raise whatever their parts do
                await self._contexts.multi_manager.interrupt_kernel(context_id)

    def leave(self) -> None:
        """Hang up and let what runs go on: the next start of the server will tell of it."""
        for queue in self._queues.values():
            queue.conversation.close()

    async def stop(self) -> None:
        """End what runs and hang up."""
        for execution in self._known.values():
            execution.cancel()
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2 * self.bounds.grace_s)
        for queue in self._queues.values():
            queue.conversation.close()
        self._queues.clear()

    def _ended(self, execution: Execution) -> None:
        self._emit(execution.end_event())
        self._slate.ended(execution)
        self._settle(execution)

    def _settle(self, execution: Execution) -> None:
        bounds = self.bounds
        kept.settle(self._known, execution, max_kept=bounds.max_kept, max_kept_bytes=bounds.max_kept_bytes)
        if execution.is_detached:
            self._slate.forget_all_but(self._known)


async def _wait(news: asyncio.Event, until: float) -> None:
    """Wait for news, but not beyond `until`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await news.wait()
    news.clear()
