"""Takes over claimed sandboxes that outlived their broker, with the engine that made them.

What they are, their records say, and what runs in them, their agents.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import lifecycle, narrowing, restrictions
from jupyter_sandbox.broker import commands, pausing, restricting
from jupyter_sandbox.errors import IsolationUnavailableError, SandboxError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.host import processes
from jupyter_sandbox.lifecycle import WorkerState
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.firewall import Firewall
    from jupyter_sandbox.ledger import Record

_MAX_RUNNING: Final = 1024

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


async def take_over(
    sandbox: Sandbox,
    record: Record,
    engine: Engine,
    firewall: Firewall,
    connect: Callable[[Sandbox], Awaitable[None]],
    write: pausing.Write,
) -> bool:
    """Make `sandbox`, of which only the worker is known, what it was; whether that can be done.

    `connect` connects to its agent. What was paused is thawed for a moment: only its agent knows what is in it.
    """
    kills = sandbox.worker.out_of_memory_kills()
    sandbox.seats = set(record.seats)
    sandbox.kernels = dict.fromkeys(record.seats, kills)  # until it says otherwise
    try:
        sandbox.restriction, sandbox.less = restrictions.judge(record.denied, record.excepted), record.less
        sandbox.worker.limits = narrowing.lowered(sandbox.worker.limits, record.less)
        await restricting.enforce_again(sandbox, firewall)
        if record.paused:
            await engine.resume(sandbox.worker)
        await connect(sandbox)
        description = await sandbox.reach().ask(protocol.Describe(), protocol.Description)
    except SandboxError as error:
        log.warning("sandbox %s cannot be recovered: %s", sandbox.id, error)
        return False
    sandbox.state = lifecycle.advance(sandbox.state, WorkerState.CLAIMED)
    sandbox.owner, sandbox.created_at = record.owner or 0, record.created_at
    sandbox.on_behalf = record.on_behalf
    sandbox.cwd = record.workspace or HOME
    sandbox.server, sandbox.notes = record.server, dict(record.notes)
    running = set(description.running)
    orphans = {name for name in running if ids.is_command_id(name)}
    if running - sandbox.seats - orphans or len(running) > _MAX_RUNNING:
        log.warning("sandbox %s is given up: its agent speaks of kernels that never were", sandbox.id)
        return False
    sandbox.kernels = dict.fromkeys(running & set(sandbox.kernels), kills)
    await commands.end_orphans(sandbox, orphans)
    if record.paused:
        await pausing.pause_again(sandbox, engine, write)
    return description.bound
