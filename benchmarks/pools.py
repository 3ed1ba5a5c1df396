"""How large should a warm pool be? Starts one by one, bursts of starts, and memory, with pools of several sizes.

A worker that stands ready makes one start fast, and occupies memory as long as nobody comes. Memory is that of broker,
zygote and pool, of one size at a time; starts of all sizes take turns. `python -m benchmarks.pools --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import by_hand
from benchmarks.client import KernelFailedError, Kernels
from benchmarks.latency import rotated, start_once
from benchmarks.machine import quiet
from benchmarks.memory import MIB, steady
from benchmarks.metrics import Metric, Results
from benchmarks.plan import FULL
from benchmarks.server import running
from benchmarks.systems import POOL_SIZES, SERVER_ROLE

if TYPE_CHECKING:
    from benchmarks.server import Server
    from benchmarks.systems import System

_BURST = 25
_MEMORY = Metric(name="pool.memory", unit="MiB", meaning="PSS of broker, zygote and pool")
_SINGLE = Metric(name="pool.single", unit="ms", meaning="POST -> first result, one start at a time")
_EACH = Metric(name="pool.each", unit="ms", meaning=f"the same, each of {_BURST} at once")
_ALL = Metric(name="pool.all", unit="ms", meaning=f"until all {_BURST} gave their first result")
_METRICS = (_SINGLE, _EACH, _ALL, _MEMORY)


async def _weigh(system: System, results: Results) -> None:
    async with running(system, (), results) as server:
        async with server.client.kernel(system.kernel_name) as channel:
            await channel.execute("x = 0")
        taken = await steady(server, FULL, results)
    results.add(_MEMORY, system.name, (taken.total - taken.by_role[SERVER_ROLE]) / MIB)


async def _single(server: Server, results: Results) -> None:
    start = await start_once(server)
    if results.check(server.system.name, "pool", expected="42\n", actual=start.printed):
        results.add(_SINGLE, server.system.name, start.total_ms)


async def _burst(server: Server, results: Results) -> None:
    name = server.system.name
    begin = time.perf_counter()

    async def one(kernels: Kernels) -> None:
        printed = await (await kernels.add()).execute("print(6 * 7)")
        results.check(name, "pool", expected="42\n", actual=printed)
        results.add(_EACH, name, (time.perf_counter() - begin) * 1e3)

    async with Kernels(server.client, server.system.kernel_name, partial(results.fail, name, "pool")) as kernels:
        await asyncio.gather(*(one(kernels) for _ in range(_BURST)))
        results.add(_ALL, name, (time.perf_counter() - begin) * 1e3)


async def _start(systems: list[System], singles: int, bursts: int, results: Results) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(system, (), results)) for system in systems]
        for server in servers:  # the first start of a server waits for its broker
            await start_once(server)
        for measure, count in ((_single, singles), (_burst, bursts)):
            for turn in range(count):
                for server in rotated(servers, turn):
                    await quiet(FULL.quiet_timeout_s)
                    await measure(server, results)


def _rows(systems: list[System], results: Results) -> list[str]:
    """Return a table; two figures in a cell are median and p95."""
    titles = ["pool", "one start", f"each of {_BURST} at once", f"all {_BURST}", "broker, zygote, pool"]
    rows = [titles, ["---"] * len(titles)]
    for system in systems:
        single, each, everyone, memory = (results.summaries(of)[system.name] for of in _METRICS)
        rows.append(
            [
                system.name.rpartition("-")[2],
                *(f"{summary.p50:.0f} / {summary.p95:.0f} ms" for summary in (single, each)),
                f"{everyone.p50:.0f} ms",
                f"{memory.p50:.0f} MiB",
            ]
        )
    return ["| " + " | ".join(row) + " |" for row in rows]


async def run(engine: str, singles: int, bursts: int) -> int:
    """Measure, print the table; return how much was wrong. Raises NotInstalledError."""
    systems = [system.with_small_disks() for system in POOL_SIZES if system.engine == engine]
    results = Results(systems=[system.name for system in systems])
    try:
        for system in systems:
            await _weigh(system, results)
        await _start(systems, singles, bursts, results)
    except KernelFailedError as error:
        results.fail(engine, "pool", str(error))
    else:
        print("\n".join(_rows(systems, results)))
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pools", description=__doc__)
    parser.add_argument("--engine", choices=("embedded", "docker"), default="embedded")
    parser.add_argument("--singles", type=int, default=20, help="starts one by one, of each size (default: 20)")
    parser.add_argument("--bursts", type=int, default=3, help=f"bursts of {_BURST}, of each size (default: 3)")
    options = parser.parse_args()
    return by_hand.exit_status(run(options.engine, options.singles, options.bursts))


if __name__ == "__main__":
    sys.exit(main())
