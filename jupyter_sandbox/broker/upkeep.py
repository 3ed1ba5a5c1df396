"""What a broker does now and then, whoever asks for what.

It tells its agents that it is there, writes down what could not be, rests, and reaps.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import recording, recovery
from jupyter_sandbox.errors import SandboxError
from sandbox_worker.protocol import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox.broker.registry import Registry

EVERY_S: Final = LEASE_S / 3

log = logging.getLogger(__name__)


async def keep_up(
    registry: Registry, *, rest: Callable[[], Awaitable[object]] | None = None, every_s: float = EVERY_S
) -> None:
    """Do it for ever. What fails is tried again the next time: a broker without it still serves.

    `rest` is called when nothing was claimed since the last time.
    """
    while True:
        claims = registry.claims
        await _rest(registry, every_s)
        await registry.renew()
        await _try(_catch_up(registry))
        if rest and registry.claims == claims and not registry.claimed():
            await _try(rest())
        await reap(registry)


async def _rest(registry: Registry, for_s: float) -> None:
    """Wait; meanwhile try again to judge the sandboxes that could not be: their clients wait for a minute."""
    until = asyncio.get_running_loop().time() + for_s
    while (left_s := until - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left_s, recovery.PAUSE_S) if registry.is_waiting else left_s)
        if registry.is_waiting:
            await _try(registry.recover_waiting())


async def _catch_up(registry: Registry) -> None:
    recording.catch_up(registry.claimed(), registry.record)


async def reap(registry: Registry) -> None:
    """Remove what nobody owns, as far as that can be done now, and say what it was."""
    await _try(_reap(registry))


async def _reap(registry: Registry) -> None:
    for what in await registry.reap(dry_run=False):
        log.warning("reaped %s, which nobody owned", what)


async def _try(work: Awaitable[object]) -> None:
    try:
        await work
    except SandboxError as error:  # the container engine is away
        log.warning("what is done now and then could not be: %s", error)
    except Exception:
        log.exception("what is done now and then could not be")
