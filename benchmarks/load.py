"""Measurements of many users at once: stateful requests in parallel kernels, and kernels that come and go."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.client import Channel, KernelFailedError, Kernels
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

NEW_RPS = Metric(
    name="load.new.rps",
    unit="1/s",
    meaning="right answers per second, sessions created inside the run",
    more_is_better=True,
)
NEW_LATENCY = Metric(name="load.new.latency", unit="ms", meaning="one request of that run, creation not included")
READY_RPS = Metric(
    name="load.ready.rps", unit="1/s", meaning="right answers per second, sessions exist", more_is_better=True
)
READY_LATENCY = Metric(name="load.ready.latency", unit="ms", meaning="one request of that run")
CLIENT_CPU = Metric(name="load.ready.client_cpu", unit="ms", meaning="CPU of the load client per request")
CHURN = Metric(
    name="churn.kernels", unit="1/min", meaning="kernels created, used and destroyed per minute", more_is_better=True
)
METRICS = (NEW_RPS, NEW_LATENCY, READY_RPS, READY_LATENCY, CLIENT_CPU, CHURN)


class _Round:
    """One round of load on one server: every user has a kernel that counts."""

    def __init__(self, server: Server, plan: Plan, results: Results, kernels: Kernels) -> None:
        self._server = server
        self._name = server.system.name
        self._plan = plan
        self._results = results
        self._kernels = kernels
        self._right = 0
        self.channels: list[Channel] = []

    async def _requests(self, channel: Channel, latency: Metric) -> None:
        for number in range(1, 1 + self._plan.load_requests):
            begin = time.perf_counter()
            printed = await channel.execute("x += 1; print(x)")
            elapsed_ms = (time.perf_counter() - begin) * 1e3
            if self._results.check(self._name, "load", expected=f"{number}\n", actual=printed):
                self._results.add(latency, self._name, elapsed_ms)
                self._right += 1

    async def new_user(self) -> None:
        """Create a session, then use it."""
        try:
            channel = await self._kernels.add()
            await channel.execute("x = 0")
            await self._requests(channel, NEW_LATENCY)
            self.channels.append(channel)
        except KernelFailedError as error:
            self._results.fail(self._name, "load", str(error))

    async def ready_user(self, channel: Channel) -> None:
        """Use a session that exists."""
        try:
            await self._requests(channel, READY_LATENCY)
        except KernelFailedError as error:
            self._results.fail(self._name, "load", str(error))

    def take_right(self) -> int:
        """Return the number of right answers since the last call."""
        right, self._right = self._right, 0
        return right


async def _load_round(server: Server, plan: Plan, results: Results) -> None:
    name = server.system.name
    async with Kernels(server.client, server.system.kernel_name, partial(results.fail, name, "load")) as kernels:
        load = _Round(server, plan, results, kernels)
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as users:
            for _ in range(plan.load_users):
                users.create_task(load.new_user())
        results.add(NEW_RPS, name, load.take_right() / (time.perf_counter() - begin))

        try:
            for channel in load.channels:
                await channel.execute("x = 0")
        except KernelFailedError as error:
            results.fail(name, "load", str(error))
            return
        await quiet(plan.quiet_timeout_s)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as users:
            for channel in load.channels:
                users.create_task(load.ready_user(channel))
        elapsed_s, elapsed_cpu_s = time.perf_counter() - begin, time.process_time() - begin_cpu
        right = load.take_right()
        results.add(READY_RPS, name, right / elapsed_s)
        results.add(CLIENT_CPU, name, elapsed_cpu_s * 1e3 / max(1, right))


async def measure_load(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Let all users work at once, first with sessions they create, then again with the same sessions."""
    for turn in range(plan.load_rounds):
        for server in rotated(servers, turn):
            await quiet(plan.quiet_timeout_s)
            await _load_round(server, plan, results)


async def _churn_round(server: Server, plan: Plan, results: Results) -> None:
    name = server.system.name
    numbers = iter(range(plan.churn_kernels))
    right = 0

    async def user() -> None:
        nonlocal right
        for number in numbers:
            try:
                async with server.client.kernel(server.system.kernel_name) as channel:
                    printed = await channel.execute(f"print({number} + 1)")
            except KernelFailedError as error:
                results.fail(name, "churn", str(error))
                continue
            right += results.check(name, "churn", expected=f"{number + 1}\n", actual=printed)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as users:
        for _ in range(plan.churn_parallel):
            users.create_task(user())
    results.add(CHURN, name, right * 60 / (time.perf_counter() - begin))


async def measure_churn(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Create, use and destroy kernels, a few at a time."""
    for turn in range(plan.churn_rounds):
        for server in rotated(servers, turn):
            await quiet(plan.quiet_timeout_s)
            await _churn_round(server, plan, results)
