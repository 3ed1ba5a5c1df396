"""What sandboxes use, as their broker sees it from outside: nothing in a sandbox is asked.

It knows no HTTP and no owners: whose a sandbox is has been asked before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import client, usage_verbs
from jupyter_sandbox.errors import UnknownSandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OVER_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a sandbox uses, and how busy it was just before: `cpu_percent` of the processors it may use.

    None: the host cannot tell.
    """

    report: usage_verbs.UsageReport
    cpu_percent: float | None


async def get(sandbox: str) -> usage_verbs.UsageReport:
    """Return what a sandbox uses. Raises SandboxError."""
    return await client.call(usage_verbs.GetUsage(sandbox=sandbox), usage_verbs.UsageReport)


async def loads(sandboxes: Sequence[str]) -> dict[str, Load]:
    """Look twice, and return what each uses and how busy it was meanwhile; those that have ended are left out.

    Raises SandboxError.
    """
    before = await _looked_at(sandboxes)
    await asyncio.sleep(_OVER_S)
    after = await _looked_at(list(before))
    return {
        sandbox: Load(report=report, cpu_percent=cpu_percent(before[sandbox][1], report, at_s - before[sandbox][0]))
        for sandbox, (at_s, report) in after.items()
    }


async def _looked_at(sandboxes: Sequence[str]) -> dict[str, tuple[float, usage_verbs.UsageReport]]:
    found = {}
    for sandbox in sandboxes:
        with contextlib.suppress(UnknownSandboxError):
            report = await get(sandbox)
            found[sandbox] = time.monotonic(), report
    return found


def cpu_percent(before: usage_verbs.UsageReport, after: usage_verbs.UsageReport, seconds: float) -> float | None:
    """Return how busy the processors were that it may use, from 0 to 100; None when that is unknown. Pure."""
    if before.cpu_s is None or after.cpu_s is None or seconds <= 0:
        return None
    return min(100.0, max(0.0, 100 * (after.cpu_s - before.cpu_s) / (seconds * after.cpus)))
