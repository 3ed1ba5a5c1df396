"""What one owner's kernel can do to another's executions while it floods the server.

The quiet owner is who logs in; the flood comes from a token of another owner and is read, or left unread, by a process
of its own. The quiet one's latencies are measured alone, then during each flood, in turns. The quotient of the 99th
percentiles counts: above 2 the exit status is 1. `python -m benchmarks.noise --help`.
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

_SHOW = "from IPython.display import display\nwhile True: display({{'text/plain': 'x' * {}}}, raw=True)"
_FLOODS = {
    "a busy loop": "while True: pass",
    "stdout in small pieces": "while True: print('x' * 100, flush=True)",
    "stdout in large pieces": "while True: print('x' * 1_000_000, flush=True)",
    "displays of 5 MB": _SHOW.format(5_000_000),
    "displays of 10 MB, above the limit": _SHOW.format(10_000_000),
    "comms": "from comm import create_comm\nwhile True: create_comm(target_name='t', data={'x': 1})",
}
_UNREAD = ("displays of 5 MB", "displays of 10 MB, above the limit")
"""Those are measured once more with a client that reads nothing."""
_MOST = 2.0
"""How often its quiet value the quiet owner's 99th percentile may be."""
_TWO_OWNERS = (
    "--ServerApp.identity_provider_class=jupyter_sandbox.identity.SandboxIdentityProvider",
    "--ServerApp.authorizer_class=jupyter_sandbox.authorizer.OwnerAuthorizer",
    "--OwnerTokens.token_file={directory}/tokens.json",
)
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


async def _other_owner(server: Server) -> str:
    """Issue a token to another owner, as an operator does; return its text."""
    command = [
        *(server.python, "-m", "jupyter_sandbox.cli", "token", "create"),
        "--owner",
        "loud",
        "--scope",
        "kernels",
    ]
    command += ["--file", str(server.directory / "tokens.json")]
    issuing = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    text, complaint = await issuing.communicate()
    if issuing.returncode:
        raise KernelFailedError(f"no token for another owner: {complaint.decode()}")
    return text.decode().strip()


@contextlib.asynccontextmanager
async def _flooded(server: Server, token: str, code: str, *, is_read: bool) -> AsyncIterator[None]:
    """While this is open another process runs `code` in a kernel of the token's owner, and reads what comes or not."""
    command = [sys.executable, "-m", "benchmarks.noise", "--flood", server.system.kernel_name]
    loud = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert loud.stdin is not None and loud.stdout is not None
    try:
        order = {"url": server.url, "token": token, "code": code, "is_read": is_read}
        loud.stdin.write(json.dumps(order).encode() + b"\n")
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
        if order["is_read"]:
            reading = asyncio.ensure_future(_read_all(channel))
            await asyncio.wait([ended, reading], return_when="FIRST_COMPLETED")
        else:
            await ended


async def _read_all(channel: Channel) -> None:
    async for _ in channel.websocket:
        pass


async def run(system_name: str, count: int) -> int:
    """Measure each flood and print what it did; return how much was wrong or too slow. Raises NotInstalledError."""
    system = BY_NAME[system_name]
    results = Results(systems=(system_name,))
    floods = [(flood, code, True) for flood, code in _FLOODS.items()]
    floods += [(f"{flood}, unread", _FLOODS[flood], False) for flood in _UNREAD]
    async with running(system, _TWO_OWNERS, results) as server:
        token = await _other_owner(server)
        async with server.client.kernel(system.kernel_name) as quiet:
            await _latencies(quiet, _WARM_UP, results, system_name)
            for flood, code, is_read in floods:
                alone = _percentiles(await _latencies(quiet, count, results, system_name))
                async with _flooded(server, token, code, is_read=is_read):
                    await asyncio.sleep(_SETTLE_S)
                    beside = _percentiles(await _latencies(quiet, count, results, system_name))
                ratio = beside[1] / alone[1]
                figures = {
                    "alone_p50_ms": alone[0],
                    "beside_p50_ms": beside[0],
                    "alone_p99_ms": alone[1],
                    "beside_p99_ms": beside[1],
                    "p99_ratio": ratio,
                }
                print(
                    json.dumps({"flood": flood} | {name: round(value, 2) for name, value in figures.items()}),
                    flush=True,
                )
                if ratio > _MOST:
                    results.fail(system_name, "noise", f"{flood}: {ratio:.2f} times the quiet p99, more than {_MOST:g}")
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("noise", __doc__, system="embedded")
    parser.add_argument("--flood", metavar="KERNEL", help=argparse.SUPPRESS)
    parser.add_argument("--executions", type=int, default=2500, help="of the quiet owner, of each kind (default: 2500)")
    options = parser.parse_args()
    if options.flood:
        asyncio.run(_flood(options.flood))
        return 0
    return by_hand.exit_status(run(options.system, options.executions))


if __name__ == "__main__":
    sys.exit(main())
