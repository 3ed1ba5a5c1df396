"""The grace of sandboxes that outlived their broker or their server: how long they wait for who takes them over."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jupyter_sandbox.host import tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox.broker.sandbox import Sandbox

log = logging.getLogger(__name__)


class Grace:
    """What all sandboxes of a broker have of it."""

    def __init__(self, destroy: Callable[[Sandbox], Awaitable[None]], among: set[asyncio.Task[None]]) -> None:
        """Call `destroy` when it is over; each wait is a task `among` these."""
        self.seconds = 0.0
        """0: what is left by its server does not wait."""
        self.runs = asyncio.Event()
        """Set when all sandboxes of a dead broker are recovered, or tried: before that nobody can take one over."""
        self._destroy = destroy
        self._tasks = among

    def begin(self, sandbox: Sandbox) -> None:
        """Begin that of one; who takes it over and goes again gives it another."""
        sandbox.end_grace()
        sandbox.grace = tasks.spawn(self._tasks, self._expire(sandbox))

    async def _expire(self, sandbox: Sandbox) -> None:
        """Destroy what nobody takes over in time. Until it runs may take long."""
        await self.runs.wait()
        await asyncio.sleep(self.seconds)
        if sandbox.holder is None:
            log.info("sandbox %s ends: nobody took it over within %.0f s", sandbox.id, self.seconds)
            await self._destroy(sandbox)
