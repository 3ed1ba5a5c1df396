"""The four tools, as a table, and the MCP server that serves them. It knows no transport and no owner.

Arguments are judged by shapes of ours, and the schemas that hosts see are made of these. What goes wrong is an answer
that a model can read; an error of the protocol is a bug of ours.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mcp.server import Server
from mcp.types import CallToolResult, ImageContent, ListToolsResult, TextContent, Tool, ToolAnnotations

from jupyter_sandbox._version import __version__
from jupyter_sandbox.errors import SandboxError, UnknownRouteError
from jupyter_sandbox.guards.shapes import Field, Record, Text
from jupyter_sandbox.surfaces.contexts import models
from jupyter_sandbox.surfaces.contexts.models import NewRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server import ServerRequestContext
    from mcp.types import CallToolRequestParams, PaginatedRequestParams

    from jupyter_sandbox.guards.shapes import Schema
    from jupyter_sandbox.surfaces.contexts.results import Image
    from jupyter_sandbox.surfaces.mcp.backend import Backend

NAME: Final = "jupyter-sandbox"
PROGRESS_S: Final = 1
_INSTRUCTIONS: Final = (
    "Runs code in isolated sandboxes. Make a context with create_context, run code in it with run_code as often as you "
    "like (variables and files stay), and end it with stop_context. There is no network unless the operator opened it. "
    "Files live in /sandbox until the context ends."
)
_CONTEXT_ID: Final = Field(shape=Text(min_length=1, max_length=64), summary="Id that create_context answered.")
_TOLD: Final = frozenset({"type", "description", "enum", "default", "minimum", "maximum"})
"""Of the schemas of arguments: what every host and model understands. The rest is judged here."""


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT: Final[Schema] = {"type": "string"}
_CONTEXT: Final = _object(
    context_id=_TEXT, type=_TEXT, status=_TEXT, created_at=_TEXT, name=_TEXT, language=_TEXT, working_dir=_TEXT
)

Call = tuple["Backend", dict[str, Any], "ServerRequestContext[Any, Any]"]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A tool."""

    name: str
    summary: str
    arguments: Record
    answer: Schema
    hints: ToolAnnotations
    serve: Callable[[Call], Awaitable[CallToolResult]]

    def tool(self) -> Tool:
        """What a client is told of it."""
        return Tool(
            name=self.name,
            description=self.summary,
            input_schema=_plain(self.arguments.schema()),
            output_schema=self.answer,
            annotations=self.hints,
        )


def server(backend_of: Callable[[ServerRequestContext[Any, Any]], Backend], new_run: Record) -> Server[Any]:
    """Return an MCP server. `backend_of`: whose contexts a request is about; `new_run` judges the time of code."""
    rows = {row.name: row for row in _table(new_run)}

    async def listing(_: ServerRequestContext[Any, Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[row.tool() for row in rows.values()])

    async def call(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        try:
            row = rows.get(params.name)
            if row is None:
                raise UnknownRouteError(f"no tool {params.name[:40]!a}; known: {', '.join(rows)}")
            arguments = row.arguments.judge(params.arguments or {}, "the arguments")
            return await row.serve((backend_of(context), arguments, context))
        except SandboxError as error:
            return CallToolResult(content=[_text(models.refusal(error))], is_error=True)

    return Server(NAME, version=__version__, instructions=_INSTRUCTIONS, on_list_tools=listing, on_call_tool=call)


def _table(new_run: Record) -> tuple[_Row, ...]:
    name = Field(shape=models.SESSION_NAME, summary="What you call it, for people.")
    ran = _object(stdout=_TEXT, stderr=_TEXT, success={"type": "boolean"}, execution_time={"type": "number"})
    run_fields = {"code": models.CODE, "context_id": _CONTEXT_ID, "timeout": new_run.fields["timeout"]}
    return (
        _Row(
            name="create_context",
            summary="Make a context: a place to run code, with its own disk, kept until it is stopped or not used.",
            arguments=Record(name="CreateContext", fields={"name": name, "language": models.LANGUAGE}),
            answer=_CONTEXT,
            hints=ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False),
            serve=_create,
        ),
        _Row(
            name="run_code",
            summary="Run code in a context, and answer what it printed, the value of its last line, errors, and plots "
            "as images. Variables stay for the next call.",
            arguments=Record(name="RunCode", fields=run_fields),
            answer=ran,
            hints=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False),
            serve=_run,
        ),
        _Row(
            name="list_contexts",
            summary="List your contexts, oldest first.",
            arguments=Record(name="ListContexts", fields={}),
            answer=_object(contexts={"type": "array", "items": _CONTEXT}),
            hints=ToolAnnotations(read_only_hint=True, open_world_hint=False),
            serve=_list,
        ),
        _Row(
            name="stop_context",
            summary="End a context; its variables and files are gone.",
            arguments=Record(name="StopContext", fields={"context_id": _CONTEXT_ID}),
            answer=_object(context_id=_TEXT, status=_TEXT),
            hints=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False),
            serve=_stop,
        ),
    )


async def _create(call: Call) -> CallToolResult:
    backend, arguments, _ = call
    return _answer(await backend.create(arguments["name"], arguments["language"]))


async def _list(call: Call) -> CallToolResult:
    return _answer({"contexts": await call[0].all()})


async def _stop(call: Call) -> CallToolResult:
    backend, arguments, _ = call
    await backend.stop(arguments["context_id"])
    return _answer({"context_id": arguments["context_id"], "status": "stopped"})


async def _run(call: Call) -> CallToolResult:
    """Run code; tell how long it has been running to who wants to know, and interrupt it when the call is cancelled."""
    backend, arguments, context = call
    wanted = NewRun(code=arguments["code"], timeout=arguments["timeout"])
    stops: list[Callable[[], object]] = []
    running = asyncio.create_task(backend.run(arguments["context_id"], wanted, stops.append), name="code of a tool")
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        while not (await asyncio.wait([running], timeout=PROGRESS_S))[0]:
            took_s = round(loop.time() - began, 1)
            await context.session.report_progress(took_s, wanted.timeout, f"running for {took_s:.0f} s")
    finally:
        if not running.done():
            _see_off(running, stops)
    ran = running.result()
    texts = {"stdout": ran.stdout, "stderr": ran.stderr, "success": ran.success, "execution_time": ran.execution_time}
    return _answer(texts, ran.images)


_seen_off: Final[set[asyncio.Task[Any]]] = set()
"""Whose callers do not wait any more: they end soon, and what becomes of them is noted where they run."""


def _see_off(running: asyncio.Task[Any], stops: list[Callable[[], object]]) -> None:
    """Interrupt code; who is cancelled cannot wait for its end."""
    for stop in stops:
        stop()
    if not stops:
        running.cancel()
    _seen_off.add(running)
    running.add_done_callback(_seen_off.discard)
    running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


def _answer(model: Any, images: tuple[Image, ...] = ()) -> CallToolResult:
    shown = [ImageContent(data=image.data, mime_type=image.mime_type) for image in images]
    return CallToolResult(content=[_text(model), *shown], structured_content=model)


def _text(model: object) -> TextContent:
    return TextContent(text=json.dumps(model, ensure_ascii=False))


def _plain(schema: Schema) -> Schema:
    """Return the schema of arguments without what some hosts do not pass on to their models."""
    properties = {
        name: {key: value for key, value in each.items() if key in _TOLD} for name, each in schema["properties"].items()
    }
    return schema | {"properties": properties}
