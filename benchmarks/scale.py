"""Measurement of growth: what the next kernel, a request and a kernel's memory cost while more and more kernels live.

One system at a time, since memory pages would be shared between systems. Growing ends early when it takes too long.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.client import Channel, KernelFailedError, Kernels
from benchmarks.machine import quiet
from benchmarks.memory import MIB, footprint
from benchmarks.metrics import Metric, Results
from benchmarks.plan import FULL, QUICK

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from benchmarks.server import Server


def start_at(kernels: int) -> Metric:
    """Return the metric of the next kernel's start."""
    return Metric(name="scale.start", unit="ms", meaning="POST -> first result of one more kernel", at=kernels)


def rps_at(kernels: int) -> Metric:
    """Return the metric of throughput."""
    meaning = "right answers per second, all kernels busy"
    return Metric(name="scale.rps", unit="1/s", meaning=meaning, more_is_better=True, at=kernels)


def latency_at(kernels: int) -> Metric:
    """Return the metric of a request."""
    return Metric(name="scale.latency", unit="ms", meaning="one request, all kernels busy", at=kernels)


def memory_at(kernels: int) -> Metric:
    """Return the metric of memory."""
    meaning = "PSS of everything above that without kernels, per kernel"
    return Metric(name="scale.memory", unit="MiB", meaning=meaning, at=kernels)


_STEPS = sorted({*FULL.scale_kernels, *QUICK.scale_kernels})
METRICS = tuple(metric_at(step) for metric_at in (start_at, rps_at, latency_at, memory_at) for step in _STEPS)


class _Growth:
    """One server and the kernels that live on it."""

    def __init__(self, server: Server, plan: Plan, results: Results, kernels: Kernels) -> None:
        self._server = server
        self._name = server.system.name
        self._plan = plan
        self._results = results
        self._kernels = kernels
        self._channels: list[Channel] = []

    async def _one_more(self) -> None:
        channel = await self._kernels.add()
        await channel.execute("x = 0")
        self._channels.append(channel)

    async def grow(self, count: int, end: float) -> bool:
        """Add kernels until there are `count`; returns False when the time is over before."""
        while (missing := count - len(self._channels)) > 0:
            if time.monotonic() > end:
                return False
            async with asyncio.TaskGroup() as group:
                for _ in range(min(missing, self._plan.scale_parallel)):
                    group.create_task(self._one_more())
        return True

    async def start_next(self, count: int) -> None:
        """Start, use and delete one more kernel."""
        for _ in range(self._plan.scale_starts):
            await quiet(self._plan.quiet_timeout_s)
            begin = time.perf_counter()
            async with self._server.client.kernel(self._server.system.kernel_name) as channel:
                printed = await channel.execute("print(6 * 7)")
                elapsed_ms = (time.perf_counter() - begin) * 1e3
            if self._results.check(self._name, "scale", expected="42\n", actual=printed):
                self._results.add(start_at(count), self._name, elapsed_ms)

    async def _requests(self, channel: Channel, number: int, count: int) -> int:
        right = 0
        await channel.execute("x = 0")
        for value in range(1, 1 + number):
            begin = time.perf_counter()
            printed = await channel.execute("x += 1; print(x)")
            elapsed_ms = (time.perf_counter() - begin) * 1e3
            if self._results.check(self._name, "scale", expected=f"{value}\n", actual=printed):
                self._results.add(latency_at(count), self._name, elapsed_ms)
                right += 1
        return right

    async def work(self, count: int) -> None:
        """Let all kernels compute at once."""
        await quiet(self._plan.quiet_timeout_s)
        number = max(5, self._plan.scale_requests // count)
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._requests(channel, number, count)) for channel in self._channels]
        right = sum(task.result() for task in tasks)
        self._results.add(rps_at(count), self._name, right / (time.perf_counter() - begin))

    async def weigh(self, count: int, before_bytes: int) -> None:
        """Divide what was added by the number of kernels."""
        await quiet(self._plan.quiet_timeout_s)
        total = footprint(self._server).total
        self._results.add(memory_at(count), self._name, (total - before_bytes) / count / MIB)


async def measure_scale(server: Server, plan: Plan, results: Results) -> None:
    """Measure at each number of kernels, growing from one to the next."""
    name = server.system.name
    begin = time.monotonic()
    try:
        async with server.client.kernel(server.system.kernel_name) as channel:
            await channel.execute("x = 0")
        await quiet(plan.quiet_timeout_s)
        before_bytes = footprint(server).total
        async with Kernels(server.client, server.system.kernel_name, partial(results.fail, name, "scale")) as kernels:
            growth = _Growth(server, plan, results, kernels)
            for count in plan.scale_kernels:
                if not await growth.grow(count, begin + plan.scale_budget_s):
                    text = f"not grown to {count} kernels: {plan.scale_budget_s:.0f} s were over"
                    results.note(name, text, "scale")
                    break
                await growth.weigh(count, before_bytes)
                await growth.start_next(count)
                await growth.work(count)
    except* KernelFailedError as group:
        results.fail(name, "scale", str(group.exceptions[0]))
