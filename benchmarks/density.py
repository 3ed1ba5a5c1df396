"""How many live kernels fit on one machine: memory and idle processor time of many that each used pandas.

Each kernel makes a DataFrame of its own and its answer is checked, at the beginning and at the end. Memory is the
proportional set size of everything that belongs to the system. `python -m benchmarks.density --help`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import by_hand
from benchmarks.client import Kernels
from benchmarks.idle import SETTLE_S, cpu_by_process
from benchmarks.memory import MIB, footprint
from benchmarks.metrics import Results
from benchmarks.server import running
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.client import Channel

_PARALLEL = 4
_USE = "import pandas; frame = pandas.DataFrame({{'a': range({number}, {number} + 1000)}}); print(frame.a.sum())"
_REPORT = (
    "{kernels} live kernels: {memory_mib:.0f} MiB, {cpu_percent:.2f} % of a core idle; all started in {seconds:.0f} s"
)


async def run(system_name: str, count: int, idle_s: float) -> int:
    """Start the kernels, tell what they cost; return how much was wrong. Raises NotInstalledError."""
    system = BY_NAME[system_name].with_small_disks()
    results, channels = Results(systems=(system_name,)), dict[int, "Channel"]()

    async def add(kernels: Kernels, numbers: Iterator[int]) -> None:
        for number in numbers:
            channels[number] = await kernels.add()
            printed = await channels[number].execute(_USE.format(number=number))
            results.check(system_name, "density", expected=f"{1000 * number + 499500}\n", actual=printed)

    async with running(system, (), results) as server:
        begin = time.monotonic()
        async with Kernels(server.client, system.kernel_name, partial(results.fail, system_name, "density")) as kernels:
            numbers = iter(range(count))
            await asyncio.gather(*(add(kernels, numbers) for _ in range(_PARALLEL)))
            seconds = time.monotonic() - begin
            await asyncio.sleep(SETTLE_S)
            before = cpu_by_process(server)
            await asyncio.sleep(idle_s)
            used = sum(time_s - before.get(pid, 0.0) for pid, time_s in cpu_by_process(server).items())
            taken = footprint(server)
            for number, channel in channels.items():
                printed = await channel.execute("print(frame.a.min())")
                results.check(system_name, "density", expected=f"{number}\n", actual=printed)
    figures = {
        "kernels": count,
        "memory_mib": taken.total / MIB,
        "cpu_percent": used * 100 / idle_s,
        "seconds": seconds,
    }
    print(json.dumps(figures | {"by_role_mib": {role: round(size / MIB) for role, size in taken.by_role.items()}}))
    print(_REPORT.format(**figures))
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("density", __doc__, system="embedded-data")
    parser.add_argument("--kernels", type=int, default=200, help="how many kernels live at once (default: 200)")
    parser.add_argument("--idle", type=float, default=60.0, metavar="S", help="seconds of watching (default: 60)")
    options = parser.parse_args()
    return by_hand.exit_status(run(options.system, options.kernels, options.idle))


if __name__ == "__main__":
    sys.exit(main())
