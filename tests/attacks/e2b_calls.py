"""Calls to E2B's protocols as bytes, whatever SDKs would send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct

from tornado.httpclient import AsyncHTTPClient

from tests.server.raw_http import opened

UNARY = {"Content-Type": "application/json"}
STREAM = {"Content-Type": "application/connect+json"}


def envelope(value, flags=0) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">BI", flags, len(data)) + data


def chunk(data: bytes) -> bytes:
    """A piece of a body whose length nobody knows; the last one is empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def envelopes(reader):
    """Yield flags and messages of an answer that comes in chunks, from its head on."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    data = b""
    while size := int(await reader.readline(), 16):
        data += (await reader.readexactly(size + 2))[:-2]
        while len(data) >= 5 and len(data) >= 5 + (length := struct.unpack(">I", data[1:5])[0]):
            yield data[0], json.loads(data[5 : 5 + length])
            data = data[5 + length :]


class Running:
    """A command that somebody follows by a stream."""

    def __init__(self, pid, told):
        self.pid, self._told = pid, told

    async def says(self) -> bytes:
        """What it writes next to its standard output; nothing at its end."""
        async for _, message in self._told:
            if text := message.get("event", {}).get("data", {}).get("stdout"):
                return base64.b64decode(text)
        return b""


@contextlib.asynccontextmanager
async def running(world, box, command, **more):
    """Start a command, which reads; in the end its client hangs up."""
    body = envelope({"process": {"cmd": "/bin/bash", "args": ["-c", command]}} | more)
    fields = allowed(box, STREAM, {"Content-Length": str(len(body))})
    reader, writer = await opened(world, "POST", "/e2b/sbx/process.Process/Start", fields)
    writer.write(body)
    try:
        async with contextlib.aclosing(envelopes(reader)) as told:
            _, first = await anext(told)
            yield Running(first["event"]["start"]["pid"], told)
    finally:
        writer.close()


async def ask(url, method, path, headers, body=None):
    return await AsyncHTTPClient().fetch(
        f"{url}{path}",
        method=method,
        headers=headers,
        body=body,
        allow_nonstandard_methods=True,
        follow_redirects=False,
        raise_error=False,
        request_timeout=60,
    )


def of(box, **headers):
    return {"E2b-Sandbox-Id": box["sandboxID"]} | headers


@contextlib.contextmanager
def making(url, loop):
    """Make sandboxes as somebody: `box = await make("alice")`; they end with this."""
    made = []

    async def make(key, **body):
        headers = {"X-API-Key": key} | UNARY
        response = await ask(url, "POST", "e2b/v2/sandboxes", headers, json.dumps({"templateID": "base"} | body))
        assert response.code == 201, response.body
        box = json.loads(response.body)
        made.append((key, box["sandboxID"]))
        return box

    yield make
    for key, sandbox in made:
        loop.run_until_complete(ask(url, "DELETE", f"e2b/sandboxes/{sandbox}", {"X-API-Key": key}))


def allowed(box, *more):
    """Header fields of who may do everything in a sandbox."""
    fields = of(box, **{"X-Access-Token": box["envdAccessToken"]})
    for each in more:
        fields |= each
    return fields


class Filesystem:
    """Methods of one sandbox's `filesystem.Filesystem`."""

    def __init__(self, world, box):
        self.world, self.box = world, box

    async def __call__(self, method, **message):
        path = f"e2b/sbx/filesystem.Filesystem/{method}"
        response = await ask(self.world, "POST", path, allowed(self.box, UNARY), json.dumps(message))
        return response.code, json.loads(response.body)

    async def watcher(self, path=".", **how):
        status, body = await self("CreateWatcher", path=path, **how)
        assert status == 200, body
        return body["watcherId"]

    async def told(self, watcher):
        """What is fetched: pairs of a type without its prefix, and a name."""
        status, body = await self("GetWatcherEvents", watcherId=watcher)
        assert status == 200, body
        return [(event["type"].removeprefix("EVENT_TYPE_"), event["name"]) for event in body.get("events", [])]

    async def watcher_in_the_end(self):
        """A watcher, as soon as what others give back can be had."""
        while True:
            status, body = await self("CreateWatcher", path=".")
            if status == 200:
                return body["watcherId"]
            assert status == 429
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def stream(self, path=".", **how):
        """A watch by a stream, whose client hangs up in the end."""
        body = envelope({"path": path} | how)
        headers = allowed(self.box, STREAM, {"Content-Length": str(len(body))})
        reader, writer = await opened(self.world, "POST", "/e2b/sbx/filesystem.Filesystem/WatchDir", headers)
        writer.write(body)
        try:
            yield reader
        finally:
            writer.close()

    async def run(self, code):
        body = json.dumps({"code": code})
        response = await ask(self.world, "POST", "e2b/sbx/execute", allowed(self.box, UNARY), body)
        assert b'"error"' not in response.body, response.body

    async def size(self, path):
        """How large a file is; None when it is not there."""
        status, body = await self("Stat", path=path)
        return int(body["entry"].get("size", 0)) if status == 200 else None
