"""Where MCP's requests over HTTP are served: what that needs is loaded by the first one, and ends with the server.

The packages are an optional extra and take a second to load, so nobody waits for them who does not use them.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import CapacityError, InvalidRequestError, MethodError, NotInstalledError
from jupyter_sandbox.host import tasks
from jupyter_sandbox.surfaces.mcp.asgi import Exchange
from jupyter_sandbox.surfaces.mcp.visits import CALLER, Visits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.surfaces.contexts.api import ContextsApi
    from jupyter_sandbox.surfaces.keyed import KeyedHandler

VISIT_HEADER: Final = "mcp-session-id"
_END_S: Final = 5
_WATCHER: Final = "_shutdown_watcher"
"""A task of sse_starlette, by which MCP's library streams: it looks for the end of another kind of server, for ever."""

log = logging.getLogger(__name__)


class Desk:
    """See the module."""

    def __init__(self, api: ContextsApi) -> None:
        """Serve the contexts of `api`. Nothing is loaded yet."""
        self._api = api
        self._idle_s = api.idle_s + api.max_timeout_s  # what runs is no request, though somebody waits for it
        self._visits = Visits(self._idle_s)
        self._opening: asyncio.Task[Any] | None = None
        self._life: asyncio.Task[None] | None = None
        self._is_open, self._is_over = asyncio.Event(), asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._served: set[Exchange] = set()

    async def serve(self, handler: KeyedHandler, owner: Owner) -> None:
        """Answer a request of `owner`; raises SandboxError before anything was answered."""
        if self._is_over.is_set():
            raise CapacityError("the server is stopping", retry_after_s=1)
        visit_id = handler.request.headers.get(VISIT_HEADER)
        if visit_id is not None:
            self._visits.use(owner, visit_id)
        else:
            _judge_first(handler)
        if self._opening is None:
            self._opening = asyncio.create_task(  # of no request, though one is what it begins with
                self._open(), name="start of MCP", context=contextvars.Context()
            )
        manager = await asyncio.shield(self._opening)

        def note(status: int, headers: Mapping[str, str]) -> None:
            if visit_id is None and VISIT_HEADER in headers:
                self._begin(manager, owner, headers[VISIT_HEADER], is_good=status < 400)

        exchange = Exchange(handler, {CALLER: handler}, note)
        self._served.add(exchange)
        try:
            await manager.handle_request(exchange.scope, exchange.receive, exchange.send)
        finally:
            self._served.discard(exchange)
        exchange.end()
        if visit_id is not None and handler.request.method == "DELETE":
            self._visits.end(visit_id)
            await self._end(manager, visit_id)

    async def stop(self) -> None:
        """Hang up on everybody and end what was started. Quiet when nothing was."""
        self._is_over.set()
        for exchange in list(self._served):
            exchange.end()
        watchers = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == _WATCHER]
        for watcher in watchers:
            watcher.cancel()
        tasks = [task for task in (self._opening, self._life, *self._ending, *watchers) if task is not None]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_END_S)
            for task in left:
                task.cancel()

    async def _open(self) -> Any:
        """Load what MCP needs and start it; raises NotInstalledError."""
        try:
            local: Any = await asyncio.to_thread(importlib.import_module, "jupyter_sandbox.surfaces.mcp.local")
        except ImportError as error:
            log.warning("MCP cannot be served: %s", error)
            raise NotInstalledError(
                "MCP needs more packages: pip install '.[mcp]' in the checkout, and restart the server"
            ) from error
        manager = local.manager(self._api, self._idle_s)
        self._life = asyncio.create_task(self._live(manager), name="MCP")
        opened = asyncio.create_task(self._is_open.wait(), name="MCP is open")
        await asyncio.wait([self._life, opened], return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if self._life.done():
            self._life.result()
        return manager

    async def _live(self, manager: Any) -> None:
        async with manager.run():
            self._is_open.set()
            await self._is_over.wait()

    def _begin(self, manager: Any, owner: Owner, visit_id: str, *, is_good: bool) -> None:
        """A visit has begun, unless its first request was none: the manager makes one for every request without."""
        superfluous = self._visits.begin(owner, visit_id) if is_good else visit_id
        if superfluous is not None:
            tasks.spawn(self._ending, self._end(manager, superfluous), "end of a visit")

    async def _end(self, manager: Any, visit_id: str) -> None:
        """Let the manager forget a visit; it keeps those that clients end for ever."""
        transport = manager._server_instances.pop(visit_id, None)  # noqa: SLF001
        if transport is not None:
            await transport.terminate()


def _judge_first(handler: KeyedHandler) -> None:
    """Judge a request without a visit; raises SandboxError for what would make one that nobody is told of."""
    if handler.request.method != "POST":
        raise MethodError("without a session of MCP's there is only POST")
    if handler.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequestError("send JSON, as application/json")
