"""Warm workers: how many to start is a pure decision, the loop around it only acts.

A worker leaves the pool once, to be claimed, and never comes back. When starts of a template fail the loop waits longer
each time before the next one of that template. A claim that finds the pool empty starts a worker of its own; only where
there is no room for that it waits for the one that the loop is starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from jupyter_sandbox.breaker import backoff_s
from jupyter_sandbox.errors import CapacityError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox.specs import Template

HEAD_START_S: Final = 0.06
"""Making a worker keeps one processor busy for so long, and who just claimed one starts a kernel meanwhile."""

_FULL_S: Final = 1

log = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What there is of one template."""

    warm: int
    starting: int
    total: int
    """Warm, starting and claimed."""


def plan(template: Template, snapshot: Snapshot) -> int:
    """Return how many workers to start now."""
    wanted = template.min_idle - snapshot.warm - snapshot.starting
    return max(0, min(wanted, template.max_total - snapshot.total))


class Pool(Generic[Item]):
    """The warm workers of all templates that were ever asked for."""

    def __init__(
        self,
        make: Callable[[Template], Awaitable[Item]],
        unmake: Callable[[Item], Awaitable[None]],
        total: Callable[[Template], int],
        *,
        head_start_s: float = 0,
    ) -> None:
        """`make` starts one worker, `unmake` ends it; `total` counts all of a template, claimed ones included.

        `head_start_s`: how long a worker that was handed out has the machine before another is made in its place.
        """
        self._make, self._unmake = make, unmake
        self._head_start_s = head_start_s
        self._total = total
        self._warm: dict[str, deque[Item]] = {}
        self._templates: dict[str, Template] = {}
        self._starting: Template | None = None
        self._waiting: asyncio.Future[Item] | None = None
        """Who gets the worker that is being started."""
        self._failures: dict[str, int] = {}
        """Of each template: starts that failed in a row."""
        self._again_at: dict[str, float] = {}
        """When the loop may start those of a template again, on its clock."""
        self._told: dict[str, str] = {}
        """Why starts of a template failed last."""
        self._wake = asyncio.Event()

    def want(self, template: Template) -> None:
        """Keep workers of `template` ready from now on."""
        self._templates[template.name] = template
        self._wake.set()

    def take(self, template: Template) -> Item | None:
        """Hand out a warm worker, the oldest, or None; wakes the loop to replace it."""
        self.want(template)
        warm = self._warm.get(template.name)
        return warm.popleft() if warm else None

    async def take_next(self, template: Template) -> Item | None:
        """Hand out the worker that is being started; None if there is none, or somebody waits for it.

        Raises what its start raises.
        """
        if self._starting != template or self._waiting is not None:
            return None
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([waiting])
            return None if waiting.cancelled() else waiting.result()
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                await self._unmake(waiting.result())  # it came, and nobody is there to have it
            raise
        finally:
            waiting.cancel()

    async def forget(self, template: Template) -> None:
        """Keep no more workers of a template that is no more, and end those that are warm."""
        self._failures.pop(template.name, None)
        self._again_at.pop(template.name, None)
        self._told.pop(template.name, None)
        if self._templates.get(template.name) == template:
            del self._templates[template.name]
            for item in self._warm.pop(template.name, ()):
                await self._unmake(item)

    def discard(self, item: Item) -> None:
        """Forget a warm worker that died."""
        for warm in self._warm.values():
            with contextlib.suppress(ValueError):
                warm.remove(item)
        self.wake()

    def wake(self) -> None:
        """Look again how many workers there are."""
        self._wake.set()

    def templates(self) -> list[Template]:
        """Return those of which workers are kept ready."""
        return list(self._templates.values())

    def warm(self) -> list[Item]:
        """Return all warm workers."""
        return [item for warm in self._warm.values() for item in warm]

    def fills(self, template: Template) -> bool:
        """Whether workers of `template` are kept ready, and the last start of one did not fail."""
        return self._templates.get(template.name) == template and template.name not in self._told

    async def run(self) -> None:
        """Refill for ever. One start at a time: more would slow down the claims that they are for."""
        while True:
            await self._woken()
            await asyncio.sleep(self._head_start_s)
            for template in list(self._templates.values()):
                while self._wants_more(template):
                    await self._start(template)

    async def _woken(self) -> None:
        """Wait until somebody wakes us, or it is time to try again what failed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._again_at.values(), default=None)):
                await self._wake.wait()
        self._wake.clear()
        now = asyncio.get_running_loop().time()
        self._again_at = {name: again_at for name, again_at in self._again_at.items() if again_at > now}

    def _wants_more(self, template: Template) -> bool:
        is_known = self._templates.get(template.name) == template  # it may be forgotten meanwhile
        return is_known and template.name not in self._again_at and plan(template, self._snapshot(template)) > 0

    def _pause_s(self, template: Template, error: Exception) -> float:
        """Return for how long the loop starts none of this template: longer each time, but where there is no room."""
        if isinstance(error, CapacityError):
            return error.retry_after_s or _FULL_S
        self._failures[template.name] = self._failures.get(template.name, 0) + 1
        return backoff_s(self._failures[template.name])

    async def _start(self, template: Template) -> None:
        """Start one; who waits for it gets it."""
        self._starting = template
        try:
            item = await self._make(template)
        except Exception as error:
            pause_s = self._pause_s(template, error) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            self._again_at[template.name] = asyncio.get_running_loop().time() + pause_s
            is_new = self._told.get(template.name) != str(error)  # a full host is no news each five seconds
            self._told[template.name] = str(error)
            level = logging.WARNING if is_new else logging.DEBUG
            unforeseen = not isinstance(error, SandboxError)
            log.log(level, "no warm worker of template %s: %s", template.name, error, exc_info=unforeseen)
            if (waiting := self._take_waiting()) is not None:
                waiting.set_exception(error)
            return
        except BaseException:
            if (waiting := self._take_waiting()) is not None:
                waiting.cancel()
            raise
        finally:
            self._starting = None
        for noted in (self._failures, self._told):
            noted.pop(template.name, None)
        if (waiting := self._take_waiting()) is not None:
            waiting.set_result(item)
        elif self._templates.get(template.name) != template:  # forgotten meanwhile
            await self._unmake(item)
        else:
            self._warm.setdefault(template.name, deque()).append(item)

    def _take_waiting(self) -> asyncio.Future[Item] | None:
        """Return who waits for the worker that was being started, if somebody still does."""
        waiting, self._waiting = self._waiting, None
        return None if waiting is None or waiting.done() else waiting

    def _snapshot(self, template: Template) -> Snapshot:
        warm = len(self._warm.get(template.name, ()))
        return Snapshot(warm=warm, starting=int(self._starting == template), total=self._total(template))
