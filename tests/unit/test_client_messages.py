"""Websocket messages of clients: which of them may be read at all."""

from __future__ import annotations

import json
import struct

import pytest
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from jupyter_sandbox.guards.client_messages import is_sound

pytestmark = pytest.mark.unit

MESSAGE = {"header": {"msg_id": "1"}, "parent_header": {}, "metadata": {}, "content": {"code": "[" * 200_000}}
PARTS = [json.dumps(part).encode() for part in MESSAGE.values()]
TEXT = json.dumps(MESSAGE | {"channel": "shell"})
V1 = serialize_msg_to_ws_v1([*PARTS, b"[" * 1000, b""], "shell")
OLD = serialize_binary_message(MESSAGE | {"buffers": [b"{" * 1000, b""]})


def v1(*numbers, rest=b"shell{}{}{}{}"):
    return struct.pack(f"<{len(numbers)}Q", *numbers) + rest


def old(*numbers, rest=b"{}"):
    return struct.pack(f"!{len(numbers)}I", *numbers) + rest


def test_what_jupyter_writes_is_sound_and_read_as_it_reads_it():
    assert is_sound(TEXT, is_v1=False)
    assert is_sound(V1, is_v1=True)
    assert is_sound(OLD, is_v1=False)
    assert deserialize_msg_from_ws_v1(V1)[0] == "shell"
    assert len(deserialize_binary_message(OLD)["buffers"]) == 2


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\1",
        v1(1 << 20),
        v1((1 << 64) - 1),
        v1(0),
        v1(2000, *[8 * 2001] * 2000),
        v1(3, 32, 37, 30),
        v1(3, 32, 37, 100),
        v1(3, 0, 5, 10),
        v1(*(201, *[0, 1 << 21] * 100), rest=bytes(1 << 21)),
        serialize_msg_to_ws_v1([*PARTS[:3], b"[" * 1_000_000], "shell"),
    ],
    ids=["nothing", "a byte", "a million", "all", "none", "many", "back", "beyond", "before", "overlapping", "deep"],
)
def test_numbers_that_are_none_are_refused(message):
    assert not is_sound(message, is_v1=True)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\1\2",
        old(1 << 22),
        old((1 << 31) - 1),
        old((1 << 32) - 1),
        old(0),
        old(2, 12, 8),
        old(1, 100),
        old(1, 0),
        serialize_binary_message(MESSAGE | {"content": {"a": [[]] * 100_000}, "buffers": [b"x"]}),
    ],
    ids=["nothing", "two bytes", "millions", "billions", "negative", "none", "back", "beyond", "before", "wide"],
)
def test_numbers_of_the_older_format_that_are_none_are_refused(message):
    assert not is_sound(message, is_v1=False)


@pytest.mark.parametrize("text", ['{"a":[' + "[]," * 1_000_000 + "1]}", "[" * 1_000_000, "[" * 60 + "]" * 10**7])
def test_text_that_would_be_read_for_seconds_is_refused(text):
    assert not is_sound(text, is_v1=False)


def test_half_a_character_is_no_reason_to_refuse():
    assert is_sound('{"content": {"code": "\ud800"}}', is_v1=False)
