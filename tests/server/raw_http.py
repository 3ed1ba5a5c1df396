"""HTTP as bytes: paths, lengths and bodies that no client would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Raw:
    """An answer as it came; `body` may be shorter than was promised."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def model(self):
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert set(self.model) == {"code", "message", "hint"}, self.model
        return self.model["code"]


async def opened(url: str, method: str, path: str, headers: dict[str, str], token: str | None = "alice"):
    """Send the head of a request for `path` as it stands, with a token if there is one; return reader and writer."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"Authorization: token {token}"] if token else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    return reader, writer


async def received(reader, writer) -> Raw:
    """The answer."""
    try:
        async with asyncio.timeout(50):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = await reader.read()
    finally:
        writer.close()
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    return Raw(int(status.split()[1]), headers, body)


async def send(url: str, method: str, path: str, body: bytes | None = None, token: str = "alice", **headers) -> Raw:
    """One request; `If_None_Match` is the header `If-None-Match`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given.setdefault("Content-Length", str(len(body)))
    reader, writer = await opened(url, method, path, given, token)
    if body:
        writer.write(body)
        await writer.drain()
    return await received(reader, writer)
