"""Takes over claimed sandboxes that outlived their broker, with the engine that made them.

What they are, their records say, and what runs in them, their agents. What keeps one from being taken over is final, if
its worker is dead or its agent lies, or may pass: then it is tried again for a while, but not for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import lifecycle, narrowing, restrictions
from jupyter_sandbox.broker import commands, pausing, restricting
from jupyter_sandbox.errors import EngineUnavailableError, IsolationUnavailableError, SandboxError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.host import processes, tasks
from jupyter_sandbox.lifecycle import WorkerState
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jupyter_sandbox.broker import recording
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.firewall import Firewall
    from jupyter_sandbox.ledger import Record

PAUSE_S: Final = 5
"""From the end of one try to the next."""
PATIENCE_S: Final = 25
"""How long after the first try another is begun; with the time-outs of both about as long as clients wait, 60 s."""
_MAX_RUNNING: Final = 1024
_FINAL: Final = (ConnectionError, FileNotFoundError, ProcessLookupError)
"""Nobody listens, or there is no such process: what is gone does not come back."""

log = logging.getLogger(__name__)


def engine_for(wanted: str, records: Iterable[Record]) -> str:
    """Return the name of the engine to use: `wanted`, or for `auto` the one of the claimed sandboxes that live.

    No other can take them over, or would find what they leave. Raises IsolationUnavailableError rather than use one.
    """
    claimed = [each for each in records if each.engine not in ("", wanted) and each.owner is not None]
    living = {each.engine for each in claimed if _lives(each)}
    if not living:
        return wanted
    if wanted == "auto" and len(living) == 1:
        return living.pop()
    names = ", ".join(sorted(living))
    raise IsolationUnavailableError(
        f"sandboxes of the engine {names} live, and the engine {wanted} cannot take them over: start the broker with "
        "that one and release them, or wait until they have ended (15 minutes without a broker, if they are not paused)"
    )


def _lives(record: Record) -> bool:
    try:
        pidfd = processes.open_living(record.pid, record.started) if record.pid else None
    except OSError as error:
        log.warning(
            "whether sandbox %s lives cannot be told now, and it is taken for one that does: %s", record.id, error
        )
        return True
    if pidfd is not None:
        os.close(pidfd)
    return pidfd is not None


def may_pass(error: Exception) -> bool:
    """Whether what keeps a sandbox from being taken over may be otherwise a moment later.

    So it is with what timed out, or what machine, firewall or container engine could not do now; an error of ours has
    that as its cause. What an agent said, or that nobody listens, stays as it is.
    """
    if isinstance(error, EngineUnavailableError):
        return True
    cause = error.__cause__ if isinstance(error, SandboxError) else error
    return isinstance(cause, OSError | subprocess.TimeoutExpired) and not isinstance(cause, _FINAL)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How one sandbox becomes what it was. Known are its worker, owner, server and record."""

    sandbox: Sandbox
    record: Record
    engine: Engine
    firewall: Firewall
    connect: Callable[[Sandbox], Awaitable[None]]
    """Connects to its agent."""
    write: recording.Write
    taken: Callable[[Sandbox], None]
    """Called once it is what it was."""
    destroy: Callable[[Sandbox], Awaitable[None]]
    """Called once it is given up."""

    async def begin(self, tasks_of_later: set[asyncio.Task[None]]) -> None:
        """Take it over or give it up; if what keeps it may pass, beside everything else, in a task of these."""
        try:
            await self._try()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may live
            log.warning("sandbox %s cannot be taken over now; it stays, and is tried again: %s", self.sandbox.id, error)
            tasks.spawn(tasks_of_later, self._go_on(), f"recovery of {self.sandbox.id}")

    async def _go_on(self) -> None:
        until = time.monotonic() + PATIENCE_S
        await asyncio.sleep(PAUSE_S)
        while self.sandbox.is_late:  # or it was released meanwhile
            try:
                await self._try()
            except Exception as error:
                if time.monotonic() + PAUSE_S > until:
                    log.exception("sandbox %s is destroyed; it still cannot be taken over", self.sandbox.id)
                    await self.destroy(self.sandbox)
                else:
                    log.info("sandbox %s still cannot be taken over: %s", self.sandbox.id, error)
                    await asyncio.sleep(PAUSE_S)

    async def _try(self) -> None:
        """Take it over or give it up. Raises what keeps it from that if it may pass."""
        if not await self._take_over():
            await self.destroy(self.sandbox)
            return
        log.info("sandbox %s recovered with %d kernels", self.sandbox.id, len(self.sandbox.kernels))
        self.taken(self.sandbox)

    async def _take_over(self) -> bool:
        """Make it what it was; whether that can be done. Raises SandboxError or OSError if it may be later.

        What was paused is thawed for a moment: only its agent knows what is in it.
        """
        sandbox, record, engine = self.sandbox, self.record, self.engine
        kills = sandbox.worker.out_of_memory_kills()
        sandbox.seats = set(record.seats)
        sandbox.kernels = dict.fromkeys(record.seats, kills)  # until it says otherwise
        try:
            sandbox.restriction, sandbox.less = restrictions.judge(record.denied, record.excepted), record.less
            sandbox.worker.limits = narrowing.lowered(sandbox.worker.limits, record.less)
            await restricting.enforce_again(sandbox, self.firewall)
            if record.paused:
                await engine.resume(sandbox.worker)
            await self.connect(sandbox)
            description = await sandbox.reach().ask(protocol.Describe(), protocol.Description)
        except (SandboxError, OSError) as error:
            if may_pass(error):
                await self._let_go()
                raise
            log.warning("sandbox %s cannot be recovered: %s", sandbox.id, error)
            return False
        if sandbox.reach().is_gone:
            log.warning("sandbox %s cannot be recovered: its agent has gone", sandbox.id)
            return False
        for state in (WorkerState.WARM, WorkerState.CLAIMED):
            sandbox.state = lifecycle.advance(sandbox.state, state)
        sandbox.created_at = record.created_at
        sandbox.on_behalf = record.on_behalf
        sandbox.cwd = record.workspace or HOME
        sandbox.notes = dict(record.notes)
        running = set(description.running)
        orphans = {name for name in running if ids.is_command_id(name)}
        if running - sandbox.seats - orphans or len(running) > _MAX_RUNNING:
            log.warning("sandbox %s is given up: its agent speaks of kernels that never were", sandbox.id)
            return False
        sandbox.kernels = dict.fromkeys(running & set(sandbox.kernels), kills)
        await commands.end_orphans(sandbox, orphans)
        if record.paused:
            await pausing.pause_again(sandbox, engine, self.write)
        return description.bound

    async def _let_go(self) -> None:
        """Leave a sandbox as it was found: nobody is connected to its agent, and what was paused is."""
        sandbox = self.sandbox
        agent, sandbox.agent = sandbox.agent, None
        if agent:
            await agent.close()
        if self.record.paused:
            try:
                await self.engine.pause(sandbox.worker)
            except SandboxError as error:
                log.warning("sandbox %s was paused, and goes on until it is taken over: %s", sandbox.id, error)
