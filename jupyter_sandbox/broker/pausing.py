"""Pause a sandbox and let it go on: files, memory and processes stay as they are, and nothing of it runs.

The ledger is told before a worker is frozen, and once it is thawed: what a dead broker left frozen is known to the next
one. A frozen agent answers nothing, so nothing is asked of it: see `Sandbox.reach`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from jupyter_sandbox.broker import recording
from jupyter_sandbox.errors import SandboxError, UnknownSandboxError
from jupyter_sandbox.host import tasks
from jupyter_sandbox.lifecycle import WorkerState

if TYPE_CHECKING:
    from jupyter_sandbox.broker.recording import Write
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.engines import Engine

log = logging.getLogger(__name__)


async def pause(sandbox: Sandbox, engine: Engine, write: Write) -> None:
    """Freeze everything in a claimed sandbox, its agent among it; quiet when it is.

    What the agent is being asked is answered before. Raises SandboxError; the sandbox runs on then.
    """
    await tasks.whole(_pause(sandbox, engine, write))


async def resume(sandbox: Sandbox, engine: Engine, write: Write) -> None:
    """Let everything in a claimed sandbox go on; quiet when it does. Raises SandboxError; it is as before then."""
    await tasks.whole(_resume(sandbox, engine, write))


async def pause_again(sandbox: Sandbox, engine: Engine, write: Write) -> None:
    """Freeze a sandbox that was thawed to see what is in it; when that fails it runs on, which is told."""
    try:
        await pause(sandbox, engine, write)
    except (SandboxError, OSError) as error:  # the disk of the ledger may be full
        log.warning("sandbox %s was paused, and goes on: %s", sandbox.id, error)


async def _pause(sandbox: Sandbox, engine: Engine, write: Write) -> None:
    async with sandbox.changing:
        require_claimed(sandbox)
        if sandbox.is_paused:
            return
        agent = sandbox.reach()
        sandbox.is_paused = True
        try:
            write(sandbox)
            async with agent.silence():
                await engine.pause(sandbox.worker)
        except BaseException:
            with contextlib.suppress(SandboxError):
                await engine.resume(sandbox.worker)
            sandbox.is_paused = False
            await _kill_late(sandbox)
            recording.write_or_later(sandbox, write)
            raise
    log.info("sandbox %s is paused", sandbox.id)


async def _resume(sandbox: Sandbox, engine: Engine, write: Write) -> None:
    async with sandbox.changing:
        require_claimed(sandbox)
        if not sandbox.is_paused:
            return
        await engine.resume(sandbox.worker)
        sandbox.is_paused = False
        recording.write_or_later(sandbox, write)
        await _kill_late(sandbox)
    log.info("sandbox %s goes on", sandbox.id)


async def _kill_late(sandbox: Sandbox) -> None:
    """Kill what was to be killed meanwhile."""
    while sandbox.kills:
        await sandbox.kill(sandbox.kills.pop())


def require_claimed(sandbox: Sandbox) -> None:
    """Raise UnknownSandboxError for one that ended while we waited for our turn."""
    if sandbox.state is not WorkerState.CLAIMED:
        raise UnknownSandboxError(f"no sandbox {sandbox.id}")
