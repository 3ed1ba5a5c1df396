"""Jupyter's own routes of kernels, sessions, events and kernelspecs, with owners kept apart.

Each handler is Jupyter's, with views in place of its managers. They shadow the stock routes on a server whose
authorizer is ours, and are the only ones of Jupyter's that take tokens.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.services.api import handlers as api
from jupyter_server.services.events import handlers as events
from jupyter_server.services.kernels import handlers as kernels
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from jupyter_server.services.kernelspecs import handlers as kernelspecs
from jupyter_server.services.sessions import handlers as sessions
from tornado import web

from jupyter_sandbox import event_routes, owners
from jupyter_sandbox.errors import (
    ForbiddenError,
    RateError,
    SandboxError,
    ScopeError,
    TokenError,
    UnknownContextError,
)
from jupyter_sandbox.events import RequestRefused, ignore
from jupyter_sandbox.jupyter_requests import judged, refusal_in
from jupyter_sandbox.jupyter_views import OwnKernels, OwnSessions
from jupyter_sandbox.kernel_websocket import SandboxKernelWebsocketHandler
from jupyter_sandbox.owners import Bearer
from jupyter_sandbox.web import EMIT, TokenRoute, no_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.contexts import Contexts
    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.outlets import OutputLimits

_POLICY_VIOLATION: Final = 1008
_DENIALS: Final = frozenset(each.code for each in (ForbiddenError, TokenError, RateError, ScopeError))
_PATHS: Final = "/api/resolvePath"
_STOCK: Final = (
    *kernels.default_handlers,
    *sessions.default_handlers,
    *event_routes.ROUTES,
    *kernelspecs.default_handlers,
    *(row for row in api.default_handlers if row[0] in {"/api/status", _PATHS}),
)


class OwnRoute(TokenRoute):
    """Put before a handler of Jupyter's."""

    _contexts: Contexts

    def initialize(self, contexts: Contexts, **more: Any) -> None:
        """`contexts`: what keeps room for new kernels."""
        self._contexts = contexts
        super().initialize(**more)

    async def prepare(self, *args: Any, **kwargs: Any) -> None:
        """A kernel that is another's is not there, for whatever method."""
        await _done(super().prepare(*args, **kwargs))
        kernel_id = self.path_kwargs.get("kernel_id")
        if self.current_user is not None and kernel_id is not None and kernel_id not in self.kernel_manager:
            raise no_kernel(kernel_id)

    @functools.cached_property
    def kernel_manager(self) -> Any:
        """The kernels of who asks."""
        return OwnKernels(self.settings["kernel_manager"], owners.reach(self), self._contexts)

    @functools.cached_property
    def session_manager(self) -> Any:
        """The sessions of who asks."""
        return OwnSessions(self.settings["session_manager"], self.kernel_manager)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Say when to try again; tell who is kept out as our own API does."""
        error = refusal_in(kwargs.get("exc_info", (None, None))[1])
        cause = error.__cause__ if isinstance(error, web.HTTPError) else None
        if isinstance(cause, SandboxError) and cause.retry_after_s is not None:
            self.tell({"Retry-After": str(cause.retry_after_s)})
        if (code := _denial(status_code, cause or error)) is not None:
            emit: Emit = self.settings.get(EMIT, ignore)
            emit(RequestRefused(code=code))
        super().send_error(status_code, **kwargs)


class OwnWebsocket(OwnRoute):
    """Put before a websocket of Jupyter's."""

    def on_finish(self) -> None:
        """Tornado says so of the handshake; the connection stays ours."""

    def hang_up(self) -> None:
        """Tell the client that it is nobody any more."""
        self.close(_POLICY_VIOLATION, "the token is not good any more")  # type: ignore[attr-defined]


class OwnKernelWebsocketHandler(OwnWebsocket, SandboxKernelWebsocketHandler):  # type: ignore[misc] # of `initialize`
    """The kernel websocket of one owner's kernels."""


class OwnSubscribeWebsocket(OwnWebsocket, events.SubscribeWebsocket):
    """Events that are one owner's, or of its kernels; what names neither is for people."""

    def open(self) -> None:
        """Begin as usual."""
        self._mine = set(self.kernel_manager.list_kernel_ids())
        super().open()

    async def event_listener(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        """Pass on what is the owner's to know; the last event of a kernel comes when it is gone."""
        kernel_id = data.get("kernel_id")
        if "owner" in data:
            is_mine = owners.reach(self).has_event(data)
        elif kernel_id is None:
            is_mine = not isinstance(self.current_user, Bearer)
        elif kernel_id in self.kernel_manager:
            self._mine.add(kernel_id)
            is_mine = True
        else:
            is_mine = kernel_id in self._mine
            self._mine.discard(kernel_id)
        if is_mine:
            await super().event_listener(logger, schema_id, data)


def rules(contexts: Contexts, limits: OutputLimits) -> Iterator[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """Yield routes that shadow Jupyter's."""
    for route, stock in _STOCK:
        if stock is KernelWebsocketHandler:
            yield route, OwnKernelWebsocketHandler, {"contexts": contexts, "limits": limits}
        elif stock is event_routes.OwnEventsWebsocket:
            yield route, OwnSubscribeWebsocket, {"contexts": contexts}
        else:  # the server's own files are no token's business
            more = {"takes_tokens": route != _PATHS}
            yield route, type(f"Own{stock.__name__}", (OwnRoute, judged(stock)), more), {"contexts": contexts}


def _denial(status_code: int, cause: BaseException | None) -> str | None:
    """Return what keeping somebody out is called; None for other refusals: a kernel's start tells its own."""
    if isinstance(cause, SandboxError):
        return cause.code if cause.code in _DENIALS else None
    return {403: ForbiddenError.code, 404: UnknownContextError.code}.get(status_code)


async def _done(prepared: Any) -> None:
    """Jupyter's `prepare` is a coroutine that may return another."""
    while prepared is not None:
        prepared = await prepared
