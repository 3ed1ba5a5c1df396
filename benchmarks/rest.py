"""Measurement of REST: an execution and the same over the websocket of the same kernel, one user and many, in turns.

Contexts are made over REST, so each has a sandbox of its own, and JupyterLab's way to them is the websocket that is
compared with: what REST costs more is the difference of the two, on one kernel, in one run. A websocket is open in its
own turns only: it would be sent all that is executed over REST, too.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.client import Channel, ServerClient
    from benchmarks.plan import Plan
    from benchmarks.server import Server

ROUND_TRIP = Metric(name="rest.round_trip", unit="ms", meaning="`x += 1; print(x)` over REST, one user")
WEBSOCKET = Metric(name="rest.websocket", unit="ms", meaning="the same over the websocket of the same kernel")
RPS = Metric(
    name="rest.load.rps", unit="1/s", meaning="right answers per second over REST, contexts exist", more_is_better=True
)
LATENCY = Metric(name="rest.load.latency", unit="ms", meaning="one request of that load")
WEBSOCKET_RPS = Metric(
    name="rest.load.websocket_rps",
    unit="1/s",
    meaning="the same over websockets of the same kernels",
    more_is_better=True,
)
RATIO = Metric(
    name="rest.load.ratio",
    unit="×",
    meaning="rest.load.rps / rest.load.websocket_rps of one round",
    more_is_better=True,
)
METRICS = (ROUND_TRIP, WEBSOCKET, RPS, LATENCY, WEBSOCKET_RPS, RATIO)

_CODE = "x += 1; print(x)"


class Way(Protocol):
    """How code gets to a kernel."""

    async def execute(self, code: str) -> str:
        """Return what it prints. Raises KernelFailedError."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """A context over REST, in a sandbox of its own."""

    client: ServerClient
    path: str

    @property
    def kernel_id(self) -> str:
        """The id of its kernel."""
        return self.path.rpartition("/")[2]

    async def execute(self, code: str) -> str:
        """See Way."""
        ended = await self.client.ask("POST", f"{self.path}/executions", {"code": code})
        if ended["outcome"] != "ok":
            raise KernelFailedError(f"execution ended with {ended['outcome']}: {ended['error']}")
        return "".join(output["text"] for output in ended["outputs"])

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[Channel]:
        """Open the websocket of its kernel for a while. Raises KernelFailedError."""
        channel = await self.client.connect(self.kernel_id)
        try:
            yield channel
        finally:
            await channel.websocket.close()

    def rest(self) -> AbstractAsyncContextManager[Context]:
        """Nothing has to be opened."""
        return nullcontext(self)


@asynccontextmanager
async def new_sandbox(client: ServerClient, **claim: object) -> AsyncIterator[str]:
    """Claim a sandbox; yield its path. Raises KernelFailedError."""
    made = await client.ask("POST", "/api/sandboxes", claim)
    path = f"/api/sandboxes/{made['id']}"
    try:
        yield path
    finally:
        await client.ask("DELETE", path)


@asynccontextmanager
async def _context(client: ServerClient) -> AsyncIterator[Context]:
    """Yield a context, in which x is 0."""
    async with new_sandbox(client) as sandbox:
        context = await new_context(client, sandbox)
        await context.execute("x = 0")
        yield context


async def new_context(client: ServerClient, sandbox: str) -> Context:
    """Make a context of the sandbox at a path. Raises KernelFailedError."""
    made = await client.ask("POST", f"{sandbox}/contexts", {})
    return Context(client=client, path=f"{sandbox}/contexts/{made['id']}")


async def _block(way: Way, metric: Metric, name: str, numbers: range, results: Results) -> int:
    """Execute one after the other; return how many answers were right."""
    right = 0
    for number in numbers:
        begin = time.perf_counter()
        printed = await way.execute(_CODE)
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        if results.check(name, "rest", expected=f"{number}\n", actual=printed):
            results.add(metric, name, elapsed_ms)
            right += 1
    return right


async def _one_user(server: Server, plan: Plan, results: Results) -> None:
    name, size = server.system.name, plan.exec_block_size
    async with _context(server.client) as context:
        done = 0
        for turn in range(1 + plan.exec_blocks):
            for metric, opened in ((ROUND_TRIP, context.rest), (WEBSOCKET, context.websocket)):
                counts = results if turn else Results(systems=[name])  # the first turn warms up
                async with opened() as way:
                    await _block(way, metric, name, range(done + 1, done + 1 + size), counts)
                done += size


async def _load(
    users: Sequence[Context],
    opened: Callable[[Context], AbstractAsyncContextManager[Way]],
    numbers: range,
    plan: Plan,
    name: str,
    counts: Results,
) -> float:
    """Let all users execute at once; return how many right answers came in a second."""
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(opened(user)) for user in users]
        await quiet(plan.quiet_timeout_s)
        begin = time.perf_counter()
        right = sum(await asyncio.gather(*(_block(way, LATENCY, name, numbers, counts) for way in ways)))
        return right / (time.perf_counter() - begin)


async def _many_users(server: Server, plan: Plan, results: Results) -> None:
    name, each = server.system.name, plan.load_requests
    unshown = Results(systems=[name])
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(_context(server.client)) for _ in range(plan.load_users)]
        for turn in range(plan.load_rounds):
            rates = {}
            for part, (metric, opened) in enumerate(((RPS, Context.rest), (WEBSOCKET_RPS, Context.websocket))):
                first = 1 + (2 * turn + part) * each
                counts = unshown if part else results
                rates[metric] = await _load(users, opened, range(first, first + each), plan, name, counts)
                results.add(metric, name, rates[metric])
            results.add(RATIO, name, rates[RPS] / max(rates[WEBSOCKET_RPS], 1e-9))
    for failure in unshown.failures:
        results.fail(name, "rest", failure.text)


async def measure_rest(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Execute over REST and over the websocket: one user in blocks that take turns, then all users at once."""
    for turn, measure in enumerate((_one_user, _many_users)):
        for server in rotated(servers, turn):
            await quiet(plan.quiet_timeout_s)
            try:
                await measure(server, plan, results)
            except KernelFailedError as error:
                results.fail(server.system.name, "rest", str(error))
