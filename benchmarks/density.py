"""Measurement of density: how many kernels that each used pandas live at once, what they occupy and cost while idle.

Each kernel makes a DataFrame of its own and its answer is checked, at the beginning and at the end. Memory is the
proportional set size of everything that belongs to the system, the server included. Also a program for other numbers of
kernels than those of a run: `python -m benchmarks.density --help`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import by_hand
from benchmarks.client import KernelFailedError, Kernels
from benchmarks.idle import cpu_by_process
from benchmarks.memory import MIB, available_bytes, footprint
from benchmarks.metrics import Metric, Results
from benchmarks.plan import FULL
from benchmarks.processes import cpu_seconds
from benchmarks.server import running
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.client import Channel
    from benchmarks.plan import Plan
    from benchmarks.server import Server

KERNELS = Metric(
    name="density.kernels", unit="kernels", meaning="that used pandas and live at once", more_is_better=True
)
MEMORY = Metric(name="density.memory", unit="GB", meaning="PSS of all of them, of the server and of what stands")
CPU = Metric(name="density.cpu", unit="% of a core", meaning="the same while nobody uses them")
METRICS = (KERNELS, MEMORY, CPU)

_SETTLE_S = 15.0
"""For 10 s a kernel is one that may fail again and again, which its server looks at every 3 s."""
_PARALLEL = 4
_USE = "import pandas; frame = pandas.DataFrame({{'a': range({number}, {number} + 1000)}}); print(frame.a.sum())"
_NEEDED_BYTES = 7e9
"""That a machine must have to spare; a run on a smaller one leaves this measurement out."""


class _Crowd:
    """Kernels of one server that each used pandas."""

    def __init__(self, server: Server, results: Results, kernels: Kernels) -> None:
        self._server, self._results, self._kernels = server, results, kernels
        self._channels: dict[int, Channel] = {}
        self._resting: dict[int, asyncio.Task[None]] = {}

    async def _check(self, number: int, code: str, expected: int) -> bool:
        if resting := self._resting.pop(number, None):
            resting.cancel()
            await asyncio.wait([resting])
        printed = await self._channels[number].execute(code)
        self._resting[number] = asyncio.create_task(self._channels[number].rest())  # or it would be hung up on
        return self._results.check(self._server.system.name, "density", expected=f"{expected}\n", actual=printed)

    async def _add_in_turn(self, numbers: Iterator[int], end: float) -> None:
        try:
            for number in numbers:
                if time.monotonic() > end:
                    return
                self._channels[number] = await self._kernels.add()
                await self._check(number, _USE.format(number=number), 1000 * number + 499500)
        except KernelFailedError as error:
            self._results.fail(self._server.system.name, "density", str(error))

    async def grow(self, count: int, end: float) -> int:
        """Add kernels until there are `count` or the time is over; return how many there are."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._add_in_turn(numbers, end) for _ in range(_PARALLEL)))
        return len(self._channels)

    async def right(self) -> int:
        """Return how many still know what is theirs. Raises KernelFailedError."""
        return sum([await self._check(number, "print(frame.a.min())", number) for number in self._channels])


async def _watch(server: Server, crowd: _Crowd, idle_s: float, results: Results) -> None:
    name = server.system.name
    await asyncio.sleep(_SETTLE_S)
    before, begin = cpu_by_process(server), time.perf_counter()
    await asyncio.sleep(idle_s)
    used = Counter[str]()
    for process in server.processes():
        used[server.system.role_of(process.command)] += cpu_seconds(process.pid) - before.get(process.pid, 0.0)
    elapsed_s = time.perf_counter() - begin
    taken = footprint(server)
    results.add(KERNELS, name, await crowd.right())
    results.add(MEMORY, name, taken.total / 1e9)
    results.add(CPU, name, used.total() * 100 / elapsed_s)
    roles = ", ".join(f"{role} {size / MIB:.0f}" for role, size in sorted(taken.by_role.items()))
    results.note(name, f"processes {taken.process_count}: {roles} MiB", "density")
    roles = ", ".join(f"{role} {time_s * 100 / elapsed_s:.2f}" for role, time_s in sorted(used.items()))
    results.note(name, f"idle: {roles} % of a core", "density")


async def measure_density(server: Server, plan: Plan, results: Results) -> None:
    """Start kernels until there are as many as the plan wants, look at them for a while, and ask each what it knows.

    Memory and processor time of fewer kernels would flatter: then only their number is told. No other server may run
    meanwhile: kernels of others share pages with this one's.
    """
    name = server.system.name
    count = plan.density_containers if server.system.image else plan.density_kernels
    if (available := available_bytes()) < _NEEDED_BYTES:
        text = f"left out: {available / 1e9:.1f} GB of memory are available, not {_NEEDED_BYTES / 1e9:.0f}"
        results.note(name, text, "density")
        return
    try:
        async with Kernels(server.client, server.system.kernel_name, partial(results.fail, name, "density")) as kernels:
            crowd = _Crowd(server, results, kernels)
            begin = time.monotonic()
            grown = await crowd.grow(count, begin + plan.density_start_s)
            results.note(name, f"{grown} kernels were started in {time.monotonic() - begin:.0f} s", "density")
            if grown == count:
                await _watch(server, crowd, plan.density_idle_s, results)
            else:
                results.add(KERNELS, name, await crowd.right())
    except KernelFailedError as error:
        results.fail(name, "density", str(error))


async def run(system_name: str, count: int, idle_s: float) -> int:
    """Measure one system with `count` kernels, tell it; return how much was wrong. Raises NotInstalledError."""
    system = BY_NAME[system_name].with_room_for(count).with_small_disks()
    plan = dataclasses.replace(
        FULL, density_kernels=count, density_containers=count, density_idle_s=idle_s, density_start_s=math.inf
    )
    results = Results(systems=(system_name,))
    async with running(system, (), results) as server:
        await measure_density(server, plan, results)
    for metric in METRICS:
        for summary in results.summaries(metric).values():
            print(f"{metric.name}  {summary.p50:.2f} {metric.unit}: {metric.meaning}")
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("density", __doc__, system="embedded-data")
    parser.add_argument("--kernels", type=int, default=1000, help="how many kernels live at once (default: 1000)")
    parser.add_argument("--idle", type=float, default=60.0, metavar="S", help="seconds of watching (default: 60)")
    options = parser.parse_args()
    return by_hand.exit_status(run(options.system, options.kernels, options.idle))


if __name__ == "__main__":
    sys.exit(main())
