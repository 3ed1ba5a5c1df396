"""A client that follows a stream of events as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json

from tests.server.raw_http import opened


class Watcher:
    """An open stream: `await watcher.next()` is the next event, None after the last."""

    def __init__(self, reader, writer) -> None:
        self._reader, self._writer = reader, writer

    async def next(self):
        async with asyncio.timeout(20):
            async for line in self._reader:
                if line.startswith(b"{"):  # between them are the sizes of HTTP's chunks
                    return json.loads(line)
        return None

    async def until(self, kind: str) -> list:
        """The events up to one of that type."""
        seen = []
        while not seen or seen[-1]["type"] != kind:
            seen.append(await self.next())
        return seen

    def hang_up(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def watching(url: str, path: str, token: str = "alice"):
    """Watch; the first event was `ready`."""
    reader, writer = await opened(url, "GET", path, {}, token)
    try:
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"Content-Type: application/x-ndjson\r\n" in head
        watcher = Watcher(reader, writer)
        assert await watcher.next() == {"type": "ready"}
        yield watcher
    finally:
        writer.transport.abort()
