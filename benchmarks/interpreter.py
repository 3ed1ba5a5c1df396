"""Measurement of the code interpreter's API: many users, each with a session that its first request makes.

Three stateful programs of a few lines, as the load test of the API's first implementation has them; each answer is
compared with what the client has computed itself.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from uuid import UUID

from benchmarks.client import KernelFailedError
from benchmarks.latency import rotated
from benchmarks.machine import quiet
from benchmarks.metrics import Metric, Results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.plan import Plan
    from benchmarks.server import Server

RPS = Metric(
    name="interpreter.rps",
    unit="1/s",
    meaning="right answers per second of POST /api/v1/execute, sessions made in the run",
    more_is_better=True,
)
LATENCY = Metric(name="interpreter.latency", unit="ms", meaning="one request of that run, the first ones included")
METRICS = (RPS, LATENCY)

Step = tuple[str, float | None]
"""A line of code and the number that it prints; None: it prints nothing."""


def _sums(chance: random.Random) -> Iterator[Step]:
    x = chance.randint(1_000, 9_999)
    yield f"x = {x}", None
    while True:
        more = chance.randint(100, 999)
        x += more
        yield f"x += {more}; print(x)", x


def _lists(chance: random.Random) -> Iterator[Step]:
    items = [chance.randint(10, 99) for _ in range(3)]
    yield f"items = {items}", None
    while True:
        items.append(chance.randint(100, 199))
        yield f"items.append({items[-1]}); print(sum(items))", sum(items)


def _arrays(chance: random.Random) -> Iterator[Step]:
    while True:
        values = [chance.randint(10, 50) for _ in range(3)]
        yield f"import numpy as np; a = np.array({values})", None
        factor = chance.randint(2, 5)
        values = [value * factor for value in values]
        yield f"a = a * {factor}; print(np.sum(a))", sum(values)
        yield "print(np.mean(a))", sum(values) / 3


PROGRAMS: Sequence[Callable[[random.Random], Iterator[Step]]] = (_sums, _lists, _arrays)


def _is_right(expected: float | None, printed: str | None) -> bool:
    if expected is None:
        return printed == ""
    try:
        return math.isclose(float(printed or ""), expected, rel_tol=1e-9)
    except ValueError:
        return False


async def _user(server: Server, number: int, seed: int, plan: Plan, results: Results) -> tuple[int, float]:
    """Go through one program; return how many answers were right, and when the last came."""
    name, chance = server.system.name, random.Random(seed)
    query = urlencode({"user_uuid": str(UUID(int=chance.getrandbits(128), version=4))})
    steps = PROGRAMS[number % len(PROGRAMS)](chance)
    right = 0
    try:
        for _ in range(plan.load_requests):
            code, expected = next(steps)
            begin = time.perf_counter()
            answer = await server.client.ask("POST", f"/api/v1/execute?{query}", {"code": code})
            results.add(LATENCY, name, (time.perf_counter() - begin) * 1e3)
            printed = answer["result_text"]
            is_right = _is_right(expected, printed)
            right += results.judge(name, "interpreter", is_right=is_right, expected=str(expected), actual=str(printed))
        return right, time.perf_counter()
    finally:
        await server.client.ask("POST", f"/api/v1/release?{query}")


async def measure_interpreter(servers: Sequence[Server], plan: Plan, results: Results) -> None:
    """Let all users work at once; that they release their sessions afterwards does not count."""
    for turn in range(plan.load_rounds):
        for server in rotated(servers, turn):
            await quiet(plan.quiet_timeout_s)
            numbers = range(plan.load_users)
            begin = time.perf_counter()
            users = [_user(server, number, turn * plan.load_users + number, plan, results) for number in numbers]
            ended = await asyncio.gather(*users, return_exceptions=True)
            failed = [str(each) for each in ended if isinstance(each, KernelFailedError)]
            for words in failed:
                results.fail(server.system.name, "interpreter", words)
            if not failed:
                rights, ends = zip(*ended, strict=True)
                results.add(RPS, server.system.name, sum(rights) / (max(ends) - begin))
