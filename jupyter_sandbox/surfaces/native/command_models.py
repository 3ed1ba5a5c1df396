"""What REST requests about commands hold, as shapes, and how commands look as JSON, with the schemas of these.

What a command reads and writes is bytes, and JSON has texts. So bytes are `text` if they are UTF-8, and `base64` if
they are not; no character is cut in two between two pieces of a stream.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.command import CommandState, NewCommand
from jupyter_sandbox.command_output import Piece, Stream
from jupyter_sandbox.commands import MAX_INPUT_BYTES
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.events import CommandOutcome
from jupyter_sandbox.guards import processes
from jupyter_sandbox.guards.shapes import NAME, Choice, Field, Flag, Items, Nullable, Number, Record, Text, Whole
from jupyter_sandbox.surfaces.native import models, schemas
from jupyter_sandbox.template_shape import ENVIRONMENT
from sandbox_worker.protocol import TerminalSize

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from jupyter_sandbox.command import CommandView
    from jupyter_sandbox.guards.shapes import Schema

MAX_OUTPUT_BYTES: Final = 1 << 20
"""How much of each stream may be kept."""
_MAX_WAIT_S: Final = 60
_MIN_TIMEOUT_S: Final = 0.1
_MAX_INPUT_TEXT: Final = 1 << 16
"""Characters; however they are escaped, the body is no larger than a body may be."""
_BASE64: Final = r"^([A-Za-z0-9+\/]{4})*([A-Za-z0-9+\/]{2}==|[A-Za-z0-9+\/]{3}=)?$"
_TEXT: Final = Text(min_length=1, max_length=8192)


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a command is to read, and whether that is all."""

    data: bytes
    close: bool


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long a client waits for the end."""

    wait_s: int


def _new_command(argv: tuple[str, ...] | None, line: str | None, stdin: bool, **more: Any) -> NewCommand:
    return NewCommand(argv=argv or ("/bin/sh", "-c", line or ""), with_input=stdin, **more)


def _input(text: str | None, base64_: str | None, close: bool) -> Input:
    data = (text or "").encode() if base64_ is None else base64.b64decode(base64_, validate=True)
    if len(data) > MAX_INPUT_BYTES:
        raise InvalidRequestError(f"a command is given at most {MAX_INPUT_BYTES} bytes at once")
    return Input(data=data, close=close)


_SIZE: Final = Whole(minimum=1, maximum=processes.MAX_TERMINAL)
SIZE: Final = Record(
    name="TerminalSize",
    build=TerminalSize,
    fields={
        "rows": Field(shape=_SIZE, summary="Lines."),
        "columns": Field(shape=_SIZE, summary="Characters of a line."),
    },
)


def new_command(times: models.Times) -> Record:
    """The body of a start."""
    return Record(
        name="NewCommand",
        build=_new_command,
        alternatives=("argv", "line"),
        needs_one=True,
        fields={
            "argv": Field(
                shape=Items(shape=Text(max_length=processes.MAX_ARGV), min_items=1, max_items=256),
                summary="The program and its arguments; 32 KiB of JSON in all. Either this or `line`.",
                default=None,
            ),
            "line": Field(shape=_TEXT, summary="A line for a shell: `/bin/sh -c LINE`.", default=None),
            "cwd": Field(shape=Nullable(models.DIRECTORY), summary="Where, inside the sandbox.", default=None),
            "env": Field(shape=ENVIRONMENT, summary="More environment variables.", default={}),
            "timeout_s": Field(
                shape=Nullable(Number(minimum=_MIN_TIMEOUT_S, maximum=times.max_sandbox_s)),
                summary="When it is killed, seconds after its start; null: with its sandbox.",
                default=times.execution_s,
            ),
            "max_output_bytes": Field(
                shape=Whole(minimum=0, maximum=MAX_OUTPUT_BYTES),
                summary="How much of the end of each stream is kept.",
                default=MAX_OUTPUT_BYTES,
            ),
            "terminal": Field(
                shape=Nullable(SIZE), summary="Give it a terminal of this size instead of pipes.", default=None
            ),
            "stdin": Field(shape=Flag(), summary="Whether it will be given something to read.", default=False),
            "detached": Field(
                shape=Flag(), summary="Answer at once and go on without the client; follow it later.", default=False
            ),
            "tag": Field(
                shape=Nullable(Text(min_length=1, max_length=64, pattern=NAME)),
                summary="A word of your own, to find it by.",
                default=None,
            ),
        },
    )


INPUT: Final = Record(
    name="CommandInput",
    alternatives=("text", "base64"),
    build=lambda **fields: _input(fields["text"], fields["base64"], fields["close"]),
    fields={
        "text": Field(shape=Text(max_length=_MAX_INPUT_TEXT, pattern=""), summary="What it is to read.", default=None),
        "base64": Field(
            shape=Text(max_length=-(-MAX_INPUT_BYTES // 3) * 4, pattern=_BASE64),
            summary="The same, for bytes that are no text.",
            default=None,
        ),
        "close": Field(shape=Flag(), summary="Nothing comes after this.", default=False),
    },
)
SIGNAL: Final = Record(
    name="CommandSignal",
    fields={"signal": Field(shape=Choice(processes.SIGNAL_NAMES), summary="For its whole process group.")},
)
WAIT: Final = Record(
    name="Wait",
    build=Wait,
    fields={
        "wait_s": Field(
            shape=Whole(minimum=0, maximum=_MAX_WAIT_S),
            summary="Answer when it has ended, or after so many seconds.",
            default=0,
        )
    },
)


# -- commands as JSON


def command(view: CommandView) -> dict[str, Any]:
    """A command without its output."""
    end = view.end
    return {
        "id": view.id,
        "sandbox_id": view.sandbox_id,
        "pid": view.pid,
        "argv": list(view.wanted.argv),
        "cwd": view.wanted.cwd,
        "tag": view.wanted.tag,
        "has_terminal": view.wanted.terminal is not None,
        "detached": view.wanted.detached,
        "state": str(view.state),
        "outcome": None if end is None else str(end.outcome),
        "exit_code": None if end is None else end.exit_code,
        "signal": None if end is None else end.signal,
        "message": None if end is None else end.message,
        "started_at": schemas.time(view.started_at),
        "ended_at": schemas.time(view.ended_at),
        "duration_s": None if view.duration_s is None else round(view.duration_s, 6),
        "written_bytes": {str(stream): count for stream, count in view.written.items()},
    }


def command_with_output(view: CommandView) -> dict[str, Any]:
    """The same with what is kept of its output."""
    is_over = view.end is not None
    return command(view) | {"output": [_piece(_trimmed(kept, is_over=is_over)) for kept in view.kept.values()]}


async def events(pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
    """Lines of a stream, of whole characters."""
    waiting: dict[Stream, Piece] = {}
    async for piece in pieces:
        for whole in _joined(waiting, piece):
            yield {"type": "output", **_piece(whole)}
    for rest in waiting.values():
        yield {"type": "output", **_piece(rest)}


def _joined(waiting: dict[Stream, Piece], piece: Piece) -> Iterable[Piece]:
    """Put what waits before a piece, and let the first bytes of a character at its end wait."""
    before = waiting.pop(piece.stream, None)
    if before is not None:
        if before.offset + len(before.data) == piece.offset:
            piece = Piece(stream=piece.stream, offset=before.offset, data=before.data + piece.data)
        else:  # the rest of the character is not kept any more
            yield before
    cut = _whole(piece.data)
    if cut < len(piece.data):
        waiting[piece.stream] = Piece(stream=piece.stream, offset=piece.offset + cut, data=piece.data[cut:])
    if cut:
        yield Piece(stream=piece.stream, offset=piece.offset, data=piece.data[:cut])


def _trimmed(kept: Piece, *, is_over: bool) -> Piece:
    """Leave out what is left of a character at the beginning, and what has come of one whose rest may still come."""
    first = 0
    while kept.offset and first < min(3, len(kept.data)) and 0x80 <= kept.data[first] < 0xC0:
        first += 1
    last = len(kept.data) if is_over else max(first, _whole(kept.data))
    return Piece(stream=kept.stream, offset=kept.offset + first, data=kept.data[first:last])


def _whole(data: bytes) -> int:
    """Return how many bytes there are without the beginning of a character of UTF-8 at the end, if there is one."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if 0xC2 <= byte < 0xF5:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
        if not 0x80 <= byte < 0xC0:
            break
    return len(data)


def _piece(piece: Piece) -> dict[str, Any]:
    try:
        text, coded = piece.data.decode(), None
    except UnicodeDecodeError:
        text, coded = None, base64.b64encode(piece.data).decode()
    return {"stream": str(piece.stream), "offset": piece.offset, "text": text, "base64": coded}


_STREAM: Final[Schema] = {"enum": [str(stream) for stream in Stream]}
_COMMAND: Final[dict[str, Schema]] = {
    "id": schemas.TEXT,
    "sandbox_id": schemas.TEXT,
    "pid": schemas.COUNT,
    "argv": {"type": "array", "items": schemas.TEXT},
    "cwd": schemas.or_null(schemas.TEXT),
    "tag": schemas.or_null(schemas.TEXT),
    "has_terminal": {"type": "boolean"},
    "detached": {"type": "boolean"},
    "state": {"enum": [str(state) for state in CommandState]},
    "outcome": schemas.or_null({"enum": [str(outcome) for outcome in CommandOutcome]}),
    "exit_code": schemas.or_null({"type": "integer"}),
    "signal": schemas.or_null(schemas.TEXT),
    "message": schemas.or_null(schemas.TEXT),
    "started_at": schemas.TIME,
    "ended_at": schemas.or_null(schemas.TIME),
    "duration_s": schemas.or_null({"type": "number"}),
    "written_bytes": {"type": "object", "propertyNames": _STREAM, "additionalProperties": schemas.COUNT},
}
SCHEMAS: Final[dict[str, Schema]] = {
    "Piece": schemas.record(
        stream=_STREAM,
        offset=schemas.COUNT,
        text=schemas.or_null(schemas.TEXT),
        base64=schemas.or_null(schemas.TEXT),
    ),
    "Command": schemas.record(**_COMMAND, output=schemas.list_of("Piece")),
    "CommandSummary": schemas.record(**_COMMAND),
    "Commands": schemas.record(commands=schemas.list_of("CommandSummary")),
}
