"""The codec between broker, clients, zygotes and agents: whole messages pass, a liar gets nothing but MessageError."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import types
import typing

import pytest

from jupyter_sandbox.broker import restriction_verbs, template_verbs, usage_verbs, verbs
from sandbox_worker import messages, protocol
from sandbox_worker.messages import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, MessageError

pytestmark = pytest.mark.unit

GROUPS = {
    "to zygote": protocol.TO_ZYGOTE,
    "from zygote": protocol.FROM_ZYGOTE,
    "to container": protocol.TO_CONTAINER,
    "from container": protocol.FROM_CONTAINER,
    "to agent": protocol.TO_AGENT,
    "from agent": protocol.FROM_AGENT,
    "requests": verbs.REQUESTS,
    "answers": verbs.ANSWERS,
}
KINDS = [pytest.param(kind, kinds, id=f"{group}: {kind.__name__}") for group, kinds in GROUPS.items() for kind in kinds]


def _sample(hint: typing.Any, *, none: bool) -> typing.Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if none else _sample(arguments[0], none=none)
    if origin is tuple:
        return (_sample(arguments[0], none=none),) * 2
    if origin is dict:
        return {"a key": _sample(arguments[1], none=none), "ü\n": _sample(arguments[1], none=none)}
    if dataclasses.is_dataclass(hint):
        return example(hint, none=none)
    return {str: 'te"xt\0\n\x1b ü 日 \U0001f600', int: -(1 << 62), bool: True, float: 2.5}[hint]


def example(kind: type, *, none: bool = False) -> typing.Any:
    """Return an instance with something difficult in every field."""
    return kind(**{name: _sample(hint, none=none) for name, hint in typing.get_type_hints(kind).items()})


def _wire(kind: type, **changes: object) -> bytes:
    return json.dumps(json.loads(messages.encode(example(kind))) | changes).encode()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize(("kind", "kinds"), KINDS)
def test_a_message_arrives_as_it_was_sent(kind, kinds, none, pair):
    message = example(kind, none=none)
    messages.send(pair[0], message)
    assert messages.receive(pair[1], kinds) == (message, [])


@pytest.mark.parametrize("kinds", GROUPS.values(), ids=GROUPS)
def test_type_names_do_not_collide(kinds):
    names = [messages._type_name(kind) for kind in kinds]
    assert len(set(names)) == len(names)


def test_the_lists_hold_every_message_there_is():
    for module in (protocol, verbs, restriction_verbs, template_verbs, usage_verbs):
        defined = {kind for kind in vars(module).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
        listed = {kind for kinds in GROUPS.values() for kind in kinds}
        parts_of_others = {
            "CurveKeys",
            "Kernel",
            "Less",
            "MountPoint",
            "Network",
            "Summary",
            "TerminalSize",
            "WorkersReport",
        }
        assert {kind.__name__ for kind in defined - listed} <= parts_of_others


@pytest.mark.parametrize(("kind", "kinds"), KINDS)
def test_a_field_too_many_is_refused(kind, kinds):
    with pytest.raises(MessageError, match="unknown"):
        messages.decode(_wire(kind, surprise=1), kinds)


@pytest.mark.parametrize(("kind", "kinds"), KINDS)
def test_a_field_too_few_is_refused(kind, kinds):
    fields = json.loads(messages.encode(example(kind)))
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            less = {name: value for name, value in fields.items() if name != field.name}
            with pytest.raises(MessageError, match=field.name):
                messages.decode(json.dumps(less).encode(), kinds)


WRONG = {
    str: [1, None, ["x"], {}, True],
    int: ["1", None, 1.0, True, [1]],
    bool: [0, 1, None, "true"],
    float: ["1", None, True],
}


def _wrong(hint: typing.Any) -> list[object]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return [value for value in _wrong(arguments[0]) if value is not None]
    if origin is tuple:
        return [None, "text", {}, 1, *([value] for value in _wrong(arguments[0]))]
    if origin is dict:
        return [None, "text", [], 1, *({"a": value} for value in _wrong(arguments[1]))]
    if dataclasses.is_dataclass(hint):
        needs_nothing = all(field.default is not dataclasses.MISSING for field in dataclasses.fields(hint))
        return [None, "text", [], 1, {"surprise": 1}, *([] if needs_nothing else [{}])]
    return WRONG[hint]


@pytest.mark.parametrize(("kind", "kinds"), KINDS)
def test_a_field_of_a_wrong_type_is_refused(kind, kinds):
    for name, hint in typing.get_type_hints(kind).items():
        for value in _wrong(hint):
            with pytest.raises(MessageError):
                messages.decode(_wire(kind, **{name: value}), kinds)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"{",
        b"nothing",
        b"null",
        b"7",
        b'"status"',
        b"[]",
        b"{}",
        b'{"type": null}',
        b'{"type": 7}',
        b'{"type": ["status"]}',
        b'{"type": {}}',
        b'{"type": "object"}',
        b'{"type": "Status"}',
        b'{"type": "status "}',
        b'{"type": "claimed", "sandbox": "x", "cwd": "y"}',
        b'{"type": "__class__"}',
        b'{"type": "status"} {}',
        b'{"type": "list", "after": 1e999}',
        b'{"type": "reap", "dry_run": NaN}',
        b'{"type": "signal_kernel", "number": ' + b"9" * 5000 + b', "sandbox": "", "target": ""}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'{"type": "list", "after": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
)
def test_what_is_no_request_is_refused(data):
    with pytest.raises(MessageError) as caught:
        messages.decode(data, verbs.REQUESTS)
    assert len(str(caught.value)) < 500


def test_a_key_is_not_shown_by_repr():
    for kind in (verbs.StartKernel, protocol.StartKernel):
        pair = protocol.CurveKeys(public="known", secret="the secret key")
        message = dataclasses.replace(example(kind), key="the secret key", curve=pair)
        assert "the secret key" not in repr(message)


def test_a_message_that_nobody_could_receive_is_not_sent(pair):
    size = MAX_MESSAGE_BYTES - len(messages.encode(verbs.List(after="")))
    messages.send(pair[0], verbs.List(after="x" * size))
    assert messages.receive(pair[1], verbs.REQUESTS) == (verbs.List(after="x" * size), [])
    with pytest.raises(MessageError, match="more than"):
        messages.send(pair[0], verbs.List(after="x" * (size + 1)))


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, MAX_MESSAGE_BYTES + 2, 2 * MAX_MESSAGE_BYTES])
def test_an_oversized_datagram_is_refused_and_the_next_one_read(pair, size):
    pair[0].send(b'{"type": "status"' + b" " * (size - 18) + b"}")
    messages.send(pair[0], verbs.Status())
    with pytest.raises(MessageError, match="oversized"):
        messages.receive(pair[1], verbs.REQUESTS)
    assert messages.receive(pair[1], verbs.REQUESTS) == (verbs.Status(), [])


def test_descriptors_come_along_and_are_not_inherited(pair, tmp_path):
    with open(tmp_path / "file", "w") as file:
        messages.send(pair[0], verbs.Status(), [file.fileno()] * MAX_DESCRIPTORS)
    received = messages.receive(pair[1], verbs.REQUESTS)
    assert received is not None
    assert len(received[1]) == MAX_DESCRIPTORS
    assert all(os.path.samestat(os.fstat(descriptor), (tmp_path / "file").stat()) for descriptor in received[1])
    # once: socket.recv_fds() of Python 3.11 drops its flags, MSG_CMSG_CLOEXEC with them
    assert not any(os.get_inheritable(descriptor) for descriptor in received[1])
    messages.close_all(received[1])


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b'{"type": "status"}', MAX_DESCRIPTORS + 1),
        (b'{"type": "status"}', 253),
        (b"garbage", 3),
        (b'{"type": "status", "surprise": 1}', 3),
        (b" " * (MAX_MESSAGE_BYTES + 1), 3),
        (b"[" * 60_000, 3),
    ],
)
def test_descriptors_of_a_refused_message_are_closed(pair, data, count):
    before = open_descriptors()
    socket.send_fds(pair[0], [data], [0] * count)
    with pytest.raises(MessageError):
        messages.receive(pair[1], verbs.REQUESTS)
    assert open_descriptors() == before


def test_an_empty_datagram_is_the_end_and_its_descriptors_are_closed(pair):
    before = open_descriptors()
    socket.send_fds(pair[0], [b""], [0, 0])
    assert messages.receive(pair[1], verbs.REQUESTS) is None
    assert open_descriptors() == before


def test_the_end_of_the_stream_is_none(pair):
    pair[0].close()
    assert messages.receive(pair[1], verbs.REQUESTS) is None


def test_sending_to_nobody_is_an_error_and_no_signal(pair):
    pair[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        messages.send(pair[0], verbs.Status())


def test_a_full_page_of_sandboxes_fits_into_a_message():
    row = verbs.Summary(
        sandbox="sbx_" + "f" * 20,
        owner=(1 << 32) - 2,
        template="a" * 40,
        created_at="2026-01-01T00:00:00+00:00",
        kernels=("f" * 12,) * 20,
        memory_bytes=1 << 44,
        disk_bytes=1 << 44,
        disk_total_bytes=1 << 44,
    )
    from jupyter_sandbox.broker import server

    messages.encode(verbs.Listing(sandboxes=(row,) * server._PAGE, more=True))
