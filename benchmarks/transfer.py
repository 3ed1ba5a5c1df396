"""Measurement of files over HTTP: 1 GiB into a sandbox and out of it, and what memory the server takes for it.

What the disk takes at that moment, code inside the sandbox finds out in turns with it: a virtual machine's disk is
seldom as fast twice. What the service can do without HTTP, `python -m benchmarks.files` says.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.memory import MIB, footprint
from benchmarks.metrics import Metric, Results
from benchmarks.rest import new_context, new_sandbox
from benchmarks.systems import SERVER_ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

UP = Metric(name="transfer.up", unit="MB/s", meaning="a large file written over HTTP", more_is_better=True)
DOWN = Metric(name="transfer.down", unit="MB/s", meaning="the same read over HTTP", more_is_better=True)
PLAIN = Metric(
    name="transfer.plain", unit="MB/s", meaning="as large a file written by code in the sandbox", more_is_better=True
)
RATIO = Metric(
    name="transfer.ratio", unit="×", meaning="transfer.up / transfer.plain of one round", more_is_better=True
)
MEMORY = Metric(name="transfer.memory", unit="MiB", meaning="growth of the server's PSS meanwhile, at most")
METRICS = (UP, PLAIN, RATIO, DOWN, MEMORY)

_PIECE = os.urandom(MIB)
_LOOK_S = 0.1
_TEMPLATE = "bench-transfer"
_WRITE = """
import os, time
began = time.perf_counter()
with open("/sandbox/plain", "wb", buffering=0) as file:
    for _ in range({mib}): file.write(piece)
took = time.perf_counter() - began
os.remove("/sandbox/plain")
print(took)
"""


@dataclass(kw_only=True)
class _Peak:
    bytes: int = 0


def _server_bytes(server: Server) -> int:
    return footprint(server).by_role[SERVER_ROLE]


@asynccontextmanager
async def _watched(server: Server) -> AsyncIterator[_Peak]:
    """Look at the server's memory again and again, in a thread."""
    peak, over = _Peak(), asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            peak.bytes = max(peak.bytes, await asyncio.to_thread(_server_bytes, server))
            await asyncio.sleep(_LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        over.set()
        await watching


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield _PIECE


async def _both_ways(server: Server, plan: Plan, results: Results) -> None:
    name, client, size = server.system.name, server.client, plan.transfer_mib * MIB
    template = f"/api/sandboxes/templates/{_TEMPLATE}"
    await client.ask("PUT", template, {"min_idle": 0, "limits": {"disk_mib": 2 * plan.transfer_mib + 64}})
    try:
        async with new_sandbox(client, template=_TEMPLATE) as sandbox:
            path = f"{sandbox}/files/large"
            context = await new_context(client, sandbox)
            await context.execute(f"import os; piece = os.urandom({MIB})")
            before = await asyncio.to_thread(_server_bytes, server)
            async with _watched(server) as peak:
                for _ in range(plan.transfer_rounds):
                    begin = time.perf_counter()
                    written = (await client.upload(path, _pieces(plan.transfer_mib)))["size_bytes"]
                    between = time.perf_counter()
                    read = await client.download(f"{path}?download=1")
                    end = time.perf_counter()
                    for done in (written, read):
                        results.check(name, "transfer", expected=str(size), actual=str(done))
                    plain_s = float(await context.execute(_WRITE.format(mib=plan.transfer_mib)))
                    results.add(UP, name, size / (between - begin) / 1e6)
                    results.add(PLAIN, name, size / plain_s / 1e6)
                    results.add(RATIO, name, plain_s / (between - begin))
                    results.add(DOWN, name, size / (end - between) / 1e6)
            results.add(MEMORY, name, (peak.bytes - before) / MIB)
    finally:
        await client.ask("DELETE", template)


async def measure_transfer(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Write a file over HTTP and read it, a few times on each server."""
    for server in rotated(servers, 0):
        await quiet(plan.quiet_timeout_s)
        try:
            await _both_ways(server, plan, results)
        except KernelFailedError as error:
            results.fail(server.system.name, "transfer", str(error))
