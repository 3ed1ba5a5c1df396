"""Warm workers: how many to start is a pure decision, the loop around it only acts.

A worker leaves the pool once, to be claimed, and never comes back. When starts fail the loop waits longer each time;
a claim that finds the pool empty starts a worker of its own and does not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from jupyter_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox.specs import Template

HEAD_START_S: Final = 0.06
"""Making a worker keeps one processor busy for so long, and who just claimed one starts a kernel meanwhile."""
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 30.0

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


def backoff_s(failures: int) -> float:
    """Return how long to wait after `failures` failed starts in a row, without jitter."""
    return min(_FIRST_BACKOFF_S * 2 ** min(failures - 1, 16), _MAX_BACKOFF_S) if failures else 0.0


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
        self._starting = 0
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

    async def forget(self, template: Template) -> None:
        """Keep no more workers of a template that is no more, and end those that are warm."""
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

    def warm(self) -> list[Item]:
        """Return all warm workers."""
        return [item for warm in self._warm.values() for item in warm]

    async def run(self) -> None:
        """Refill for ever. One start at a time: more would slow down the claims that they are for."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._head_start_s)
            for template in list(self._templates.values()):
                while plan(template, self._snapshot(template)):
                    self._starting += 1
                    try:
                        item = await self._make(template)
                    except Exception as error:
                        failures += 1
                        unforeseen = not isinstance(error, SandboxError)
                        log.warning("no warm worker of template %s: %s", template.name, error, exc_info=unforeseen)
                        self._wake.set()
                        break
                    finally:
                        self._starting -= 1
                    failures = 0
                    if self._templates.get(template.name) != template:  # forgotten meanwhile
                        await self._unmake(item)
                        break
                    self._warm.setdefault(template.name, deque()).append(item)
            if failures:
                await asyncio.sleep(backoff_s(failures) * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def _snapshot(self, template: Template) -> Snapshot:
        warm = len(self._warm.get(template.name, ()))
        return Snapshot(warm=warm, starting=self._starting, total=self._total(template))
