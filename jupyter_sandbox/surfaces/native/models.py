"""What REST requests hold, as shapes, and how services' values look as JSON, with the schemas of these."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import languages, narrowing, restrictions
from jupyter_sandbox.contexts import ContextView, NewContext
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.events import Origin
from jupyter_sandbox.execution import ExecutionState, ExecutionView, NewExecution
from jupyter_sandbox.execution_fold import Folded, Outcome, OutputEvent
from jupyter_sandbox.guards.shapes import NAME, Choice, Field, Flag, Items, Nullable, Number, Record, Table, Text, Whole
from jupyter_sandbox.sandbox import Claim, SandboxState, SandboxView
from jupyter_sandbox.specs import UNLIMITED, UNRESTRICTED, Less, Restriction
from jupyter_sandbox.surfaces.native import file_models, schemas, template_models, token_models
from jupyter_sandbox.template_shape import ENVIRONMENT, LESS

if TYPE_CHECKING:
    from jupyter_sandbox.broker.usage_verbs import UsageReport
    from jupyter_sandbox.guards.shapes import Schema

_MIN_TIMEOUT_S: Final = 0.1
TEMPLATE: Final = Text(max_length=40, pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", examples=("python",))
METADATA_NAME: Final = Text(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.\/-]+$")
METADATA_VALUE: Final = Text(max_length=256, pattern=NAME)
METADATA: Final = Table(names=METADATA_NAME, values=METADATA_VALUE, max_entries=16)
DIRECTORY: Final = Text(
    min_length=1,
    max_length=1024,
    pattern=r"^\/(sandbox|home\/user|workspace|tmp)(\/[^\u0000]*)?$",
    examples=("/sandbox",),
)
TARGETS: Final = Items(
    shape=Text(min_length=2, max_length=64, pattern=r"^[0-9A-Fa-f:.\/]+$", examples=("10.0.0.0/8",)),
    min_items=0,
    max_items=restrictions.MAX_TARGETS,
)
KEY: Final = Text(min_length=1, max_length=128, pattern=r"^[\u0021-\u007e]+$")
CODE: Final = Text(max_length=1 << 20, examples=("print(6 * 7)",))


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long things live, and what they may print, by configuration."""

    sandbox_s: float = 900
    max_sandbox_s: float = 86_400
    execution_s: float = 60
    max_execution_s: float = 3_600
    max_output_bytes: int = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """How long from now."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which sandboxes to list."""

    limit: int
    cursor: str | None = None
    state: str | None = None
    template: str | None = None
    metadata: tuple[str, ...] = field(default=())


def _network(*, deny: tuple[str, ...], allow: tuple[str, ...]) -> Restriction:
    """Return what is meant; who allows something and denies nothing means something else than this would be."""
    if allow and not deny:
        raise InvalidRequestError('allow is what deny is not to hold; to deny all else: "deny": ["0.0.0.0/0", "::/0"]')
    return restrictions.judge(deny, allow)


NETWORK: Final = Record(
    name="Network",
    build=_network,
    fields={
        "deny": Field(shape=TARGETS, summary="Addresses and ranges that it may not reach.", default=()),
        "allow": Field(shape=TARGETS, summary="Those of them that it may reach nevertheless.", default=()),
    },
)


def claim(times: Times) -> Record:
    """The body of a claim."""
    return Record(
        name="Claim",
        build=_claim,
        fields={
            "template": Field(shape=TEMPLATE, summary="Name of the template.", default="python"),
            "timeout_s": Field(
                shape=Number(minimum=1, maximum=times.max_sandbox_s),
                summary="How long it lives unless it is renewed, seconds.",
                default=times.sandbox_s,
            ),
            "metadata": Field(shape=METADATA, summary="Words of your own, to find it by.", default={}),
            "env": Field(shape=ENVIRONMENT, summary="Environment variables of its contexts.", default={}),
            "network": Field(shape=NETWORK, summary="What it may not reach of what its template opens.", default=None),
            "limits": Field(shape=LESS, summary="What it gets less of than its template's limits.", default=None),
        },
    )


def _claim(*, network: Restriction | None, limits: Less | None, **values: Any) -> Claim:
    return Claim(network=network or UNRESTRICTED, less=limits or UNLIMITED, is_renewed_by_use=True, **values)


def renewal(times: Times) -> Record:
    """The body of a renewal."""
    shape = Number(minimum=1, maximum=times.max_sandbox_s)
    summary = "How long it lives from now on, seconds."
    return Record(name="Renewal", build=Renewal, fields={"timeout_s": Field(shape=shape, summary=summary)})


NEW_CONTEXT: Final = Record(
    name="NewContext",
    build=NewContext,
    fields={
        "language": Field(shape=Choice(languages.NAMES), summary="Language of the kernel.", default="python"),
        "cwd": Field(shape=Nullable(DIRECTORY), summary="Working directory, inside the sandbox.", default=None),
    },
)


def new_execution(times: Times) -> Record:
    """The body of an execution."""
    return Record(
        name="NewExecution",
        build=NewExecution,
        fields={
            "code": Field(shape=CODE, summary="What to run."),
            "timeout_s": Field(
                shape=Number(minimum=_MIN_TIMEOUT_S, maximum=times.max_execution_s),
                summary="When it is interrupted, seconds after it was accepted; waiting counts.",
                default=times.execution_s,
            ),
            "max_output_bytes": Field(
                shape=Whole(minimum=0, maximum=times.max_output_bytes),
                summary="How much of its outputs is kept; more ends it.",
                default=times.max_output_bytes,
            ),
            "detached": Field(
                shape=Flag(), summary="Answer at once and go on without the client; fetch it later.", default=False
            ),
        },
    )


PAGE: Final = Record(
    name="Page",
    build=Page,
    fields={
        "limit": Field(shape=Whole(minimum=1, maximum=500), summary="At most so many.", default=100),
        "cursor": Field(
            shape=Text(max_length=32, pattern=r"^c2J4[A-Za-z0-9_-]{28}$"),
            summary="`next` of the page before.",
            default=None,
        ),
        "state": Field(shape=Choice(tuple(SandboxState)), summary="Only those in this state.", default=None),
        "template": Field(shape=TEMPLATE, summary="Only those of this template.", default=None),
        "metadata": Field(
            shape=Text(min_length=2, max_length=321, pattern=r"^[A-Za-z0-9_.\/-]{1,64}:[^\u0000-\u001f\u007f]*$"),
            summary="Only those with this metadata, as `name:value`; may come more than once.",
            default=(),
        ),
    },
)
REPEATABLE: Final = frozenset({"metadata"})
MAX_REPEATED: Final = 16
KEY_HEADER: Final = "Idempotency-Key"


# -- values of services as JSON


def sandbox(view: SandboxView) -> dict[str, Any]:
    """A sandbox."""
    return {
        "id": view.id,
        "template": view.template,
        "state": str(view.state),
        "origin": str(view.origin),
        "created_at": schemas.time(view.created_at),
        "expires_at": schemas.time(view.expires_at),
        "metadata": view.metadata,
        "contexts": list(view.contexts),
        "network": {
            "deny": [restrictions.words(target) for target in view.network.denied],
            "allow": [restrictions.words(target) for target in view.network.excepted],
        },
        "limits": narrowing.shown(view.less),
    }


def usage(report: UsageReport) -> dict[str, Any]:
    """What a sandbox uses."""
    return asdict(report)


def context(view: ContextView) -> dict[str, Any]:
    """A context."""
    return {
        "id": view.id,
        "sandbox_id": view.sandbox_id,
        "language": view.language,
        "kernel_name": view.kernel_name,
        "cwd": view.cwd,
        "state": view.state,
        "last_activity": schemas.time(view.last_activity),
    }


def execution(view: ExecutionView, *, with_outputs: bool = True) -> dict[str, Any]:
    """An execution. Its outputs are those of a notebook's cell."""
    model = {
        "id": view.id,
        "sandbox_id": view.sandbox_id,
        "context_id": view.context_id,
        "state": str(view.state),
        "outcome": None if view.outcome is None else str(view.outcome),
        "message": view.message,
        "detached": view.detached,
        "accepted_at": schemas.time(view.accepted_at),
        "started_at": schemas.time(view.started_at),
        "ended_at": schemas.time(view.ended_at),
        "duration_s": None if view.duration_s is None else round(view.duration_s, 6),
        **_folded(view.folded),
    }
    return model | {"outputs": list(view.folded.outputs)} if with_outputs else model


def _folded(folded: Folded) -> dict[str, Any]:
    failure, omitted = folded.failure, folded.omitted
    return {
        "execution_count": folded.execution_count,
        "error": None if failure is None else {"name": failure.name, "value": failure.value},
        "omitted": {
            "outputs": omitted.outputs,
            "bytes": omitted.bytes,
            "refused_messages": omitted.refused_messages,
            "refused_bytes": omitted.refused_bytes,
        },
    }


def event(change: OutputEvent) -> dict[str, Any]:
    """A line of a stream."""
    return {"type": change.kind} if change.kind == "clear" else {"type": change.kind, "output": change.output}


# -- their schemas

_OUTPUT: Final[Schema] = {
    "type": "object",
    "description": "An output of nbformat 4: stream, display_data, execute_result or error.",
    "properties": {"output_type": {"enum": ["stream", "display_data", "execute_result", "error"]}},
    "required": ["output_type"],
}
_EXECUTION: Final[dict[str, Schema]] = {
    "id": schemas.TEXT,
    "sandbox_id": schemas.TEXT,
    "context_id": schemas.TEXT,
    "state": {"enum": [str(state) for state in ExecutionState]},
    "outcome": schemas.or_null({"enum": [str(outcome) for outcome in Outcome]}),
    "message": schemas.or_null(schemas.TEXT),
    "detached": {"type": "boolean"},
    "accepted_at": schemas.TIME,
    "started_at": schemas.or_null(schemas.TIME),
    "ended_at": schemas.or_null(schemas.TIME),
    "duration_s": schemas.or_null({"type": "number"}),
    "execution_count": schemas.or_null(schemas.COUNT),
    "error": schemas.or_null(schemas.record(name=schemas.TEXT, value=schemas.TEXT)),
    "omitted": schemas.record(
        outputs=schemas.COUNT, bytes=schemas.COUNT, refused_messages=schemas.COUNT, refused_bytes=schemas.COUNT
    ),
}
SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": schemas.record(code=schemas.TEXT, message=schemas.TEXT, hint=schemas.TEXT),
    "Sandbox": schemas.record(
        id=schemas.TEXT,
        template=schemas.TEXT,
        state={"enum": [str(state) for state in SandboxState]},
        origin={"enum": [str(origin) for origin in Origin]},
        created_at=schemas.TIME,
        expires_at=schemas.or_null(schemas.TIME),
        metadata={"type": "object", "additionalProperties": schemas.TEXT},
        contexts={"type": "array", "items": schemas.TEXT},
        network=schemas.record(
            deny={"type": "array", "items": schemas.TEXT}, allow={"type": "array", "items": schemas.TEXT}
        ),
        limits={"type": "object", "additionalProperties": {"type": "number"}},
    ),
    "Sandboxes": schemas.record(sandboxes=schemas.list_of("Sandbox"), next=schemas.or_null(schemas.TEXT)),
    "Usage": schemas.record(
        cpu_s=schemas.or_null({"type": "number", "minimum": 0}),
        cpus={"type": "number"},
        memory_bytes=schemas.or_null(schemas.COUNT),
        memory_cache_bytes=schemas.or_null(schemas.COUNT),
        memory_total_bytes=schemas.COUNT,
        disk_bytes=schemas.or_null(schemas.COUNT),
        disk_total_bytes=schemas.COUNT,
    ),
    "Context": schemas.record(
        id=schemas.TEXT,
        sandbox_id=schemas.TEXT,
        language=schemas.TEXT,
        kernel_name=schemas.TEXT,
        cwd=schemas.TEXT,
        state=schemas.TEXT,
        last_activity=schemas.TIME,
    ),
    "Contexts": schemas.record(contexts=schemas.list_of("Context")),
    "Output": _OUTPUT,
    "Execution": schemas.record(**_EXECUTION, outputs=schemas.list_of("Output")),
    "ExecutionSummary": schemas.record(**_EXECUTION),
    "Executions": schemas.record(executions=schemas.list_of("ExecutionSummary")),
    "Event": {
        "type": "object",
        "description": "One line or message of a stream: `started` with the execution, then `output` (a piece of text, "
        "if it is a stream's), `update` of the outputs with a display id, `clear`, and last `ended` with the execution "
        "without its outputs. Of a command: `started` and `ended` with the command, and between them `output` with the "
        "fields of a Piece.",
        "properties": {"type": {"enum": ["started", "output", "update", "clear", "ended"]}},
        "required": ["type"],
    },
    "Health": schemas.record(status=schemas.TEXT),
    **file_models.SCHEMAS,
    **template_models.SCHEMAS,
    **token_models.SCHEMAS,
}
