"""Servers of a hostile, broken or honest kind at the other end of a URL, on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress


class FarEnd:
    """Answers every connection with the bytes of `script(request head)`, and remembers what it was sent.

    A script is an async generator; a number that it yields is a pause in hundredths of a second. After it the
    connection is closed, unless the client closes it first.
    """

    def __init__(self, script, *, reads_body=True):
        self.script, self.reads_body = script, reads_body
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.sent = 0
        self.serving: set[asyncio.Task] = set()

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self.serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self.serving.discard(task)
            writer.transport.abort()

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            lengths = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length:")]
            if lengths and self.reads_body:
                body = b""
                while len(body) < int(lengths[0]) and (more := await reader.read(1 << 20)):
                    body += more
                self.bodies.append(body)
            async for piece in self.script(head):
                if isinstance(piece, int):
                    await asyncio.sleep(piece / 100)
                    continue
                writer.write(piece)
                self.sent += len(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def far_end(script, *, trust=None, reads_body=True, port=0):
    end = FarEnd(script, reads_body=reads_body)
    server = await asyncio.start_server(end.serve, "127.0.0.1", port, ssl=trust)
    end.port = server.sockets[0].getsockname()[1]
    try:
        yield end
    finally:
        server.close()
        for task in list(end.serving):
            task.cancel()
        await asyncio.gather(*end.serving, return_exceptions=True)
        await asyncio.sleep(0)


def saying(*pieces):
    async def script(_head):
        for piece in pieces:
            yield piece

    return script


def endless(first, piece):
    async def script(_head):
        yield first
        while True:
            yield piece

    return script


class Names:
    """A name server of our own: answers in turn, the last one again and again; and who was asked for."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(turns) for name, turns in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host, port):
        self.asked.append(host)
        turns = self.answers[host]
        found = turns.pop(0) if len(turns) > 1 else turns[0]
        return [ipaddress.ip_address(text) for text in found.split()]
