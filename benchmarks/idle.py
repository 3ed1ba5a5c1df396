"""Measurement of idleness: what kernels that nobody uses cost the processor, with everything that belongs to them."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.client import KernelFailedError, Kernels
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results
from benchmarks.processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

CPU = Metric(name="idle.cpu", unit="% of a core", meaning="server and idle kernels, each with an open websocket")
METRICS = (CPU,)

SETTLE_S = 3.0


def cpu_by_process(server: Server) -> dict[int, float]:
    return {process.pid: cpu_seconds(process.pid) for process in server.processes()}


async def _add_in_turn(kernels: Kernels, numbers: Iterator[int], name: str, results: Results) -> None:
    for number in numbers:
        channel = await kernels.add()
        printed = await channel.execute(f"print({number})")
        results.check(name, "idle", expected=f"{number}\n", actual=printed)


async def measure_idle(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Start kernels on all systems, let them run a cell, then look at their processor time for a while.

    All systems at the same time: a process's own time does not depend on its neighbours.
    """
    async with AsyncExitStack() as stack:
        watched = []
        for server in servers:
            name = server.system.name
            try:
                fail = partial(results.fail, name, "idle")
                kernels = await stack.enter_async_context(Kernels(server.client, server.system.kernel_name, fail))
                numbers = iter(range(plan.idle_kernels))
                adding = (_add_in_turn(kernels, numbers, name, results) for _ in range(plan.idle_parallel))
                await asyncio.gather(*adding)
                watched.append(server)
            except KernelFailedError as error:
                results.fail(name, "idle", str(error))
        await quiet(plan.quiet_timeout_s)
        await asyncio.sleep(SETTLE_S)
        before = {server.system.name: cpu_by_process(server) for server in watched}
        begin = time.perf_counter()
        await asyncio.sleep(plan.idle_s)
        elapsed_s = time.perf_counter() - begin
        for server in watched:
            earlier = before[server.system.name]
            used = {pid: seconds - earlier.get(pid, 0.0) for pid, seconds in cpu_by_process(server).items()}
            results.add(CPU, server.system.name, sum(used.values()) * 100 / elapsed_s)
            busiest = max(used, key=used.__getitem__)
            command = next((p.command for p in server.processes() if p.pid == busiest), "a process that ended")
            share = used[busiest] * 100 / elapsed_s
            text = f"{plan.idle_kernels} kernels, {len(used)} processes; busiest: {server.system.role_of(command)}"
            results.note(server.system.name, f"{text} {share:.2f} % of a core", "idle")
