"""All that a dead broker left: taken over as the next one begins, or as soon as the machine lets it be judged."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import templates
from jupyter_sandbox.broker.recovery import Recovery
from jupyter_sandbox.broker.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jupyter_sandbox.broker.recording import Write
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.firewall import Firewall
    from jupyter_sandbox.guards import ids
    from jupyter_sandbox.ledger import Ledger, Record
    from jupyter_sandbox.specs import Template

_AT_A_TIME: Final = 8
"""Sandboxes that are asked side by side: who does not answer is waited for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recoveries:
    """Fills the registry's `sandboxes` from the ledger."""

    engine: Engine
    ledger: Ledger
    firewall: Firewall
    known_templates: Mapping[str, Template]
    sandboxes: dict[ids.SandboxId, Sandbox]
    making: dict[ids.SandboxId, Template]
    """Of what is neither in `sandboxes` nor nobody's: workers that start, or are looked at just now."""
    tasks: set[asyncio.Task[None]]
    connect: Callable[[Sandbox], Awaitable[None]]
    write: Write
    taken: Callable[[Sandbox], None]
    destroy: Callable[[Sandbox], Awaitable[None]]
    waiting: set[str] = field(default_factory=set)
    """Which could not be judged yet: the machine did not let us (descriptors, memory, a bad block)."""

    async def begin(self) -> None:
        """Judge all. Raises EngineUnavailableError; who cannot be judged now waits."""
        turn = asyncio.Semaphore(_AT_A_TIME)

        async def in_turn(record: Record) -> None:
            async with turn:
                await self._recover(record)

        tries = [in_turn(record) for record in self.ledger.records()]
        for error in filter(None, await asyncio.gather(*tries, return_exceptions=True)):
            raise error
        self.waiting.update(self.ledger.unread)

    async def go_on(self) -> None:
        """Judge those that wait and can be judged now."""
        records = list(self.ledger.records()) if self.waiting else []
        self.waiting.intersection_update({*self.ledger.unread, *(record.id for record in records)})
        for record in records:
            if record.id in self.waiting and record.id not in self.making:
                await self._recover(record)

    async def _recover(self, record: Record) -> None:
        template = self.known_templates.get(record.template) or templates.BUILT_IN["python"]
        self.making[record.id] = template
        try:
            worker = await self.engine.recover(record, template)
            self.waiting.discard(record.id)
            if worker is None:
                return
            sandbox = Sandbox(worker=worker, template=template)
            self.sandboxes[sandbox.id] = sandbox
        except (OSError, RuntimeError) as error:  # no descriptor, no memory, no thread
            if record.id not in self.waiting:
                log.error("sandbox %s cannot be judged now; it stays, and is tried again: %s", record.id, error)
            self.waiting.add(record.id)
            return
        finally:
            del self.making[record.id]
        if record.owner is None:
            await self.destroy(sandbox)
            return
        sandbox.owner, sandbox.server = record.owner, record.server
        if any(other.holder and other.seats.intersection(record.seats) for other in self.sandboxes.values()):
            log.warning("sandbox %s is given up: its kernel was started anew meanwhile", sandbox.id)
            await self.destroy(sandbox)
            return
        await Recovery(
            sandbox=sandbox,
            record=record,
            engine=self.engine,
            firewall=self.firewall,
            connect=self.connect,
            write=self.write,
            destroy=self.destroy,
            taken=self.taken,
        ).begin(self.tasks)
