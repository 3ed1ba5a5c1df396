"""What a broker does now and then, whoever asks for what: it tells its agents that it is there, rests, and reaps."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import SandboxError
from sandbox_worker.protocol import LEASE_S

if TYPE_CHECKING:
    from jupyter_sandbox.broker.registry import Registry
    from jupyter_sandbox.specs import Template

EVERY_S: Final = LEASE_S / 3

log = logging.getLogger(__name__)


async def keep_up(registry: Registry, *, resting: Template | None = None, every_s: float = EVERY_S) -> None:
    """Do it for ever. What fails is tried again the next time: a broker without it still serves.

    `resting`: the only template to be ready for when nothing was claimed since the last time; None for all as ever.
    """
    while True:
        claims = registry.claims
        await asyncio.sleep(every_s)
        await registry.renew()
        try:
            if resting and registry.claims == claims and not registry.claimed():
                await registry.rest(resting)
            for what in await registry.reap(dry_run=False):
                log.warning("reaped %s, which nobody owned", what)
        except SandboxError as error:  # the container engine is away
            log.warning("what nobody needs or owns could not be looked for: %s", error)
        except Exception:
            log.exception("what nobody needs or owns could not be looked for")
