"""What RAGFlow asks and is told: the body of a run judged, and what became of it in RAGFlow's words. Pure."""

from __future__ import annotations

import base64
import contextlib
import signal
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import errors
from jupyter_sandbox.command import CommandEnd
from jupyter_sandbox.command_output import Stream
from jupyter_sandbox.errors import InvalidRequestError, SandboxError
from jupyter_sandbox.events import CommandOutcome
from jupyter_sandbox.guards import json_structure, shapes
from jupyter_sandbox.surfaces.ragflow.programs import Language, Program
from jupyter_sandbox.web import encoded

if TYPE_CHECKING:
    from jupyter_sandbox.command import CommandView
    from jupyter_sandbox.command_output import Piece
    from jupyter_sandbox.surfaces.ragflow.artifacts import Artifact

TIME: Final = -124
MEMORY: Final = -137
BUSY: Final = -10
INTERNAL: Final = -3
RATE: Final = -429
NOT_RUN: Final = -999
"""What stands in the place of an exit status when there is none, or when it says less."""
_OUT_OF_MEMORY: Final = 137
"""Exit status of a program that was refused memory, see runner.py."""
_BY_SIGNAL: Final = 128
"""And the signal, as shells have it."""
_EXIT_CODES: Final[tuple[tuple[type[SandboxError], int], ...]] = (
    (errors.RateError, RATE),
    (errors.QuotaError, BUSY),
    (errors.BusyError, BUSY),
    (errors.CapacityError, BUSY),
    (errors.ServerStoppingError, BUSY),
    (errors.ProgramMissingError, NOT_RUN),
)
_UNAUTHORIZED: Final = (("Permission denied", "file_access"), ("Operation not permitted", "disallowed_syscall"))
"""What the words of a program that failed say of the reason. RAGFlow's own executor reads them so."""


class Status(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    PROGRAM_ERROR = "program_error"
    RESOURCE_LIMIT_EXCEEDED = "resource_limit_exceeded"
    UNAUTHORIZED_ACCESS = "unauthorized_access"
    RUNTIME_ERROR = "runtime_error"
    PROGRAM_RUNNER_ERROR = "program_runner_error"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is told of a run, but for its artifacts. `result`: the JSON that `main` returned, as it was written."""

    status: Status
    stdout: str = ""
    stderr: str = ""
    exit_code: int
    detail: str | None = None
    time_used_ms: float | None = None
    memory_used_kb: float | None = None
    resource_limit_type: str | None = None
    unauthorized_access_type: str | None = None
    runtime_error_type: str | None = None
    result: str | None = field(default=None, repr=False)


def program(data: bytes) -> Program:
    """Judge the body of a run; raises InvalidRequestError. Fields that we do not know are passed over."""
    body = shapes.decode_object(data)
    language, arguments = body.get("language", Language.PYTHON), body.get("arguments")
    if language not in list(Language):
        raise InvalidRequestError(f"language must be one of {', '.join(Language)}")
    if arguments is not None and not isinstance(arguments, dict):
        raise InvalidRequestError("arguments must be an object")
    return Program(language=Language(language), code=_code(body.get("code_b64")), arguments=arguments or {})


def _code(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidRequestError("code_b64 must be a text")
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        raise InvalidRequestError("code_b64 is not base64 of UTF-8") from None


# -- what became of it


def outcome(view: CommandView, timeout_s: float) -> Outcome:
    """Return what is told of a program whose command has ended; `with_result` says more of one that succeeded."""
    told = Outcome(
        status=Status.SUCCESS,
        stdout=_text(view.kept[Stream.STDOUT]),
        stderr=_text(view.kept[Stream.STDERR]),
        exit_code=0,
        time_used_ms=round((view.duration_s or 0) * 1000, 3),
    )
    end = view.end or CommandEnd(outcome=CommandOutcome.DIED)
    if end.is_out_of_memory or end.exit_code == _OUT_OF_MEMORY:
        words = f"Memory limit exceeded. {end.message if end.is_out_of_memory else ''}"
        return _exceeded(told, "memory", MEMORY, words)
    match end.outcome:
        case CommandOutcome.OK:
            return told
        case CommandOutcome.ERROR:
            return _failed(told, end.exit_code or 1)
        case CommandOutcome.TIMEOUT:
            return _exceeded(told, "time", TIME, f"Execution timeout: it did not end within {timeout_s:g} s.")
        case CommandOutcome.SIGNALLED:
            words = f"The program was ended by {end.signal}."
            code = _BY_SIGNAL + _signal_number(end.signal or "")
            told = _saying(told, words)
            return replace(told, status=Status.RUNTIME_ERROR, exit_code=code, runtime_error_type="signalled")
    told = _saying(told, f"The run broke off. {end.message or ''}")
    return replace(told, status=Status.PROGRAM_RUNNER_ERROR, exit_code=INTERNAL, detail=SandboxError.code)


def with_result(told: Outcome, data: bytes) -> Outcome:
    """Return the outcome of a program that succeeded, with what it says that `main` returned."""
    if json_structure.is_bounded(data):
        with contextlib.suppress(InvalidRequestError):
            shapes.decode(data)
            return replace(told, result=data.decode())  # to write half a million numbers again would take 100 ms
    return without_result(
        told, "it is not JSON, or is nested too deeply, or holds too many values, or numbers that are hard to read"
    )


def without_result(told: Outcome, reason: str) -> Outcome:
    """Return the outcome of a program whose result cannot be used."""
    return _failed(_saying(told, f"Error: the result of main() cannot be used: {reason}"), 1)


def not_run(error: SandboxError) -> Outcome:
    """Return what is told when a program was not run, or not to its end, and not by its own fault."""
    code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), INTERNAL)
    return Outcome(status=Status.PROGRAM_RUNNER_ERROR, stderr=str(error), exit_code=code, detail=error.code)


def _failed(told: Outcome, exit_code: int) -> Outcome:
    for words, kind in _UNAUTHORIZED:
        if words in told.stderr:
            status = Status.UNAUTHORIZED_ACCESS
            return replace(told, status=status, exit_code=exit_code, unauthorized_access_type=kind)
    return replace(told, status=Status.PROGRAM_ERROR, exit_code=exit_code, runtime_error_type="nonzero_exit")


def _exceeded(told: Outcome, limit: str, exit_code: int, words: str) -> Outcome:
    told = _saying(told, words)
    return replace(told, status=Status.RESOURCE_LIMIT_EXCEEDED, exit_code=exit_code, resource_limit_type=limit)


def _saying(told: Outcome, words: str) -> Outcome:
    """Add a line to what the program wrote to its standard error."""
    line_end = "\n" if told.stderr and not told.stderr.endswith("\n") else ""
    return replace(told, stderr=f"{told.stderr}{line_end}{words.rstrip()}\n")


def _text(piece: Piece) -> str:
    text = piece.data.decode(errors="replace")
    if not piece.offset:
        return text
    return f"[{piece.offset} bytes of {piece.stream} are left out; the last {len(piece.data)} are here]\n{text}"


def _signal_number(name: str) -> int:
    """Return the number of a signal by its name, see `command.signal_name`."""
    return signal.Signals[name] if name in signal.Signals.__members__ else int(name.removeprefix("SIG") or 0)


# -- how it is told


def table(told: Outcome) -> dict[str, Any]:
    """Return an answer for a program that was not run."""
    return {**asdict(told), "artifacts": []}


def head(told: Outcome) -> str:
    """Return the beginning of an answer, up to its first artifact."""
    fields = asdict(replace(told, result=None))
    del fields["result"]
    result = "null" if told.result is None else f'{{"present":true,"type":"json","value":{told.result}}}'
    return f'{_open(fields)}"result":{result},"artifacts":['


TAIL: Final = "]}"
"""The end of an answer, after its last artifact."""


def artifact_head(artifact: Artifact) -> str:
    """Return the beginning of an artifact, up to its content in base64."""
    about = {"name": artifact.name, "mime_type": artifact.mime_type, "size": artifact.size_bytes}
    return f'{_open(about)}"content_b64":"'


ARTIFACT_TAIL: Final = '"}'
"""The end of an artifact, after its content."""


def _open(fields: dict[str, Any]) -> str:
    """Return an object of JSON to which more fields are to be added."""
    return f"{encoded(fields)[:-1]},"
