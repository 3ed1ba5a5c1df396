"""Which execute requests of one websocket are under way: sent by the client, answered by the kernel, idle again.

Requests are read from both of Jupyter's wire formats, headers only; what kernels say comes judged. So the person can be
told below the right cell what happened to it, and no cell stays busy because of a message that was refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards.kernel_messages import MAX_FIELD

if TYPE_CHECKING:
    from jupyter_sandbox.guards.kernel_messages import Channel, Judged

Header = dict[str, Any]

_FIELDS: Final = ("msg_id", "msg_type", "session", "username", "date", "version")
_MAX_PENDING: Final = 128
_CONTENT: Final = 3
"""Where the content is among the frames of the binary format."""


@dataclass
class _Execution:
    """One request. `refused`, `refused_bytes`: messages in answer to it that were not passed on."""

    header: Header
    is_answered: bool = False
    is_idle: bool = False
    is_expected: bool = False
    refused: int = 0
    refused_bytes: int = 0


class OpenRequests:
    """The execute requests of one websocket that are not over, oldest first; at most 128."""

    def __init__(self) -> None:
        """Start with none."""
        self._open: dict[str, _Execution] = {}
        self.last: Header = {}
        """The newest execute request, over or not: what is said of the whole kernel is shown below its cell."""

    def sent(self, message: str | bytes) -> Header:
        """Note a message of the client; return its header if it may be an execute request, else nothing."""
        header = _header(message) if _may_be_execution(message) else {}
        self.sent_header(header)
        return header

    def sent_header(self, header: object) -> None:
        """Note a message of the client by its header, whatever that is."""
        if isinstance(header, dict) and header.get("msg_type") == "execute_request" and (kept := plain(header)):
            self.last = kept
            self._open[kept["msg_id"]] = _Execution(kept)
            while len(self._open) > _MAX_PENDING:
                del self._open[next(iter(self._open))]

    def received(self, channel: Channel, judged: Judged) -> bool:
        """Note a message of the kernel; whether it was the end of an execution."""
        is_reply = judged.msg_type == "execute_reply" and channel == "shell"
        is_idle = judged.msg_type == "status" and judged.content["execution_state"] == "idle"
        if is_reply or is_idle:
            msg_id = str(judged.parent.get("msg_id"))
            execution = self._open.get(msg_id)
            if execution is not None:
                execution.is_answered = execution.is_answered or is_reply
                execution.is_idle = execution.is_idle or is_idle
                if execution.is_answered and execution.is_idle:
                    del self._open[msg_id]
                    return True
        return False

    def refused(self, channel: Channel, parent: Header | None, size_bytes: int) -> tuple[Header, bool]:
        """Note that a message was not passed on.

        Returns:
            The header of the execution that it belongs to (the oldest that still waits for that channel if it does not
            say, an empty one if none is open), and whether it was the first of that execution.
        """
        execution = self._open.get(str((parent or {}).get("msg_id"))) or self._waits_for(channel)
        if execution is None:
            return {}, True
        execution.refused += 1
        execution.refused_bytes += size_bytes
        return execution.header, execution.refused == 1

    def refused_in_all(self, msg_id: str) -> tuple[int, int]:
        """Return how many messages of an open execution were refused, and their bytes."""
        execution = self._open.get(msg_id)
        return (execution.refused, execution.refused_bytes) if execution else (0, 0)

    def header(self, msg_id: str) -> Header | None:
        """Return the request of an open execution."""
        execution = self._open.get(msg_id)
        return execution.header if execution else None

    def is_running(self, msg_id: object) -> bool:
        """Whether this is an execution that was not answered."""
        execution = self._open.get(str(msg_id))
        return execution is not None and not execution.is_answered

    def lacks(self, msg_id: str) -> Channel | None:
        """Return on which channel the second half of an execution's end is still to come, if one half came."""
        execution = self._open.get(msg_id)
        if execution is None or execution.is_answered == execution.is_idle:
            return None
        return "iopub" if execution.is_answered else "shell"

    def is_half_over(self, msg_id: str) -> bool:
        """Whether one half of an execution's end came; told once of each."""
        execution = self._open.get(msg_id)
        if execution is None or execution.is_expected or self.lacks(msg_id) is None:
            return False
        execution.is_expected = True
        return True

    def end(self, msg_id: str) -> None:
        """Forget an execution."""
        self._open.pop(msg_id, None)

    def take_oldest(self) -> Header:
        """Return the request that was running, or an empty one, and forget them all."""
        running = self._running()
        self._open.clear()
        return running.header if running else {}

    def _running(self) -> _Execution | None:
        return self._waits_for("shell")

    def _waits_for(self, channel: Channel) -> _Execution | None:
        """The oldest execution whose end on that channel did not come: the reply, or idle."""
        for execution in self._open.values():
            if not (execution.is_idle if channel == "iopub" else execution.is_answered):
                return execution
        return None


def asked(message: str | bytes) -> tuple[str, object] | None:
    """Return id and code of a client's message if it is an execute request, whatever the code is; else None."""
    if not _may_be_execution(message):
        return None
    header, content = _header(message), _part(message, "content", _CONTENT)
    return (str(header.get("msg_id")), content.get("code")) if header.get("msg_type") == "execute_request" else None


def plain(header: Header) -> Header:
    """The fields of a header that the protocol knows, if it has an id; what is no text, or a long one, is none."""
    known = {name: header.get(name) for name in _FIELDS}
    kept = {name: text for name, text in known.items() if isinstance(text, str) and len(text) <= MAX_FIELD}
    return kept if "msg_id" in kept else {}


def text_of(message: bytes) -> str:
    """Return the JSON of a message in the text format that has buffers, and so is sent as bytes. It may be none."""
    is_followed = int.from_bytes(message[:4], "big") > 1
    start, end = (int.from_bytes(message[at : at + 4], "big") for at in (4, 8))
    return message[start : end if is_followed else None].decode(errors="replace")


def _may_be_execution(message: str | bytes) -> bool:
    """Whether to read on: cheap, and never wrong about an execute request, however its type is written."""
    text = message if isinstance(message, str) else _frame(message, 0)
    return "execute_request" in text or "\\u" in text


def _header(message: str | bytes) -> Header:
    """Return the header of a message, or nothing when the message is not of the two formats."""
    return _part(message, "header", 0)


def _part(message: str | bytes, name: str, index: int) -> dict[str, Any]:
    """Return a part of a message by its name or the index of its frame."""
    try:
        part = json.loads(message)[name] if isinstance(message, str) else json.loads(_frame(message, index))
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return part if isinstance(part, dict) else {}


def _frame(message: bytes, index: int) -> str:
    """Return a frame of the binary format: a count and as many offsets, 8 bytes each, then the frames.

    It is found as the server finds it that passes it on, however many there are, and decoded as kernels decode it.
    Nothing if there is no such frame.
    """
    if int.from_bytes(message[:8], "little") < index + 3:
        return ""
    start, end = (int.from_bytes(message[8 * (index + i) : 8 * (index + i + 1)], "little") for i in (2, 3))
    return message[start:end].decode(errors="replace")
