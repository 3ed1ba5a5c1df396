"""Holds the requests of a server back for a while, before anything is asked of them: whatever waits is found unchanged.

A server that was started anew and does not know its kernels yet would say that they are gone, and clients believe it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, RequestStartLine, ResponseStartLine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Doorway:
    """In front of one web application."""

    def __init__(self, application: Any) -> None:
        """Be open."""
        self._find: Callable[..., HTTPMessageDelegate] = application.find_handler
        self._is_open: asyncio.Event | None = None
        application.find_handler = self._enter

    def close(self) -> None:
        """Let requests wait from now on."""
        self._is_open = asyncio.Event()

    def open(self) -> None:
        """Let in who waits, and who comes."""
        if self._is_open is not None:
            self._is_open.set()
            self._is_open = None

    def _enter(self, request: HTTPServerRequest, **settings: Any) -> HTTPMessageDelegate:
        if self._is_open is None:
            return self._find(request, **settings)
        return _Waiting(self._is_open, lambda: self._find(request, **settings))


class _Waiting(HTTPMessageDelegate):
    """A request that waits; from then on whatever handles it does."""

    def __init__(self, is_open: asyncio.Event, find: Callable[[], HTTPMessageDelegate]) -> None:
        self._is_open, self._find = is_open, find
        self._inner: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None]:
        return self._wait(start_line, headers)

    async def _wait(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        await self._is_open.wait()
        self._inner = self._find()
        if (result := self._inner.headers_received(start_line, headers)) is not None:
            await result

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()
