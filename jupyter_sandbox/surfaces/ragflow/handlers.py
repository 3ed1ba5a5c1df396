"""The routes of RAGFlow's executor: who asks and what is accepted, and the answer as it goes out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox.errors import RateError
from jupyter_sandbox.host.tasks import as_long_as_asked
from jupyter_sandbox.surfaces.keyed import KeyedHandler
from jupyter_sandbox.surfaces.ragflow import models
from jupyter_sandbox.surfaces.ragflow.executor import SEND_S, RagflowExecutor
from jupyter_sandbox.web import ServiceHandler

if TYPE_CHECKING:
    from traitlets.config import Configurable

    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.ragflow.programs import Program

ROOT: Final = "/ragflow"
_JSON: Final = "application/json"

Rule = tuple[str, type[ServiceHandler], dict[str, Any]]


class HealthHandler(ServiceHandler):
    """Says that we are here, to everybody."""

    methods = ("GET",)
    _track_activity = False

    @allow_unauthenticated
    async def get(self) -> None:
        """Answer."""
        self.answer(200, {"status": "ok"})

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return _detail(error)


class RunHandler(KeyedHandler):
    """Runs a program."""

    surface: RagflowExecutor
    operation = "run_program"
    _is_accepted = False
    """Whether the request is one: from then on whatever happens is told as the outcome of a run, with status 200."""

    async def on_post(self) -> None:
        """Run it, as long as its client waits."""
        await self.owner("sandboxes", "write")
        owner = await self.owner("kernels", "execute")
        program = models.program(self.body())
        self._is_accepted = True
        await as_long_as_asked(self.when_gone, self._run(owner, program))

    async def _run(self, owner: Owner, program: Program) -> None:
        self.set_header("Content-Type", _JSON)
        self.set_header("Cache-Control", "no-store")
        with self._sending("The outcome of a run"):
            async with self.surface.running(owner, program) as run, asyncio.timeout(SEND_S):
                self.write(models.head(run.outcome))
                async with contextlib.aclosing(self.surface.contents(run)) as pieces:
                    async for piece in pieces:
                        self.write(piece)
                        await self.flush()
            self.finish(models.TAIL, set_content_type=_JSON)  # its sandbox is gone by now

    def refuse(self, error: SandboxError, status: int | None = None) -> None:
        """See ServiceHandler."""
        super().refuse(error, 200 if self._is_outcome(error) else status)

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return models.table(models.not_run(error)) if self._is_outcome(error) else _detail(error)

    def _is_outcome(self, error: SandboxError) -> bool:
        return self._is_accepted or isinstance(error, RateError) or error.status >= 500


def rules(services: Services, parent: Configurable) -> list[Rule]:
    """Return the routes; `parent` has the configuration."""
    executor = RagflowExecutor(services, parent=parent)
    return [
        (rf"{ROOT}/(?:healthz)?", HealthHandler, {}),
        (rf"{ROOT}/run", RunHandler, {"services": services, "surface": executor}),
    ]


def _detail(error: SandboxError) -> object:
    return {"detail": str(error)}
