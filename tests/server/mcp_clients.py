"""MCP clients of two makers, over HTTP and over stdio: each yields a `Host`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastmcp
import httpx2
import mcp
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

PROGRAM = str(Path(sys.executable).with_name("jupyter-sandbox-mcp"))


@dataclass
class Host:
    """What a host does with a client. `client`: of its maker's."""

    client: Any
    _call: Any

    async def tools(self):
        found = await self.client.list_tools()
        return {tool.name: tool for tool in getattr(found, "tools", found)}

    async def call(self, tool, on_progress=None, /, **arguments):
        """The answer of a tool, whose text and structured content must be the same."""
        result = await self._call(tool, arguments, on_progress)
        model = json.loads(result.content[0].text)
        if not result.is_error:
            assert result.structured_content == model
        return result, model

    async def answer(self, tool, /, **arguments):
        result, model = await self.call(tool, **arguments)
        assert not result.is_error, model
        return model

    async def refusal(self, tool, /, **arguments):
        result, model = await self.call(tool, **arguments)
        assert result.is_error, model
        return model

    async def printed(self, context_id, code):
        ran = await self.answer("run_code", context_id=context_id, code=code)
        assert ran["success"], ran
        return ran["stdout"]


@contextlib.asynccontextmanager
async def official(transport, mode="auto"):
    """The protocol's own client; `mode` legacy: the protocol of most hosts, with sessions."""
    async with mcp.Client(transport, mode=mode) as client:

        async def call(name, arguments, on_progress):
            return await client.call_tool(name, arguments, progress_callback=on_progress)

        yield Host(client, call)


@contextlib.asynccontextmanager
async def of_fastmcp(transport):
    async with fastmcp.Client(transport) as client:

        async def call(name, arguments, on_progress):
            return await client.call_tool_mcp(name, arguments, progress_handler=on_progress)

        yield Host(client, call)


@contextlib.asynccontextmanager
async def over_http(kind, url, token):
    headers = {"Authorization": f"Bearer {token}"}
    if kind == "fastmcp":
        async with of_fastmcp(StreamableHttpTransport(url, headers=headers)) as host:
            yield host
        return
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        official(streamable_http_client(url, http_client=http), kind) as host,
    ):
        yield host


@contextlib.asynccontextmanager
async def over_stdio(kind, environment, log):
    """`log`: an open file for what the program writes to standard error."""
    if kind == "fastmcp":
        transport = StdioTransport(PROGRAM, [], env=environment, keep_alive=False, log_file=log)
        async with of_fastmcp(transport) as host:
            yield host
        return
    server = StdioServerParameters(command=PROGRAM, args=[], env=environment)
    async with official(stdio_client(server, errlog=log), kind) as host:
        yield host
