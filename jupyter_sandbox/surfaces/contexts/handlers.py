"""Tornado handlers of the contexts API: they judge a request, ask the authorizer, and answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox.guards import shapes
from jupyter_sandbox.surfaces.contexts import models
from jupyter_sandbox.surfaces.keyed import KeyedHandler
from jupyter_sandbox.web import ServiceHandler

if TYPE_CHECKING:
    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.contexts.api import ContextsApi

_ROOT: Final = "/api/v1/contexts"
_YES_OR_NO: Final = shapes.Choice(("true", "false"))

Rule = tuple[str, type[ServiceHandler], dict[str, Any]]


class _Handler(KeyedHandler):
    """What they share."""

    surface: ContextsApi

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return models.refusal(error)

    def in_full(self) -> bool:
        """Whether the client wants more than the usual fields; raises InvalidRequestError."""
        return _YES_OR_NO.judge(self.get_query_argument("full", "false"), "full") == "true"


class ContextsHandler(_Handler):
    """All contexts."""

    operation = "contexts"

    async def on_get(self) -> None:
        """Those of who asks."""
        owner, in_full = await self.owner("kernels", "read"), self.in_full()
        self.answer(200, [models.context(each, in_full=in_full) for each in self.surface.all_of(owner)])

    async def on_post(self) -> None:
        """A new one."""
        owner, in_full = await self.owner("sandboxes", "write"), self.in_full()
        wanted = models.NEW_CONTEXT.judge(shapes.decode(self.body() or b"{}"))
        self.answer(200, models.context(await self.surface.create(owner, wanted, self.when_gone), in_full=in_full))


class ContextHandler(_Handler):
    """One context."""

    operation = "context"

    async def on_delete(self, context_id: str) -> None:
        """Its end."""
        owner = await self.owner("sandboxes", "write")
        await self.surface.delete(owner, context_id)
        self.answer(200, {"context_id": context_id, "status": "deleted"})


class ExecuteHandler(_Handler):
    """Executions in a context."""

    operation = "execute_in_context"

    async def on_post(self, context_id: str) -> None:
        """What became of the code; it is interrupted when the client hangs up."""
        owner, in_full = await self.owner("kernels", "execute"), self.in_full()
        wanted = self.surface.new_run.judge(shapes.decode(self.body() or b"{}"))
        ran = await self.surface.execute(owner, context_id, wanted, self.when_gone)
        await self.answer_in_turn(200, models.ran(ran, in_full=in_full))


class HealthHandler(ServiceHandler):
    """Whether the server answers; everybody may ask, and it is nobody's activity."""

    methods = ("GET",)
    _track_activity = False

    @allow_unauthenticated
    async def get(self) -> None:
        """Say so."""
        self.finish("OK", set_content_type="text/plain; charset=UTF-8")


def rules(services: Services, api: ContextsApi) -> list[Rule]:
    """Return the routes."""
    known = {"services": services, "surface": api}
    return [
        ("/health", HealthHandler, {}),
        (_ROOT, ContextsHandler, known),
        (f"{_ROOT}/([^/]+)", ContextHandler, known),
        (f"{_ROOT}/([^/]+)/execute", ExecuteHandler, known),
    ]
