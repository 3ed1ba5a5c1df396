"""Why a kernel or command ended, in a word for programs and a sentence for people. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jupyter_sandbox.specs import Limits


What = Literal["kernel", "command"]


@dataclass(frozen=True, kw_only=True)
class Obituary:
    """`reason` is one of: finished, requested, memory, disk, signal, failed."""

    reason: str
    message: str


def write(
    *, what: What, status: int, limits: Limits, out_of_memory: bool, disk_full: bool, requested: bool, log: str
) -> Obituary:
    """Judge the end of a process.

    `status` is its exit code or the negative signal number; `out_of_memory` says that the worker's memory limit killed
    something since it started; `requested` that we had been asked to end it; `log` is the end of its raw output.
    """
    if requested:
        return Obituary(reason="requested", message=f"The {what} was shut down.")
    if out_of_memory and status == -signal.SIGKILL:
        return Obituary(
            reason="memory",
            message=f"The {what} was stopped: it needed more than its {limits.memory_mib} MiB of memory. "
            "Work with less data at a time, or ask for a template with a higher memory limit.",
        )
    if disk_full and status != 0:
        return Obituary(
            reason="disk",
            message=f"The {what} stopped (status {status}) and the sandbox's disk of {limits.disk_mib} MiB is full. "
            "Delete files under /sandbox, or ask for a template with a larger disk.",
        )
    if status == 0:
        return Obituary(reason="finished", message=f"The {what} ended by itself (exit status 0).")
    words = "".join(c if c.isprintable() or c == "\n" else "?" for c in log).strip()[-600:]
    tail = f" Its last words: {words}" if words else ""
    if status < 0:
        return Obituary(reason="signal", message=f"The {what} was ended by {_signal_name(-status)}.{tail}")
    return Obituary(reason="failed", message=f"The {what} ended with exit status {status}.{tail}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
