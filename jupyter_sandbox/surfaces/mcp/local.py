"""MCP over HTTP in this server: tools that use the server's own contexts, for whoever is behind a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from tornado import web

from jupyter_sandbox.errors import ForbiddenError, SandboxError
from jupyter_sandbox.surfaces.contexts import models
from jupyter_sandbox.surfaces.contexts.models import NewContext
from jupyter_sandbox.surfaces.mcp import tools
from jupyter_sandbox.surfaces.mcp.visits import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.surfaces.contexts.api import ContextsApi
    from jupyter_sandbox.surfaces.contexts.models import NewRun
    from jupyter_sandbox.surfaces.contexts.results import Ran
    from jupyter_sandbox.surfaces.keyed import KeyedHandler
    from jupyter_sandbox.surfaces.mcp.backend import Model

MAX_OUTPUT_BYTES: Final = 2 << 20
"""Of one execution. An answer holds its text twice, and is made in one piece, while the server does nothing else."""


class Local:
    """See Backend. Every call is authorized by itself: a client's session says nothing of what it may do."""

    def __init__(self, api: ContextsApi, caller: KeyedHandler) -> None:
        """`caller`: the request that brought the call."""
        self._api, self._caller = api, caller

    async def create(self, name: str, language: str) -> Model:
        """See Backend."""
        owner = await self._owner("sandboxes", "write")
        made = await self._api.create(owner, NewContext(session_name=name, language=language), self._caller.when_gone)
        return models.context(made, in_full=True)

    async def all(self) -> list[Model]:
        """See Backend."""
        owner = await self._owner("kernels", "read")
        return [models.context(each, in_full=True) for each in self._api.all_of(owner)]

    async def run(self, context_id: str, wanted: NewRun, when_gone: Callable[[Callable[[], object]], None]) -> Ran:
        """See Backend."""
        owner = await self._owner("kernels", "execute")
        return await self._api.execute(owner, context_id, wanted, when_gone, MAX_OUTPUT_BYTES)

    async def stop(self, context_id: str) -> None:
        """See Backend."""
        await self._api.delete(await self._owner("sandboxes", "write"), context_id)

    async def _owner(self, resource: str, action: str) -> Owner:
        try:
            return await self._caller.owner(resource, action)
        except web.HTTPError as error:  # as authorizers may refuse
            if isinstance(error.__cause__, SandboxError):
                raise error.__cause__ from None
            raise ForbiddenError(f"who asks may not do this ({action} {resource})") from error


def manager(api: ContextsApi, idle_s: float) -> StreamableHTTPSessionManager:
    """Return what serves MCP over HTTP; `idle_s`: how long a visit stays that nobody uses.

    The names of hosts and origins are judged by Jupyter's rules before it is reached, so it judges none.
    """

    def backend_of(context: Any) -> Local:
        return Local(api, context.request.scope[CALLER])

    return StreamableHTTPSessionManager(
        app=tools.server(backend_of, api.new_run),
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        session_idle_timeout=idle_s,
    )
