"""Measurement of many starts of our own: does each take about as long as the others, or is there a second mode?

A second mode is a share of starts that wait for what the others do not wait for: a worker that is not there yet, a
timer, a second try. Such starts take a multiple of what the fastest take. The twelve that `start` makes of each system,
for a fair comparison, may not contain one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated, start_once
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

START = Metric(name="spread.start", unit="ms", meaning="POST /api/kernels -> first result and idle, of many starts")
SLOW = Metric(
    name="spread.slow", unit="%", meaning="share of these that took more than twice the fastest tenth's longest"
)
METRICS = (START, SLOW)

SLICES = 5
_QUIET_S, _QUIET_TIMEOUT_S = 0.05, 1.0


def slow_ms(samples: Sequence[float]) -> float:
    """Return what a start of another mode takes at least: twice the 10th percentile.

    Of the median would be wrong where the second mode is the larger one.
    """
    return 2 * percentile(samples, 0.1)


def slow_percent(samples: Sequence[float]) -> float:
    """Return the share of starts that are of another mode."""
    limit_ms = slow_ms(samples)
    return 100 * sum(value > limit_ms for value in samples) / len(samples)


async def _starts(server: Server, plan: Plan, end: float, samples: list[float], results: Results) -> None:
    while time.monotonic() < end and len(samples) < plan.spread_starts:
        await quiet(_QUIET_TIMEOUT_S, window_s=_QUIET_S)
        start = await start_once(server)
        if results.check(server.system.name, "spread", expected="42\n", actual=start.printed):
            samples.append(start.total_ms)
            results.add(START, server.system.name, start.total_ms)


async def measure_spread(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Make as many starts as fit into a time that is the same for each system, in slices that take turns.

    Each start waits until the machine is quiet, that is until the pool has its worker again.
    """
    samples: dict[str, list[float]] = {server.system.name: [] for server in servers}
    for turn in range(SLICES):
        for server in rotated(servers, turn):
            name = server.system.name
            end = time.monotonic() + plan.spread_s / SLICES
            try:
                await _starts(server, plan, end, samples[name], results)
            except KernelFailedError as error:
                results.fail(name, "spread", str(error))
    for name, taken in samples.items():
        if taken:
            results.add(SLOW, name, slow_percent(taken))
