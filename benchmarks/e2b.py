"""Measurement of E2B's SDK for Python, as it is published: from making a sandbox to its first result, and of each next.

The SDK runs in a thread of this process, so its own time is in the figures. What is left without it shows the same
requests by the bare client of all other measurements, in turns with the SDK's.
"""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

FIRST = Metric(name="e2b.first", unit="ms", meaning="Sandbox.create -> result of the first run_code, warm pool")
CREATE = Metric(name="e2b.create", unit="ms", meaning="the first part of that: Sandbox.create")
RUN_CODE = Metric(name="e2b.run_code", unit="ms", meaning="run_code of `x += 1; x` in a sandbox that is used")
BARE_FIRST = Metric(name="e2b.bare.first", unit="ms", meaning="the requests of e2b.first without the SDK")
BARE_RUN_CODE = Metric(name="e2b.bare.run_code", unit="ms", meaning="the request of e2b.run_code without the SDK")
METRICS = (FIRST, CREATE, RUN_CODE, BARE_FIRST, BARE_RUN_CODE)

_CODE = "x += 1; x"
_TIMEOUT_S = 300


def _with_sdk(server: Server, count: int) -> tuple[dict[Metric, list[float]], list[str]]:
    """Make, use and end a sandbox; return milliseconds, and what code returned. Runs in a thread."""
    took: dict[Metric, list[float]] = {FIRST: [], CREATE: [], RUN_CODE: []}
    begin = time.perf_counter()
    sandbox = Sandbox.create(
        timeout=_TIMEOUT_S,
        api_key=server.token,
        api_url=f"{server.url}/e2b",
        sandbox_url=f"{server.url}/e2b/sbx",
    )
    try:
        created = time.perf_counter()
        said = [str(sandbox.run_code("x = 0; x").text)]
        ended = time.perf_counter()
        took[CREATE].append((created - begin) * 1e3)
        took[FIRST].append((ended - begin) * 1e3)
        for _ in range(count):
            begin = time.perf_counter()
            ran = sandbox.run_code(_CODE)
            took[RUN_CODE].append((time.perf_counter() - begin) * 1e3)
            said.append(str(ran.text))
        return took, said
    finally:
        sandbox.kill()


async def _bare_execute(server: Server, headers: dict[str, str], code: str) -> str:
    """Run code; return what it returned."""
    body = {"code": code, "context_id": None, "language": None, "env_vars": None}
    lines = (await server.client.text("POST", "/e2b/sbx/execute", body, headers)).splitlines()
    return "".join(str(told.get("text")) for told in map(json.loads, lines) if told["type"] == "result")


async def _bare(server: Server, count: int) -> tuple[dict[Metric, list[float]], list[str]]:
    """Do the same without the SDK."""
    took: dict[Metric, list[float]] = {BARE_FIRST: [], BARE_RUN_CODE: []}
    key = {"X-API-Key": server.token}
    wanted = {"templateID": "code-interpreter-v1", "timeout": _TIMEOUT_S}
    begin = time.perf_counter()
    made: dict[str, Any] = json.loads(await server.client.text("POST", "/e2b/sandboxes", wanted, key))
    try:
        headers = {"E2b-Sandbox-Id": made["sandboxID"], "X-Access-Token": made["envdAccessToken"]}
        said = [await _bare_execute(server, headers, "x = 0; x")]
        took[BARE_FIRST].append((time.perf_counter() - begin) * 1e3)
        for _ in range(count):
            begin = time.perf_counter()
            said.append(await _bare_execute(server, headers, _CODE))
            took[BARE_RUN_CODE].append((time.perf_counter() - begin) * 1e3)
        return took, said
    finally:
        await server.client.text("DELETE", f"/e2b/sandboxes/{made['sandboxID']}", None, key)


async def measure_e2b(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Make, use and end sandboxes, with and without the SDK in turns; the first turn warms up and does not count."""
    count = plan.exec_block_size
    for turn in range(1 + plan.start_repetitions):
        for server in rotated(servers, turn):
            name = server.system.name
            for use in (partial(asyncio.to_thread, _with_sdk), _bare):
                await quiet(plan.quiet_timeout_s)  # the pool is full again
                try:
                    took, said = await use(server, count)
                except (KernelFailedError, SandboxException) as error:
                    results.fail(name, "e2b", str(error))
                    continue
                expected = [str(number) for number in range(1 + count)]
                if results.check(name, "e2b", expected=" ".join(expected), actual=" ".join(said)) and turn:
                    for metric, samples in took.items():
                        for sample in samples:
                            results.add(metric, name, sample)
