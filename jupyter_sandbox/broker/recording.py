"""The ledger cannot always be written, as on a full disk: which verbs are refused then, and what is written later.

What the next broker must know before something is done is written before, or the verb is undone and refused: a claim,
a new seat, a pause, a restriction. What is so already goes through, and is written with the next record of the sandbox,
by the upkeep, or as the broker ends: that it goes on, a note, a seat that is free, and that a verb was undone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.host import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.ledger import Ledger

    Write = Callable[[Sandbox], None]
    """Tells the ledger what a sandbox is now. Raises SandboxError; the ledger says what it said before then."""

log = logging.getLogger(__name__)


def write(sandbox: Sandbox, ledger: Ledger, engine: str) -> None:
    """Write down what is known of a sandbox that was made by the engine of that name. Raises SandboxError."""
    try:
        started = processes.start_time(sandbox.worker.pid)
    except OSError as error:  # too many open files, no memory
        raise SandboxError(
            f"sandbox {sandbox.id} cannot be recorded now, try again: {error}", retry_after_s=5
        ) from error
    ledger.write(sandbox.record(started, engine))
    if sandbox.is_unrecorded:
        sandbox.is_unrecorded = False
        log.info("sandbox %s is recorded as it is now", sandbox.id)


def write_or_later(sandbox: Sandbox, write: Write) -> None:
    """Write down what is so already, or leave that to the next record; told once, until it was written."""
    try:
        write(sandbox)
    except SandboxError as error:
        if not sandbox.is_unrecorded:
            log.warning(
                "the next broker may find sandbox %s as it was before, until it is recorded: %s", sandbox.id, error
            )
        sandbox.is_unrecorded = True


def catch_up(sandboxes: Iterable[Sandbox], write: Write) -> None:
    """Write down what could not be; what cannot still, is tried the next time."""
    for sandbox in sandboxes:
        if sandbox.is_unrecorded:
            write_or_later(sandbox, write)
