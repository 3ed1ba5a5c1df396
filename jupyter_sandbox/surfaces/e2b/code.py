"""The code interpreter of a sandbox: code runs in contexts, and what it says comes as lines of JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import StreamClosedError

from jupyter_sandbox.contexts import NewContext
from jupyter_sandbox.errors import InvalidRequestError, SandboxError, UnknownContextError
from jupyter_sandbox.execution import NewExecution
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.guards import processes, shapes
from jupyter_sandbox.surfaces.e2b import results, words
from jupyter_sandbox.surfaces.e2b.data import DataHandler
from jupyter_sandbox.surfaces.e2b.keepalives import with_keepalives
from jupyter_sandbox.web import Form

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_sandbox.contexts import ContextView
    from jupyter_sandbox.execution import Execution

KEEPALIVE_S: Final = 5.0
_CODE: Final = shapes.Text(max_length=16 << 20, pattern="")
_ALIASES: Final = {"js": "javascript", "ts": "typescript", "py": "python", "python3": "python"}
_LANGUAGES: Final = ("python", "javascript", "typescript", "r", "java", "bash")


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
            context_id = self.known(str(context_id)).id
        else:
            context_id = await self.surface.context(self.box, _language(language))
        variables = table.get("env_vars") or {}
        if variables:
            code = with_variables(code, processes.environment(_texts(variables)))
        wanted = NewExecution(
            code=code,
            timeout_s=self.surface.settings.max_execution_s,
            max_output_bytes=int(self.surface.settings.max_output_mib * (1 << 20)),
        )
        execution = self.services.executions.start(self.box.owner, self.box.sandbox_id, context_id, wanted)
        self.when_gone(execution.cancel)
        events = with_keepalives(self._events(execution), {"type": "keepalive"}, KEEPALIVE_S)
        try:
            await self.stream(Form.NDJSON, events)
        finally:
            execution.cancel()  # whatever went wrong, nobody hears it any more

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
        await self.surface.context(self.box, "python")  # it is there from the start, so new ones come after it
        made = await self.services.contexts.create(self.box.owner, self.box.sandbox_id, wanted)
        self.answer(200, _model(made))

    async def on_get(self) -> None:
        """List the contexts; there is always the usual one of Python."""
        await self.require("kernels", "read")
        await self.surface.context(self.box, "python")
        self.answer(200, [_model(each) for each in self.surface.contexts(self.box)])


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


_WITH_VARIABLES: Final = """
import os
from IPython import get_ipython
before = {name: os.environ.get(name) for name in new}
os.environ.update(new)
events = get_ipython().events
def restore(*_):
    events.unregister("post_run_cell", restore)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
events.register("post_run_cell", restore)
"""


def with_variables(code: str, variables: dict[str, str]) -> str:
    """Return Python code that has these environment variables while it runs, and those of before afterwards.

    One line comes before it, as far indented as it is; with a magic of the whole cell there is no place for one.
    """
    first = next((line for line in code.split("\n") if line.strip()), "")
    if first.startswith("%%"):
        raise InvalidRequestError("env_vars and a magic of the whole cell do not go together")
    indent = first[: len(first) - len(first.lstrip())]
    return f"{indent}exec({_WITH_VARIABLES!r}, {{'new': {variables!r}}})\n{code}"


def _model(context: ContextView) -> dict[str, Any]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


def _language(value: object) -> str:
    if value is None:
        return "python"
    name = str(value).strip().lower()[:40]
    name = _ALIASES.get(name, name)
    if name not in _LANGUAGES:
        raise InvalidRequestError(f"no language {name!r}; there are: {', '.join(_LANGUAGES)}")
    return name


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidRequestError("env_vars must be an object of texts")
    return value
