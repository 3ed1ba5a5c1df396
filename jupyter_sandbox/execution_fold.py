"""Folds what a kernel says about one execution into one value: outputs as a notebook has them, and how it ended.

It does no I/O and has no clock. What it takes has passed the guard of kernel messages; it keeps at most so many bytes
of it, and counts the rest exactly. The rules are those of nbformat 4 and of "Messaging in Jupyter".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.guards.kernel_messages import Channel

Output = dict[str, Any]

MAX_OUTPUTS: Final = 10_000
_COMMS: Final = frozenset({"comm_open", "comm_msg", "comm_close"})
_MAX_SUMMARY: Final = 1_000
_MAX_PIECES: Final = 1_000
_MAX_COUNT: Final = 1 << 53
"""Larger integers are not the same number for every reader of JSON."""


class Outcome(StrEnum):
    """How an execution ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    DIED = "died"
    OUTPUT_LIMIT = "output_limit"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The exception that ended the code, or why there is no result, in short; the traceback is an output."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputEvent:
    """What changed: an output was added, those with a display id were replaced, or all were cleared.

    `output` is what to add (a piece of text, if it is a stream's), or the new data and metadata. `size_bytes`: text of
    a stream as UTF-8; of other outputs data and metadata as JSON.
    """

    kind: Literal["output", "update", "clear"]
    output: Output = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Omission:
    """What is not in the outputs: `bytes` of `outputs` that went beyond the limit, and refused messages."""

    outputs: int = 0
    bytes: int = 0
    refused_messages: int = 0
    refused_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """The value of an execution so far. `outcome` is None while the kernel has not told its end."""

    outputs: tuple[Output, ...]
    outcome: Outcome | None
    failure: Failure | None
    execution_count: int | None
    omitted: Omission


@dataclass(slots=True)
class _Stream:
    """A stream's output that is still growing."""

    name: str
    texts: list[str]

    def add(self, text: str) -> None:
        self.texts.append(text)
        if len(self.texts) > _MAX_PIECES:  # a text of two letters takes fifty bytes
            self.texts = ["".join(self.texts)]

    def output(self) -> Output:
        return {"output_type": "stream", "name": self.name, "text": "".join(self.texts)}


@dataclass(slots=True)
class _Rich:
    """An output that is no stream."""

    value: Output
    size_bytes: int

    def output(self) -> Output:
        return self.value


class ExecutionFold:
    """Takes the messages of one execution in the order in which they come."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: how much of the outputs is kept."""
        self._max_bytes = max_bytes
        self._kept: list[_Stream | _Rich] = []
        self._kept_bytes = 0
        self._shown: dict[str, list[_Rich]] = {}  # by the display id that updates name them by
        self._events: list[OutputEvent] = []
        self._clears_before_next = False
        self._omitted_outputs = self._omitted_bytes = 0
        self._refused_messages = self._refused_bytes = self._refused_output_bytes = 0
        self._count: int | None = None
        self._outcome: Outcome | None = None
        self._failure: Failure | None = None
        self.is_begun = False
        """Whether the kernel has said anything in answer to it."""
        self.is_answered = self.is_idle = False

    @property
    def is_complete(self) -> bool:
        """Whether both halves of the end came."""
        return self.is_answered and self.is_idle

    @property
    def is_over_limit(self) -> bool:
        """Whether more came than is kept. What was refused counts: a flood may be too large in each of its messages."""
        return self._omitted_outputs > 0 or self._kept_bytes + self._refused_output_bytes > self._max_bytes

    @property
    def kept_bytes(self) -> int:
        """How much is kept."""
        return self._kept_bytes

    @property
    def omitted(self) -> Omission:
        """What is not kept."""
        return Omission(
            outputs=self._omitted_outputs,
            bytes=self._omitted_bytes,
            refused_messages=self._refused_messages,
            refused_bytes=self._refused_bytes,
        )

    @property
    def is_interrupted(self) -> bool:
        """Whether the code says that it was ended by an interrupt."""
        return self._failure is not None and self._failure.name == "KeyboardInterrupt"

    def result(self) -> Folded:
        """Return the value so far."""
        return Folded(
            outputs=tuple(kept.output() for kept in self._kept),
            outcome=self._outcome,
            failure=self._failure,
            execution_count=self._count,
            omitted=self.omitted,
        )

    def take(self, channel: Channel, msg_type: str, content: dict[str, Any]) -> list[OutputEvent]:
        """Take a message in answer to this execution; return what it changed, in order, for who watches."""
        self._events = []
        self.is_begun = True
        if msg_type == "execute_reply" and channel == "shell":
            self._answered(content)
        elif channel == "iopub" and msg_type in self._TAKES:
            self._TAKES[msg_type](self, msg_type, content)
        return self._events

    def refuse(self, channel: Channel, size_bytes: int, msg_type: str | None = None) -> None:
        """Count a message that was not passed on. The reply will not come again: it was the end, if it was that.

        What widgets say to each other is no output, as it is none when it is passed on.
        """
        self._refused_messages += 1
        self._refused_bytes += size_bytes
        if channel == "iopub" and msg_type not in _COMMS:
            self._refused_output_bytes += size_bytes
        if channel == "shell" and not self.is_answered:
            self._answered({"status": "error", "ename": "RefusedMessage", "evalue": "the kernel's reply is not valid"})

    # -- one method for each type of message

    def _status(self, _: str, content: dict[str, Any]) -> None:
        self.is_idle = self.is_idle or content["execution_state"] == "idle"

    def _input(self, _: str, content: dict[str, Any]) -> None:
        self._count = _count(content.get("execution_count")) or self._count

    def _answered(self, content: dict[str, Any]) -> None:
        self.is_answered = True
        self._count = _count(content.get("execution_count")) or self._count
        if content["status"] == "ok":
            self._outcome = Outcome.OK
            return
        self._outcome = Outcome.ERROR
        if self._failure is None:
            name = _text(content.get("ename")) if content["status"] == "error" else "Aborted"
            self._failure = Failure(name=name[:_MAX_SUMMARY], value=_text(content.get("evalue"))[:_MAX_SUMMARY])

    def _stream(self, _: str, content: dict[str, Any]) -> None:
        self._clear_if_due()
        name, text = content["name"], _sound(content["text"])
        last = self._kept[-1] if self._kept else None
        growing = last if isinstance(last, _Stream) and last.name == name else None
        room = self._max_bytes - self._kept_bytes if growing or len(self._kept) < MAX_OUTPUTS else 0
        size = kept_bytes = _size(text)
        if size > room:
            text = text.encode()[:room].decode(errors="ignore")
            kept_bytes = _size(text)
            self._omit(size - kept_bytes)
        if not text:
            return
        self._kept_bytes += kept_bytes
        if growing:
            growing.add(text)
        else:
            self._kept.append(_Stream(name, [text]))
        self._tell("output", {"output_type": "stream", "name": name, "text": text}, kept_bytes)

    def _rich(self, msg_type: str, content: dict[str, Any]) -> None:
        bundle, size = _measured(_bundle(content))
        output: Output = {"output_type": msg_type, **bundle}
        if msg_type == "execute_result":
            output["execution_count"] = _count(content.get("execution_count"))
        self._add(output, size, _display_id(content))

    def _error(self, _: str, content: dict[str, Any]) -> None:
        name, value = (_text(content.get(field)) for field in ("ename", "evalue"))
        self._failure = self._failure or Failure(name=name[:_MAX_SUMMARY], value=value[:_MAX_SUMMARY])
        error = {"ename": name, "evalue": value, "traceback": list(content.get("traceback", ()))}
        error, size = _measured(error)
        self._add({"output_type": "error"} | error, size, None)

    def _update(self, _: str, content: dict[str, Any]) -> None:
        display_id = _display_id(content)
        shown = self._shown.get(display_id or "", [])
        if not shown:
            return
        bundle, size = _measured(_bundle(content))
        growth = size * len(shown) - sum(rich.size_bytes for rich in shown)
        if self._kept_bytes + growth > self._max_bytes:
            self._omit(size)
            return
        self._kept_bytes += growth
        for rich in shown:
            rich.value, rich.size_bytes = rich.value | bundle, size
        self._tell("update", {"display_id": display_id, **bundle}, size)

    def _clear(self, _: str, content: dict[str, Any]) -> None:
        self._clears_before_next = True
        if not content.get("wait"):
            self._clear_if_due()

    # -- what they share

    def _add(self, output: Output, size_bytes: int, display_id: str | None) -> None:
        self._clear_if_due()
        name_bytes = len(display_id.encode()) if display_id else 0
        if self._kept_bytes + size_bytes + name_bytes > self._max_bytes or len(self._kept) >= MAX_OUTPUTS:
            self._omit(size_bytes)
            return
        self._kept_bytes += size_bytes + name_bytes
        rich = _Rich(output, size_bytes)
        self._kept.append(rich)
        if display_id:
            self._shown.setdefault(display_id, []).append(rich)
            output = output | {"display_id": display_id}
        self._tell("output", output, size_bytes)

    def _clear_if_due(self) -> None:
        if self._clears_before_next:
            self._clears_before_next = False
            self._kept.clear()
            self._shown.clear()
            self._kept_bytes = 0
            self._tell("clear", {}, 0)

    def _tell(self, kind: Literal["output", "update", "clear"], output: Output, size_bytes: int) -> None:
        self._events.append(OutputEvent(kind=kind, output=output, size_bytes=size_bytes))

    def _omit(self, size_bytes: int) -> None:
        self._omitted_outputs += 1
        self._omitted_bytes += size_bytes

    _TAKES: Final[dict[str, Callable[[ExecutionFold, str, dict[str, Any]], None]]] = {
        "status": _status,
        "execute_input": _input,
        "stream": _stream,
        "display_data": _rich,
        "execute_result": _rich,
        "error": _error,
        "update_display_data": _update,
        "clear_output": _clear,
    }


def text_of(value: object) -> str:
    """Return a text of a MIME bundle, which may come as a list of lines."""
    return "".join(value) if isinstance(value, list) else str(value)


def _bundle(content: dict[str, Any]) -> Output:
    """Data and metadata as nbformat wants them: what is not of a JSON type is text."""
    data = {}
    for kind, value in content["data"].items():
        is_text = isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))
        data[kind] = value if is_text or kind == "application/json" or kind.endswith("+json") else json.dumps(value)
    return {"data": data, "metadata": content.get("metadata", {})}


def _display_id(content: dict[str, Any]) -> str | None:
    display_id = content.get("transient", {}).get("display_id")
    return _sound(display_id) if isinstance(display_id, str) and display_id else None


def _measured(output: Output) -> tuple[Output, int]:
    """Return an output without half characters, and its size as JSON in bytes."""
    text = json.dumps(output, ensure_ascii=False)
    try:
        return output, _size(text)
    except UnicodeEncodeError:
        sound = _sound(text)
        return json.loads(sound), len(sound.encode())


def _size(text: str) -> int:
    """Return the length in UTF-8, mostly without a copy."""
    return len(text) if text.isascii() else len(text.encode())


def _sound(text: str) -> str:
    """JSON can hold half a character (a lone surrogate), which no other encoding can: U+FFFD, as browsers do.

    Each is three bytes that are no UTF-8. Three U+FFFD in a row that are in such a text become one, too.
    """
    try:
        _size(text)
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass").decode(errors="replace").replace("\ufffd" * 3, "\ufffd")
    return text


def _text(value: object) -> str:
    return _sound(value) if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_COUNT else None
