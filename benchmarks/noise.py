"""What one user's kernel can do to another's: executions of a quiet user while somebody else's floods the server.

Both kernels belong to one server; the flood is read by a process of its own that throws it away. The quiet user's
latencies are measured alone, then during each flood, in turns; the quotient of the 99th percentiles counts.
`python -m benchmarks.noise --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import by_hand
from benchmarks.client import KernelFailedError, open_client
from benchmarks.metrics import Results
from benchmarks.server import REPOSITORY, running
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.client import Channel
    from benchmarks.server import Server

_FLOODS = {
    "a busy loop": "while True: pass",
    "text in small pieces": "while True: print('x' * 100, flush=True)",
    "text in large pieces": "while True: print('x' * 1_000_000, flush=True)",
    "displays of 4 MB": "from IPython.display import display, HTML\nwhile True: display(HTML('x' * 4_000_000))",
    "comms": "from comm import create_comm\nwhile True: create_comm(target_name='t', data={'x': 1})",
}
_WARM_UP = 30
_SETTLE_S = 1.0


async def _latencies(channel: Channel, count: int, results: Results, name: str) -> list[float]:
    """Milliseconds of each of so many executions."""
    taken = []
    for number in range(count):
        begin = time.perf_counter()
        printed = await channel.execute(f"print({number})")
        taken.append((time.perf_counter() - begin) * 1e3)
        results.check(name, "noise", expected=f"{number}\n", actual=printed)
    return taken


def _percentiles(samples: Sequence[float]) -> tuple[float, float]:
    return statistics.median(samples), statistics.quantiles(samples, n=100)[-1]


@contextlib.asynccontextmanager
async def _flooded(server: Server, code: str) -> AsyncIterator[None]:
    """While this is open another process runs `code` in a kernel of its own and reads what comes."""
    command = [sys.executable, "-m", "benchmarks.noise", "--flood", server.system.kernel_name]
    loud = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert loud.stdin is not None and loud.stdout is not None
    try:
        loud.stdin.write(json.dumps({"url": server.url, "token": server.token, "code": code}).encode() + b"\n")
        if not await loud.stdout.readline():
            raise KernelFailedError("the flood did not begin")
        yield
        if loud.returncode is not None:
            raise KernelFailedError("the flood ended before it was measured")
    finally:
        loud.stdin.close()
        await loud.wait()


async def _flood(kernel_name: str) -> None:
    """Flood as `_flooded` wishes until standard input ends."""
    loop = asyncio.get_running_loop()
    order = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    async with open_client(order["url"], order["token"]) as client, client.kernel(kernel_name) as channel:
        await channel.send(order["code"])
        print("flooding", flush=True)
        ended = loop.run_in_executor(None, sys.stdin.readline)
        reading = asyncio.ensure_future(_read_all(channel))
        await asyncio.wait([ended, reading], return_when="FIRST_COMPLETED")


async def _read_all(channel: Channel) -> None:
    async for _ in channel.websocket:
        pass


async def run(system_name: str, count: int) -> int:
    """Measure each flood and print what it did; return how many answers were wrong. Raises NotInstalledError."""
    system = BY_NAME[system_name]
    results = Results(systems=(system_name,))
    async with running(system, (), results) as server:
        client, kind = server.client, system.kernel_name
        async with client.kernel(kind) as quiet:
            await _latencies(quiet, _WARM_UP, results, system_name)
            for flood, code in _FLOODS.items():
                alone = _percentiles(await _latencies(quiet, count, results, system_name))
                async with _flooded(server, code):
                    await asyncio.sleep(_SETTLE_S)
                    beside = _percentiles(await _latencies(quiet, count, results, system_name))
                figures = {
                    "alone_p50_ms": alone[0],
                    "beside_p50_ms": beside[0],
                    "alone_p99_ms": alone[1],
                    "beside_p99_ms": beside[1],
                    "p99_ratio": beside[1] / alone[1],
                }
                print(json.dumps({"flood": flood} | {name: round(value, 2) for name, value in figures.items()}))
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("noise", __doc__, system="embedded")
    parser.add_argument("--flood", metavar="KERNEL", help=argparse.SUPPRESS)
    parser.add_argument("--executions", type=int, default=2500, help="of the quiet user, of each kind (default: 2500)")
    options = parser.parse_args()
    if options.flood:
        asyncio.run(_flood(options.flood))
        return 0
    return by_hand.exit_status(run(options.system, options.executions))


if __name__ == "__main__":
    sys.exit(main())
