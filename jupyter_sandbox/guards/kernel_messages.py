"""Judges one message of a kernel, before anything of it is believed, stored or passed on.

The key that signs messages lies in the sandbox, so a signature proves nothing about them. What is accepted here may be
handed to Jupyter's own code and to a stock client: it has the frames, the types and the names of the messaging protocol
5.4 (jupyter_client's documentation, "Messaging in Jupyter"). It knows no socket and no client.

A message is read as strictly as its consequences need: headers and the fields that a client acts on have the types the
protocol gives them; what is inside `data` of an output is the browser's matter.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from jupyter_sandbox.guards import json_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Sign = Callable[[list[bytes]], bytes]

Channel = Literal["shell", "iopub", "stdin", "control"]

DELIMITER: Final = b"<IDS|MSG>"
MAX_PARTS: Final = 1024
"""Frames of one message, buffers included; a widget with a hundred arrays has a hundred buffers."""
_MAX_IDENTITIES: Final = 2
_MAX_IDENTITY_BYTES: Final = 1024
_MAX_HEADER_BYTES: Final = 16 * 1024
MAX_FIELD: Final = 1024


class Reason(StrEnum):
    """Why a message was refused."""

    TOO_LARGE = "too_large"
    PARTS = "parts"
    SIGNATURE = "signature"
    JSON = "json"
    STRUCTURE = "structure"
    HEADER = "header"
    CONTENT = "content"
    STATE = "state"
    WRONG_CHANNEL = "wrong_channel"
    UNKNOWN_TYPE = "unknown_type"
    CONNECTION = "connection"
    """Bytes that are no message, or a message without end: the connection is made anew."""
    UNUSABLE = "unusable"
    """It passed this guard, and Jupyter's own code raised an error over it: a signature that was used before."""


class RefusedMessageError(Exception):
    """The message is not passed on. `parent` is the header it claims to answer, as far as it could be read."""

    def __init__(self, reason: Reason, parent: dict[str, Any] | None = None, msg_type: str | None = None) -> None:
        """`msg_type`: only if it is one of the protocol's."""
        super().__init__(str(reason))
        self.reason, self.parent, self.msg_type = reason, parent, msg_type


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A message that may be passed on as `parts`, which are the frames that were judged.

    `body`: the last of them, which are header, parent, metadata, content and buffers; `signature` comes before.
    """

    msg_type: str
    header: dict[str, Any]
    parent: dict[str, Any]
    content: dict[str, Any]
    parts: list[bytes] = field(repr=False)
    body: list[bytes] = field(repr=False)
    signature: bytes


_Fields = tuple[tuple[str, tuple[type, ...], bool], ...]  # name, types, whether it must be there
_TEXT: Final = (str,)
_NUMBER: Final = (int, type(None))
_OBJECT: Final = (dict,)
_BUNDLE: Final[_Fields] = (("data", _OBJECT, True), ("metadata", _OBJECT, False), ("transient", _OBJECT, False))
_COMM: Final[_Fields] = (("comm_id", _TEXT, True),)

_IOPUB: Final[dict[str, _Fields]] = {
    "status": (("execution_state", _TEXT, True),),
    "stream": (("name", _TEXT, True), ("text", _TEXT, True)),
    "display_data": _BUNDLE,
    "update_display_data": _BUNDLE,
    "execute_result": (*_BUNDLE, ("execution_count", _NUMBER, False)),
    "execute_input": (("code", _TEXT, True), ("execution_count", _NUMBER, False)),
    "error": (("ename", _TEXT, False), ("evalue", _TEXT, False), ("traceback", (list,), False)),
    "clear_output": (("wait", (bool,), False),),
    "comm_open": (*_COMM, ("target_name", _TEXT, True)),
    "comm_msg": _COMM,
    "comm_close": _COMM,
    "debug_event": (),
    "iopub_welcome": (),
    "shutdown_reply": (),  # ipykernel says farewell to everybody
}
_REPLIES: Final[dict[str, _Fields]] = {
    "execute_reply": (
        ("status", _TEXT, True),
        ("execution_count", _NUMBER, False),
        ("payload", (list,), False),
        ("user_expressions", _OBJECT, False),
    ),
    "complete_reply": (("matches", (list,), False),),
    "inspect_reply": (("data", _OBJECT, False), ("metadata", _OBJECT, False)),
    "history_reply": (("history", (list,), False),),
    "is_complete_reply": (("indent", _TEXT, False),),
    "comm_info_reply": (("comms", _OBJECT, False),),
    "kernel_info_reply": (("protocol_version", _TEXT, False), ("language_info", _OBJECT, False)),
    "connect_reply": (),
    "shutdown_reply": (),
    "interrupt_reply": (),
    "debug_reply": (),
    "create_subshell_reply": (("subshell_id", _TEXT, False),),
    "delete_subshell_reply": (),
    "list_subshell_reply": (("subshell_id", (list,), False),),
    "usage_reply": (),  # ipykernel's, asked by jupyter-resource-usage
}
_STDIN: Final[dict[str, _Fields]] = {
    "input_request": (("prompt", _TEXT, True), ("password", (bool,), False)),
}
# Old kernels answer on shell what belongs on control.
_TYPES: Final[dict[Channel, dict[str, _Fields]]] = {
    "iopub": _IOPUB,
    "shell": _REPLIES,
    "control": _REPLIES,
    "stdin": _STDIN,
}
_KNOWN: Final = frozenset(name for types in _TYPES.values() for name in types)

_STATES: Final = frozenset({"busy", "idle", "starting"})
"""What a kernel may say of itself. `restarting`, `dead` and others are the server's words about it."""
_STREAMS: Final = frozenset({"stdout", "stderr"})
_STATUSES: Final = frozenset({"ok", "error", "abort", "aborted"})
_COMPLETENESS: Final = frozenset({"complete", "incomplete", "invalid", "unknown", "error", "aborted"})
_VERSION: Final = re.compile(r"\d{1,3}(\.\d{1,3}){0,2}")


def judge(channel: Channel, parts: Sequence[bytes], sign: Sign, max_bytes: int) -> Judged:
    """Judge the frames of one message that came on `channel`.

    `sign` gives the signature of the four JSON frames, or nothing when messages are not signed. Content that is not
    UTF-8 is mended as browsers do, with U+FFFD, and signed again: Python kernels send such text for file names.

    Raises:
        RefusedMessageError: it must not be passed on.
    """
    frames, first = _framed(parts, max_bytes)
    header = _json(frames[first], _MAX_HEADER_BYTES, Reason.HEADER)
    parent = _json(frames[first + 1], _MAX_HEADER_BYTES, Reason.HEADER)
    msg_type = header.get("msg_type")
    known = msg_type if isinstance(msg_type, str) and msg_type in _KNOWN else None
    _check_parent(parent)
    try:
        _check_header(header)
        if known is None:
            raise RefusedMessageError(Reason.UNKNOWN_TYPE)
        fields = _TYPES[channel].get(known)
        if fields is None:
            raise RefusedMessageError(Reason.WRONG_CHANNEL)
        _json(frames[first + 2], max_bytes, Reason.CONTENT)
        signed = frames[first : first + 4]
        expected = sign(signed)
        if expected and not hmac.compare_digest(expected, frames[first - 1]):
            raise RefusedMessageError(Reason.SIGNATURE)
        raw = frames[first + 3]
        mended = frames[first + 3] = _mended(raw)
        if sum(map(len, frames)) > max_bytes:
            raise RefusedMessageError(Reason.TOO_LARGE)
        content = _json(mended, max_bytes, Reason.CONTENT)
        _check_content(known, content, fields)
        if mended is not raw:
            frames[first - 1] = sign(frames[first : first + 4])
    except RefusedMessageError as refused:
        raise RefusedMessageError(refused.reason, parent, known) from None
    return Judged(
        msg_type=known,
        header=header,
        parent=parent,
        content=content,
        parts=frames,
        body=frames[first:],
        signature=frames[first - 1],
    )


def judge_head(channel: Channel, parts: Sequence[bytes], sign: Sign, max_bytes: int) -> Judged:
    """Like `judge`, for who reads no content but a status: other messages go without theirs, signed anew."""
    frames, first = _framed(parts, max_bytes)
    header = _json(frames[first], _MAX_HEADER_BYTES, Reason.HEADER)
    if header.get("msg_type") != "status":
        msg_type = header.get("msg_type")
        fields = _TYPES[channel].get(msg_type) if isinstance(msg_type, str) else None
        if fields is None:
            raise RefusedMessageError(Reason.UNKNOWN_TYPE)
        _check_header(header)
        parent = _json(frames[first + 1], _MAX_HEADER_BYTES, Reason.HEADER)
        _check_parent(parent)
        head = [frames[first], frames[first + 1], b"{}", b"{}"]
        signature = sign(head)
        return Judged(
            msg_type=str(msg_type),
            header=header,
            parent=parent,
            content={},
            parts=[*frames[: first - 1], signature, *head],
            body=head,
            signature=signature,
        )
    return judge(channel, parts, sign, max_bytes)


def peek(parts: Sequence[bytes]) -> tuple[dict[str, Any] | None, str | None]:
    """Return parent header and type, if they are sound, of a message of which the end may be missing."""
    try:
        frames, first = _framed([*parts[:6], b"", b"", b"", b""], 1 << 62)
        header = _json(frames[first], _MAX_HEADER_BYTES, Reason.HEADER)
        parent = _json(frames[first + 1], _MAX_HEADER_BYTES, Reason.HEADER)
        _check_parent(parent)
    except RefusedMessageError:
        return None, None
    msg_type = header.get("msg_type")
    return parent, msg_type if isinstance(msg_type, str) and msg_type in _KNOWN else None


def _framed(parts: Sequence[bytes], max_bytes: int) -> tuple[list[bytes], int]:
    """Return the frames and the index of the header: `[identity or topic ..., delimiter, signature, header, ...]`."""
    frames = list(parts)
    if sum(map(len, frames)) > max_bytes:
        raise RefusedMessageError(Reason.TOO_LARGE)
    try:
        delimiter = frames.index(DELIMITER, 0, _MAX_IDENTITIES + 1)
    except ValueError:
        raise RefusedMessageError(Reason.PARTS) from None
    if not delimiter + 6 <= len(frames) <= MAX_PARTS or any(
        len(identity) > _MAX_IDENTITY_BYTES for identity in frames[:delimiter]
    ):
        raise RefusedMessageError(Reason.PARTS)
    return frames, delimiter + 2


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number that other readers of JSON do not know")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_WARY_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
"""Each float is a call of Python, which takes longer than to read it."""


def _json(data: bytes, max_bytes: int, reason: Reason) -> dict[str, Any]:
    """Return the object of a JSON part. Of a name that comes twice the last counts, as for every client."""
    if len(data) > max_bytes:
        raise RefusedMessageError(reason)
    if not json_structure.is_bounded(data):
        raise RefusedMessageError(Reason.STRUCTURE)
    try:
        decoder = _WARY_DECODER if json_structure.may_be_infinite(data) else _DECODER
        value = decoder.decode(data.decode())
    except (ValueError, RecursionError):  # also integers of more than 4 300 digits, see sys.set_int_max_str_digits
        raise RefusedMessageError(Reason.JSON) from None
    if type(value) is not dict:
        raise RefusedMessageError(reason)
    return value


def _mended(raw: bytes) -> bytes:
    if raw.isascii():
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").encode()
    return raw


def _check_header(header: dict[str, Any]) -> None:
    """A header of the kernel's own: it has an id and a type, names are texts, and the version is one."""
    if not ("msg_id" in header and "msg_type" in header):
        raise RefusedMessageError(Reason.HEADER)
    for name in ("msg_id", "msg_type", "session", "username"):
        value = header.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_FIELD:
            raise RefusedMessageError(Reason.HEADER)
    version = header.get("version", "5")
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None or not _is_scalar(header.get("date")):
        raise RefusedMessageError(Reason.HEADER)


def _check_parent(parent: dict[str, Any]) -> None:
    """The header of the client that is answered, or nothing: the client's words, and some send numbers for dates."""
    for name in ("msg_id", "msg_type", "session", "username", "date", "version"):
        if not _is_scalar(parent.get(name)):
            raise RefusedMessageError(Reason.HEADER)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_FIELD
    return value is None or isinstance(value, int | float)


def _check_content(msg_type: str, content: dict[str, Any], fields: _Fields) -> None:
    for name, types, is_required in fields:
        if name in content:
            if not isinstance(content[name], types):
                raise RefusedMessageError(Reason.CONTENT)
        elif is_required:
            raise RefusedMessageError(Reason.CONTENT)
    if msg_type == "status" and content["execution_state"] not in _STATES:
        raise RefusedMessageError(Reason.STATE)
    if not _is_sound(msg_type, content):
        raise RefusedMessageError(Reason.CONTENT)


def _is_sound(msg_type: str, content: dict[str, Any]) -> bool:
    """Whether the values fit that are more than a type."""
    match msg_type:
        case "stream":
            return content["name"] in _STREAMS
        case "error":
            return all(isinstance(line, str) for line in content.get("traceback", ()))
        case "kernel_info_reply" if _VERSION.fullmatch(content.get("protocol_version", "5")) is None:
            return False
    if not msg_type.endswith("_reply") or msg_type == "debug_reply":
        return True
    status = content.get("status", "ok")
    return isinstance(status, str) and status in (_COMPLETENESS if msg_type == "is_complete_reply" else _STATUSES)
