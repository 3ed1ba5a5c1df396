"""Handlers of one resource each: how its methods are found, what was sent, and whether who asks may do that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox import errors
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.web import ServiceHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox.services import Services


class ResourceHandler(ServiceHandler):
    """Base: a subclass finds out who asks, and has coroutines `on_get`, `on_post` and so on for what it knows."""

    operation: str | None = None
    """What a request is called in events."""

    def initialize(self, services: Services, surface: Any = None) -> None:
        """`surface`: what its surface knows, and what the operator has set for it."""
        self.services, self.surface = services, surface
        self.methods = tuple(name for name in ("GET", "POST", "PUT", "DELETE") if hasattr(self, f"on_{name.lower()}"))

    def operation_name(self) -> str | None:
        """See ServiceHandler."""
        return self.operation

    def forget_credentials(self) -> None:
        """Forget what browsers send by themselves, and a token in the URL, where Jupyter looks first and logs are."""
        for name in ("Authorization", "Cookie"):
            self.request.headers.pop(name, None)
        for arguments in (self.request.arguments, self.request.query_arguments):
            arguments.pop("token", None)

    async def require(self, resource: str, action: str) -> None:
        """Raise SandboxError or HTTPError unless who asks may do that, within the owner's rate."""
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, resource)):
            raise errors.ForbiddenError(f"who asks may not do this ({action} {resource})")

    @allow_unauthenticated
    def options(self, *_: Any, **__: Any) -> None:
        """Tell a browser what a page may send."""
        self.set_status(204)
        self.finish()

    async def serve(self, ids: tuple[str, ...]) -> None:
        """Serve the method of the request."""
        serve: Callable[..., Awaitable[None]] | None = getattr(self, f"on_{str(self.request.method).lower()}", None)
        try:
            if serve is None:
                raise errors.MethodError("the resource does not know this method")
            await serve(*ids)
        except SandboxError as error:
            if self.incoming is not None:
                await self.incoming.hear_out(error)
            self.refuse(error)
