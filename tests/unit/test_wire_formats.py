"""What a client reads of a judged message is what a stock server would have sent it, in both formats."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1

from jupyter_sandbox import wire_formats
from jupyter_sandbox.guards import kernel_messages

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key")
HEADER = {
    "msg_id": "1_2",
    "msg_type": "stream",
    "username": "ü",
    "session": "s",
    "date": "2026-11-24T18:00:00.123456Z",
    "version": "5.4",
}
REQUEST = HEADER | {"msg_id": 'a "quoted" \\ id', "msg_type": "execute_request", "date": "2026-01-01T00:00:00Z"}
STREAM = {"name": "stdout", "text": 'ünï ☃ 🎉 \ud800 "\n'}


def frames(header: object, parent: object, content: object, *buffers: bytes) -> list[bytes]:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, parent, {}, content)]
    return [b"stream", b"<IDS|MSG>", SESSION.sign(parts), *parts, *buffers]


def judged(header: object, parent: object, content: object, *buffers: bytes) -> kernel_messages.Judged:
    return kernel_messages.judge("iopub", frames(header, parent, content, *buffers), SESSION.sign, 1 << 20)


def stock_text(message: kernel_messages.Judged) -> object:
    """What `ZMQChannelsWebsocketConnection` sends for it."""
    read = Session(key=b"key").deserialize([message.signature, *message.body])
    return json.loads(json.dumps(read | {"channel": "iopub"}, default=json_default))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_text_reads_as_stock_text_does(extra):
    message = judged(HEADER, REQUEST, extra | STREAM)
    text = wire_formats.as_text("iopub", message)
    assert text is not None
    assert json.loads(text) == stock_text(message)
    assert list(json.loads(text)) == list(stock_text(message))


RAW = {
    "spaces and line ends": b' {"name" : "stdout",\n"text":"x" }\n',
    "a name twice": b'{"name": "stderr", "text": "x", "name": "stdout"}',
    "no UTF-8": b'{"name": "stdout", "text": "\xff"}',
    "escapes": rb'{"name": "stdout", "text": "\u2028\ud83c\udf89 \u0000"}',
    "numbers in other words": b'{"name": "stdout", "text": "x", "n": [1E3, -0.0, 1.10, 123456789012345678901234567890]}',
}


@pytest.mark.parametrize("what", RAW)
def test_json_as_kernels_may_write_it_reads_as_stock_text_does(what):
    message = judged(HEADER, {}, RAW[what])
    text = wire_formats.as_text("iopub", message)
    assert text is not None
    assert json.loads(text) == stock_text(message)


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (HEADER | {"version": "4.1"}, {}),
        ({name: HEADER[name] for name in HEADER if name != "version"}, {}),
        ({name: HEADER[name] for name in HEADER if name != "date"}, {}),
        (HEADER | {"date": "2026-11-24T18:00:00.1Z"}, {}),
        (HEADER | {"date": "2026-11-24T18:00:00+02:00"}, {}),
        (HEADER, REQUEST | {"date": "2026-11-24T18:00:00.000000Z"}),
        (HEADER, REQUEST | {"date": "2026-99-99T99:99:99Z"}),
        (HEADER, REQUEST | {"other": {"inner": "2026-11-24T18:00:00.1Z"}}),
    ],
    ids=range(8),
)
def test_what_a_stock_server_changes_is_left_to_it(header, parent):
    assert wire_formats.as_text("iopub", judged(header, parent, STREAM)) is None


def test_buffers_are_left_to_the_stock_server_in_the_text_format():
    assert wire_formats.as_text("iopub", judged(HEADER, REQUEST, STREAM, b"")) is None


@given(st.lists(st.binary(max_size=20), max_size=3))
def test_the_binary_format_is_the_stock_one(buffers):
    message = judged(HEADER, REQUEST, STREAM, *buffers)
    assert wire_formats.as_binary("iopub", message) == serialize_msg_to_ws_v1(message.body, "iopub")
