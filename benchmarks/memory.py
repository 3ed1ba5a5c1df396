"""Measurement of memory: what an idle kernel occupies, with everything that belongs to it.

The proportional set size (PSS) of all processes of a system is summed before and after a number of kernels. The
difference counts each kernel's own processes (agent, kernel), what they share with a zygote, and the growth of the
server. What stands there without any kernel (broker, zygote, warm pool) is reported apart, and also spread over the
kernels. PSS does not see files on a tmpfs; the fall of MemAvailable does, but also sees whoever else uses the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.client import KernelFailedError
from benchmarks.metrics import Metric, Results
from benchmarks.processes import pss_bytes
from benchmarks.systems import SERVER_ROLE

if TYPE_CHECKING:
    from benchmarks.plan import Plan
    from benchmarks.server import Server

PER_KERNEL = Metric(name="memory.per_kernel", unit="MiB", meaning="PSS that one more idle kernel adds")
STANDING = Metric(name="memory.standing", unit="MiB", meaning="PSS without any kernel, server not included")
ALL_IN = Metric(name="memory.all_in", unit="MiB", meaning="per kernel, with its share of what stands")
AVAILABLE = Metric(name="memory.available_drop", unit="MiB", meaning="fall of MemAvailable per kernel (noisy)")
WITH_DATA = Metric(
    name="memory.with_data", unit="MiB", meaning="PSS of a kernel that imported numpy, pandas, matplotlib"
)
METRICS = (PER_KERNEL, WITH_DATA, STANDING, ALL_IN, AVAILABLE)

_IMPORT = "import numpy, pandas, matplotlib.pyplot; print(pandas.DataFrame({'a': [1, 2]}).a.max())"
MIB = 1024 * 1024
STEADY_TOLERANCE = 0.01
STEADY_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """PSS in bytes by role, how many processes that was, and what the machine had available."""

    by_role: Counter[str]
    process_count: int
    available_bytes: int

    @property
    def total(self) -> int:
        """Return the sum of all roles."""
        return self.by_role.total()


def available_bytes() -> int:
    """Return what the machine could still give to processes."""
    fields = dict(line.split(":") for line in (Path("/proc") / "meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def footprint(server: Server) -> Footprint:
    by_role: Counter[str] = Counter()
    count = 0
    for process in server.processes():
        size = pss_bytes(process.pid)
        if size is not None:
            count += 1
            by_role[server.system.role_of(process.command)] += size
    return Footprint(by_role=by_role, process_count=count, available_bytes=available_bytes())


async def steady(server: Server, plan: Plan, results: Results) -> Footprint:
    """Wait until neither the number of processes nor their sum changes: a pool has refilled, a dead kernel is gone."""
    end = time.monotonic() + STEADY_TIMEOUT_S
    last = footprint(server)
    while time.monotonic() < end:
        await asyncio.sleep(plan.steady_window_s)
        now = footprint(server)
        if now.process_count == last.process_count and abs(now.total - last.total) <= STEADY_TOLERANCE * last.total:
            return now
        last = now
    results.note(server.system.name, "memory was not steady; the figures are of a moment", "memory")
    return last


def _describe(footprint: Footprint) -> str:
    roles = ", ".join(f"{role} {size / MIB:.1f}" for role, size in sorted(footprint.by_role.items()))
    return f"processes {footprint.process_count}: {roles} MiB"


async def measure_memory(server: Server, plan: Plan, results: Results) -> None:
    """Start kernels that each ran one cell and are still connected, and compare the memory with that of none.

    No other server may run meanwhile: kernels of others share pages with this one's.
    """
    name, count = server.system.name, plan.memory_kernels
    try:
        async with server.client.kernel(server.system.kernel_name) as channel:
            await channel.execute("x = 0")
        before = await steady(server, plan, results)
        async with AsyncExitStack() as stack:
            channels = []
            for number in range(count):
                channel = await stack.enter_async_context(server.client.kernel(server.system.kernel_name))
                printed = await channel.execute(f"x = {number}; print(x)")
                results.check(name, "memory", expected=f"{number}\n", actual=printed)
                channels.append(channel)
            after = await steady(server, plan, results)
            for printed in await asyncio.gather(*(channel.execute(_IMPORT) for channel in channels)):
                results.check(name, "memory", expected="2\n", actual=printed)
            loaded = await steady(server, plan, results)
    except KernelFailedError as error:
        results.fail(name, "memory", str(error))
        return
    if after.process_count < before.process_count + count:
        results.fail(name, "memory", f"{count} kernels were started, but their processes were not found")
        return
    per_kernel = (after.total - before.total) / count / MIB
    standing = (before.total - before.by_role[SERVER_ROLE]) / MIB
    results.add(PER_KERNEL, name, per_kernel)
    results.add(WITH_DATA, name, (loaded.total - before.total) / count / MIB)
    results.add(STANDING, name, standing)
    results.add(ALL_IN, name, per_kernel + standing / count)
    results.add(AVAILABLE, name, (before.available_bytes - after.available_bytes) / count / MIB)
    results.note(name, f"without kernels {_describe(before)}", "memory")
    results.note(name, f"with {count} kernels {_describe(after)}", "memory")
    left = await steady(server, plan, results)
    if left.process_count > before.process_count:
        results.note(name, f"after the kernels were deleted {_describe(left)}", "memory")
