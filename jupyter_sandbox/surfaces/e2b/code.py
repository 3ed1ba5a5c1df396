"""The code interpreter of a sandbox: code runs in contexts, and what it says comes as lines of JSON."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import StreamClosedError

from jupyter_sandbox import languages
from jupyter_sandbox.contexts import NewContext
from jupyter_sandbox.errors import (
    CapacityError,
    InvalidRequestError,
    QuotaError,
    SandboxError,
    UnknownContextError,
)
from jupyter_sandbox.execution import NewExecution
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.guards import processes, shapes
from jupyter_sandbox.surfaces.e2b import data, results, variables, words
from jupyter_sandbox.surfaces.e2b.data import DataHandler
from jupyter_sandbox.surfaces.e2b.domain import PORT_HEADER
from jupyter_sandbox.surfaces.e2b.keepalives import with_keepalives
from jupyter_sandbox.web import Form

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_sandbox.contexts import ContextView
    from jupyter_sandbox.execution import Execution

KEEPALIVE_S: Final = 5.0
_PORT: Final = "49999"
USUAL: Final = (languages.PYTHON, "javascript")
"""Languages whose usual context E2B's clients expect in the list before they used it."""
_RESTORING_S: Final = 30
"""Code that puts variables back has so much more time than what it waits for."""
_CODE: Final = shapes.Text(max_length=16 << 20, pattern="")


class CodeHandler(DataHandler):
    """Base: errors are text here."""

    def refuse(self, error: SandboxError, status: int | None = None) -> None:
        """See ServiceHandler."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        super().refuse(error, status)

    def known(self, context_id: str) -> ContextView:
        """Return a context of the sandbox; raises UnknownContextError in E2B's words."""
        for context in self.surface.contexts(self.box):
            if context.id == context_id:
                return context
        raise UnknownContextError(f"Context {context_id[:60]} not found")


class HealthHandler(data.HealthHandler):
    """`GET /health` of both ports: the one of code says more."""

    async def on_get(self) -> None:
        """The sandbox lives."""
        if self.request.headers.get(PORT_HEADER) == _PORT:
            self.answer(200, "OK")
        else:
            await super().on_get()


class ExecuteHandler(CodeHandler):
    """`POST /execute`."""

    operation = "execute"
    max_body_bytes = 16 << 20

    async def on_post(self) -> None:
        """Run code; what it says is sent as it comes. Who hangs up interrupts it."""
        await self.require("kernels", "execute")
        table = shapes.decode_object(self.body() or b"{}")
        code, context_id, language = table.get("code"), table.get("context_id"), table.get("language")
        code = _CODE.judge(code, "code")
        if context_id is not None and language is not None:
            raise InvalidRequestError("Only one of context_id or language can be provided")
        if context_id is not None:
            known = self.known(str(context_id))
            context_id, spoken = known.id, known.language
        else:
            spoken = _language(language)
            context_id = await self.surface.context(self.box, spoken)
        new = processes.environment(_texts(table.get("env_vars") or {}))
        usual = self.surface.environment(self.box)
        execution = self._start(context_id, variables.preceded(spoken, code, new, usual))
        self.when_gone(execution.cancel)
        if new and (after := variables.restoring(spoken, new, usual)):
            self._start_behind(execution, after)
        events = with_keepalives(self._events(execution), {"type": "keepalive"}, KEEPALIVE_S)
        try:
            await self.stream(Form.NDJSON, events)
        finally:
            execution.cancel()  # whatever went wrong, nobody hears it any more

    def _start_behind(self, execution: Execution, code: str) -> None:
        """Start what follows at once, before anybody else's code; without it there is no execution either."""
        try:
            self._start(execution.context_id, code, _RESTORING_S)
        except SandboxError:
            execution.cancel()
            raise

    def _start(self, context_id: str, code: str, later_s: float = 0) -> Execution:
        wanted = NewExecution(
            code=code,
            timeout_s=self.surface.settings.max_execution_s + later_s,
            max_output_bytes=int(self.surface.settings.max_output_mib * (1 << 20)),
        )
        return self.services.executions.start(self.box.owner, self.box.sandbox_id, context_id, wanted)

    async def _events(self, execution: Execution) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what code says as it comes, and how it ended; break off when the sandbox ended, as SDKs expect."""
        async for output in execution.events():
            if (told := results.of_output(output, datetime.now(UTC))) is not None:
                yield told
        view = await execution.ended()
        if view.outcome is Outcome.DIED and self.surface.find(self.box.sandbox_id) is None:
            raise StreamClosedError
        for last in results.end_of(view):
            yield last


class ContextsHandler(CodeHandler):
    """`POST` and `GET /contexts`."""

    operation = "create_context"

    async def on_post(self) -> None:
        """Start a context."""
        await self.require("kernels", "write")
        table = shapes.decode_object(self.body() or b"{}")
        cwd = words.whole_path(table["cwd"] if isinstance(table.get("cwd"), str) else "")
        wanted = NewContext(language=_language(table.get("language")), cwd=cwd)
        made = await self.services.contexts.create(self.box.owner, self.box.sandbox_id, wanted)
        self.answer(200, _model(made))

    async def on_get(self) -> None:
        """List the contexts, first the usual ones; those of USUAL are always there, if the language is."""
        await self.require("kernels", "read")
        for language in USUAL:
            if await self.services.contexts.speaks(self.box.owner, self.box.sandbox_id, language):
                with contextlib.suppress(CapacityError, QuotaError):  # those that are there can be told
                    await self.surface.context(self.box, language)
        usual = set(self.box.contexts.values())
        listed = sorted(self.surface.contexts(self.box), key=lambda each: each.id not in usual)
        self.answer(200, [_model(each) for each in listed])


class ContextHandler(CodeHandler):
    """`DELETE /contexts/{id}`, `POST /contexts/{id}/restart`."""

    operation = "delete_context"

    async def on_delete(self, context_id: str) -> None:
        """End a context."""
        await self.require("kernels", "write")
        await self.services.contexts.delete(self.box.owner, self.box.sandbox_id, self.known(context_id).id)
        self.answer(200, None)


class RestartHandler(CodeHandler):
    """`POST /contexts/{id}/restart`."""

    operation = "restart_context"

    async def on_post(self, context_id: str) -> None:
        """Replace its kernel by a new one."""
        await self.require("kernels", "write")
        await self.services.contexts.restart(self.box.owner, self.box.sandbox_id, self.known(context_id).id)
        self.answer(200, None)


def _model(context: ContextView) -> dict[str, Any]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


def _language(value: object) -> str:
    if value is None:
        return languages.PYTHON
    language = languages.find(str(value))
    if language is None:
        raise InvalidRequestError(f"no language {str(value)[:40]!r}; there are: {', '.join(languages.NAMES)}")
    return language.name


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidRequestError("env_vars must be an object of texts")
    return value
