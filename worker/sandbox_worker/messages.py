"""Typed messages over a SOCK_SEQPACKET socket, with descriptors.

One datagram is one JSON object `{"type": name, ...fields}` of at most MAX_MESSAGE_BYTES; the fields are those of a
frozen dataclass and nothing else. Both ends decode strictly, since either may face a liar: unknown types, unknown,
missing or wrongly typed fields, oversized or truncated datagrams raise `MessageError`, and descriptors that came
along are closed.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import json
import os
import socket
import types
import typing
from typing import Any, Final

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_MESSAGE_BYTES: Final = 65536
MAX_DESCRIPTORS: Final = 24


class MessageError(ValueError):
    """The other end sent something that is not one of the agreed messages."""


def encode(message: object) -> bytes:
    """Return the datagram of a dataclass instance.

    Raises MessageError when it is larger than MAX_MESSAGE_BYTES: the receiver could not take it.
    """
    kind: Any = type(message)
    fields = {"type": _type_name(kind), **dataclasses.asdict(typing.cast("Any", message))}
    data = json.dumps(fields, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message {fields['type']} has {len(data)} bytes, more than {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes, kinds: Sequence[type]) -> object:
    """Return the instance of one of `kinds` that `data` describes; raises MessageError."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError("not JSON") from error
    if not isinstance(fields, dict):
        raise MessageError("not an object")
    name = fields.pop("type", None)
    for kind in kinds:
        if _type_name(kind) == name:
            return build(kind, fields)
    raise MessageError(f"unknown message type {str(name)[:40]!a}")


def send(channel: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send one message; raises OSError when the other end is gone."""
    data = encode(message)
    if descriptors:
        socket.send_fds(channel, [data], list(descriptors), socket.MSG_NOSIGNAL)
    else:
        channel.send(data, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket, kinds: Sequence[type]) -> tuple[object, list[int]] | None:
    """Return the next message and its descriptors (the caller's to close), or None at the end of the stream."""
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    # Not socket.recv_fds: before Python 3.12 it drops its flags, and the descriptors would reach every child.
    data, ancillary, flags, _ = channel.recvmsg(MAX_MESSAGE_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary)
    try:
        if not data:
            close_all(descriptors)
            return None
        if len(data) > MAX_MESSAGE_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise MessageError("oversized message")
        return decode(data, kinds), descriptors
    except MessageError:
        close_all(descriptors)
        raise


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody will use."""
    for descriptor in descriptors:
        os.close(descriptor)


@functools.cache
def _type_name(kind: type) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in kind.__name__).lstrip("_")


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(typing.cast("Any", kind))
    }


def learn(kinds: Iterable[type]) -> None:
    """Look at message types now: each process that is forked afterwards knows their fields."""
    for kind in kinds:
        _fields(kind)


def build(kind: type, values: Mapping[str, object]) -> object:
    """Return an instance of the dataclass `kind` with `values`, strictly judged; raises MessageError."""
    fields = _fields(kind)
    unknown = values.keys() - fields.keys()
    missing = {name for name, (_, required) in fields.items() if required} - values.keys()
    if unknown or missing:
        names = ascii(sorted(unknown)[:5])[:120]
        raise MessageError(f"{_type_name(kind)}: unknown fields {names}, missing {sorted(missing)}")
    return kind(
        **{name: _value(fields[name][0], value, f"{_type_name(kind)}.{name}") for name, value in values.items()}
    )


def _value(hint: Any, value: object, where: str) -> object:
    hint = getattr(hint, "__supertype__", hint)  # a NewType is judged as what it is made of
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _value(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_value(arguments[0], key, where): _value(arguments[1], item, where) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast("type", hint), value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise MessageError(f"{where} is not of type {hint}")
