"""What requests to the contexts API hold, as shapes, and how its values look as JSON. Pure.

A sandbox that is made over this API shows no directory of the server's, so what its clients call `/workspace` is its
disk, `/sandbox`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import SandboxError, UnknownContextError
from jupyter_sandbox.guards import paths, processes
from jupyter_sandbox.guards.shapes import NAME, Choice, Field, Nullable, Number, Record, Text
from jupyter_sandbox.languages import NAMES

if TYPE_CHECKING:
    from jupyter_sandbox.named_sandboxes import NamedSandbox
    from jupyter_sandbox.surfaces.contexts.results import Ran

_WORKSPACE: Final = "/workspace"
_MIN_TIMEOUT_S: Final = 0.1
_NOT_FOUND: Final = "CONTEXT_NOT_FOUND"
LANGUAGE: Final = Field(shape=Choice(NAMES), summary="Language of the code.", default="python")
SESSION_NAME: Final = Text(max_length=200, pattern=NAME)
CODE: Final = Field(shape=Text(max_length=1 << 20), summary="What to run.")


@dataclass(frozen=True, kw_only=True)
class NewContext:
    """What is wanted. `working_dir` as its client calls it."""

    language: str
    session_name: str | None = None
    working_dir: str = _WORKSPACE
    type: str = "jupyter"


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """What is to be run. `timeout` in seconds."""

    code: str = field(repr=False)
    timeout: float


NEW_CONTEXT: Final = Record(
    name="NewContext",
    build=NewContext,
    fields={
        "type": Field(shape=Choice(("jupyter",)), summary="What it is: a Jupyter kernel.", default="jupyter"),
        "language": LANGUAGE,
        "session_name": Field(shape=Nullable(SESSION_NAME), summary="What you call it.", default=None),
        "working_dir": Field(
            shape=Text(min_length=1, max_length=1024, pattern=r"^\/(sandbox|workspace)(\/[^\u0000]*)?$"),
            summary="Where its kernel starts; made when it is missing. /workspace is another name of /sandbox here.",
            default=_WORKSPACE,
        ),
    },
)


def new_run(timeout_s: float, max_timeout_s: float) -> Record:
    """The body of an execution, by the times of this server."""
    return Record(
        name="NewRun",
        build=NewRun,
        fields={
            "code": CODE,
            "timeout": Field(
                shape=Number(minimum=_MIN_TIMEOUT_S, maximum=max_timeout_s),
                summary="When it is interrupted, seconds after it was accepted; waiting counts.",
                default=timeout_s,
            ),
        },
    )


def directory(working_dir: str) -> str:
    """Return the directory inside the sandbox that a client means; raises InvalidRequestError."""
    path = processes.working_directory(working_dir)
    if path == _WORKSPACE or path.startswith(f"{_WORKSPACE}/"):
        path = paths.HOME + path.removeprefix(_WORKSPACE)
    return paths.text(paths.names(path))


def context(named: NamedSandbox, *, in_full: bool) -> dict[str, str]:
    """A context; `in_full` with what its client called it."""
    made_at = named.made_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    model = {"context_id": named.name, "type": "jupyter", "status": "active", "created_at": made_at}
    if in_full:
        wanted = named.wanted
        model |= {"name": wanted.label or "", "language": wanted.language, "working_dir": wanted.cwd or paths.HOME}
    return model


def ran(value: Ran, *, in_full: bool) -> dict[str, Any]:
    """What became of an execution; `in_full` with its images."""
    model: dict[str, Any] = {
        "output": {"stdout": value.stdout, "stderr": value.stderr},
        "success": value.success,
        "execution_time": value.execution_time,
    }
    return model | {"images": [asdict(image) for image in value.images]} if in_full else model


def refusal(error: SandboxError) -> dict[str, str]:
    """The body of a refusal: words for people, and a code in this API's manner."""
    if isinstance(error, UnknownContextError):
        return {"error": "Context not found", "code": _NOT_FOUND}
    return {"error": str(error), "code": error.code.upper()}
