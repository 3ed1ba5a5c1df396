"""Many who ask for the same at once, and how long each waits."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.server import raw_http

_CONNECTING = 64
"""A server's queue of new connections takes 128."""


@dataclass(frozen=True)
class Answered:
    """An answer, and when it came."""

    answer: raw_http.Raw
    wait_s: float


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Descriptors enough for all connections, and for both ends of them if the server is in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def posted(url: str, path: str, body: bytes, token: str, count: int) -> list[Answered]:
    """Post the same so often: all connect first, then all send their bodies, from which each waits for its answer."""
    few = asyncio.Semaphore(_CONNECTING)

    async def begun():
        async with few:
            return await raw_http.opened(url, "POST", path, {"Content-Length": str(len(body))}, token)

    async def answered(reader, writer) -> Answered:
        began = time.monotonic()
        writer.write(body)
        answer = await raw_http.received(reader, writer)
        return Answered(answer, time.monotonic() - began)

    connections = await asyncio.gather(*(begun() for _ in range(count)))
    return await asyncio.gather(*(answered(*connection) for connection in connections))
