"""Measurements of one user alone: from asking for a kernel to its first result, and the round trip of an execution."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.client import Channel, KernelFailedError
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

START_FIRST = Metric(name="start.first", unit="ms", meaning="the same for the first kernel of a fresh server")
START_POST = Metric(name="start.post", unit="ms", meaning="POST /api/kernels -> answer")
START_CONNECT = Metric(name="start.connect", unit="ms", meaning="answer -> websocket open")
START_EXECUTE = Metric(name="start.execute", unit="ms", meaning="websocket open -> first result and idle")
START_TOTAL = Metric(name="start.total", unit="ms", meaning="POST /api/kernels -> first result and idle")
READY = Metric(name="ready.total", unit="ms", meaning="POST /api/kernels -> kernel_info_reply over the websocket")
EXEC_ROUND_TRIP = Metric(name="exec.round_trip", unit="ms", meaning="`x += 1; print(x)` -> reply and idle, one user")
METRICS = (START_TOTAL, START_FIRST, START_POST, START_CONNECT, START_EXECUTE, READY, EXEC_ROUND_TRIP)


def rotated(servers: Sequence[Server], turn: int) -> list[Server]:
    """Return the servers in an order that begins with another one each turn, so that none is always the first."""
    first = turn % len(servers)
    return [*servers[first:], *servers[:first]]


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a kernel and what it printed; times in ms."""

    post_ms: float
    connect_ms: float
    execute_ms: float
    printed: str

    @property
    def total_ms(self) -> float:
        """Return the time from the POST to the first result."""
        return self.post_ms + self.connect_ms + self.execute_ms


async def start_once(server: Server) -> Start:
    """Start, use and delete a kernel that is to print 42. Raises KernelFailedError."""
    begin = time.perf_counter()
    kernel_id = await server.client.start(server.system.kernel_name)
    try:
        posted = time.perf_counter()
        channel = await server.client.connect(kernel_id)
        connected = time.perf_counter()
        printed = await channel.execute("print(6 * 7)")
        done = time.perf_counter()
        await channel.websocket.close()
    finally:
        await server.client.delete(kernel_id)
    return Start(
        post_ms=(posted - begin) * 1e3,
        connect_ms=(connected - posted) * 1e3,
        execute_ms=(done - connected) * 1e3,
        printed=printed,
    )


def _add(start: Start, name: str, results: Results, *, first: bool) -> None:
    if not results.check(name, "start", expected="42\n", actual=start.printed):
        return
    if first:
        results.add(START_FIRST, name, start.total_ms)
    else:
        results.add(START_TOTAL, name, start.total_ms)
        results.add(START_POST, name, start.post_ms)
        results.add(START_CONNECT, name, start.connect_ms)
        results.add(START_EXECUTE, name, start.execute_ms)


async def measure_start(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Start, use and delete one kernel at a time, each on a quiet machine; the first of each server counts apart."""
    for turn in range(1 + plan.start_repetitions):
        for server in rotated(servers, turn):
            await quiet(plan.quiet_timeout_s)
            try:
                _add(await start_once(server), server.system.name, results, first=turn == 0)
            except KernelFailedError as error:
                results.fail(server.system.name, "start", str(error))


async def measure_ready(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Start a kernel and ask it what it is: ready, before any code ran. The pool has had time to fill."""
    for turn in range(plan.ready_repetitions):
        for server in rotated(servers, turn):
            name = server.system.name
            await quiet(plan.quiet_timeout_s)
            try:
                begin = time.perf_counter()
                async with server.client.kernel(server.system.kernel_name) as channel:
                    implementation = await channel.kernel_info()
                    elapsed_ms = (time.perf_counter() - begin) * 1e3
                if results.check(name, "ready", expected="ipython", actual=implementation):
                    results.add(READY, name, elapsed_ms)
            except KernelFailedError as error:
                results.fail(name, "ready", str(error))


async def _execute_block(channel: Channel, system: str, numbers: range, results: Results) -> None:
    for number in numbers:
        begin = time.perf_counter()
        printed = await channel.execute("x += 1; print(x)")
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        if results.check(system, "exec", expected=f"{number}\n", actual=printed):
            results.add(EXEC_ROUND_TRIP, system, elapsed_ms)


async def measure_exec(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Execute in one kernel per system, in blocks that take turns; the first block warms up and does not count."""
    async with AsyncExitStack() as stack:
        channels: dict[str, Channel] = {}
        for server in servers:
            name = server.system.name
            try:
                channel = await stack.enter_async_context(server.client.kernel(server.system.kernel_name))
                await channel.execute("x = 0")
                await _execute_block(channel, name, range(1, 1 + plan.exec_block_size), Results(systems=[name]))
                channels[name] = channel
            except KernelFailedError as error:
                results.fail(name, "exec", str(error))
        for turn in range(1, 1 + plan.exec_blocks):
            numbers = range(1 + turn * plan.exec_block_size, 1 + (turn + 1) * plan.exec_block_size)
            for server in rotated(servers, turn):
                name = server.system.name
                if name not in channels:
                    continue
                await quiet(plan.quiet_timeout_s)
                try:
                    await _execute_block(channels[name], name, numbers, results)
                except KernelFailedError as error:
                    results.fail(name, "exec", str(error))
                    del channels[name]
