"""Measurements of programs that use kernels without a server: nbclient, and one more kernel where one runs already.

Each runs in an environment like the server's, so with the same broker, as a child of a keeper of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results
from benchmarks.server import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

NOTEBOOK = Metric(name="notebook.wall", unit="ms", meaning="nbclient executes a notebook of 5 cells, kernel included")
CONTEXT = Metric(name="context.second", unit="ms", meaning="one more kernel in the same sandbox -> its first reply")
METRICS = (NOTEBOOK, CONTEXT)

TIMEOUT_S = 180.0


async def _run(server: Server, what: str, count: int) -> dict[str, list]:
    """Run `benchmarks.direct` and return what it wrote. Raises RuntimeError."""
    file = server.directory / f"{what}.json"
    file.unlink(missing_ok=True)
    root = server.directory / "root"
    program = (server.python, "-m", "benchmarks.direct", what, server.system.kernel_name, str(count), str(file))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.keeper", *program),
        cwd=root,
        env={**server.environment, "PYTHONPATH": str(REPOSITORY)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said = await process.stderr.read() if process.stderr else b""
            await process.wait()
    except BaseException:
        if process.stdin:
            process.stdin.close()  # the keeper ends everything
        await process.wait()
        raise
    if not file.exists():
        raise RuntimeError(f"benchmarks.direct failed: {said.decode(errors='replace')[-600:]}")
    figures: dict[str, list] = json.loads(file.read_text())
    return figures


async def _measure(
    servers: Sequence[Server], plan: Plan, results: Results, metric: Metric, what: str, *, rounds: int, runs: int
) -> None:
    for turn in range(rounds):
        for server in rotated(servers, turn):
            name = server.system.name
            await quiet(plan.quiet_timeout_s)
            try:
                figures = await _run(server, what, runs)
            except (RuntimeError, TimeoutError) as error:
                results.fail(name, what, str(error) or "it did not end in time")
                continue
            results.right[name] += len(figures["elapsed_ms"])
            for wrong in figures["wrong"]:
                results.check(name, what, expected="the right answer", actual=str(wrong))
            for elapsed_ms in figures["elapsed_ms"]:
                results.add(metric, name, elapsed_ms)


async def measure_notebook(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Execute a small notebook with nbclient, several times in one program; the first time does not count."""
    await _measure(servers, plan, results, NOTEBOOK, "notebook", rounds=plan.notebook_rounds, runs=plan.notebook_runs)


async def measure_context(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Start one more kernel beside one that runs."""
    await _measure(servers, plan, results, CONTEXT, "context", rounds=plan.context_rounds, runs=plan.context_runs)
