"""The broker's verb about what a sandbox uses. See `verbs`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GetUsage:
    """Ask what a sandbox uses. Answer: UsageReport."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class UsageReport:
    """What a sandbox uses now, and the most it may; None where the host cannot tell. `cpu_s`: since it was made.

    `memory_cache_bytes`: how much of its memory is files that were read or written, which the kernel takes back first.
    """

    cpu_s: float | None
    cpus: float
    memory_bytes: int | None
    memory_cache_bytes: int | None
    memory_total_bytes: int
    disk_bytes: int | None
    disk_total_bytes: int


REQUESTS = (GetUsage,)
ANSWERS = (UsageReport,)
