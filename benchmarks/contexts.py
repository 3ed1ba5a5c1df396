"""Measurement of the contexts API: one context after the other is made, used and ended, by one user."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

CREATE = Metric(name="contexts.create", unit="ms", meaning="POST /api/v1/contexts: sandbox and kernel, warm pool")
EXECUTE = Metric(name="contexts.execute", unit="ms", meaning="POST /api/v1/contexts/ID/execute of `x += 1; print(x)`")
METRICS = (CREATE, EXECUTE)

_ROOT = "/api/v1/contexts"


async def _one(server: Server, plan: Plan, results: Results) -> None:
    name = server.system.name
    await quiet(plan.quiet_timeout_s)  # the pool is full again
    begin = time.perf_counter()
    made = await server.client.ask("POST", _ROOT, {})
    results.add(CREATE, name, (time.perf_counter() - begin) * 1e3)
    path = f"{_ROOT}/{made['context_id']}"
    try:
        await server.client.ask("POST", f"{path}/execute", {"code": "x = 0"})
        for number in range(1, 1 + plan.exec_block_size):
            begin = time.perf_counter()
            ran = await server.client.ask("POST", f"{path}/execute", {"code": "x += 1; print(x)"})
            elapsed_ms = (time.perf_counter() - begin) * 1e3
            if results.check(name, "contexts", expected=f"{number}\n", actual=ran["output"]["stdout"]):
                results.add(EXECUTE, name, elapsed_ms)
    finally:
        await server.client.ask("DELETE", path)


async def measure_contexts(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Make, use and end contexts, the systems in turns."""
    for turn in range(plan.start_repetitions):
        for server in rotated(servers, turn):
            try:
                await _one(server, plan, results)
            except KernelFailedError as error:
                results.fail(server.system.name, "contexts", str(error))
