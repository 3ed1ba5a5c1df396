"""The guard of kernel messages: what the protocol allows passes unchanged, what it does not is refused, at any size."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from jupyter_sandbox.guards import kernel_messages
from jupyter_sandbox.guards.kernel_messages import Reason, RefusedMessageError

pytestmark = pytest.mark.unit

MAX_BYTES = 8 << 20
SESSION = Session(key=b"key")
REQUEST = SESSION.msg("execute_request", {"code": "1"})


def signed(*json_parts: bytes, before=(), buffers=()) -> list[bytes]:
    return [*before, b"<IDS|MSG>", SESSION.sign(list(json_parts[:4])), *json_parts, *buffers]


def message(msg_type: str, content: object, *, header=None, parent=None, metadata=b"{}", **kwargs) -> list[bytes]:
    """The frames of a message; parts that are bytes are taken as they are."""
    full = SESSION.msg(msg_type, {}, parent=REQUEST)
    pick = [
        full["header"] if header is None else header,
        full["parent_header"] if parent is None else parent,
        metadata,
        content,
    ]
    return signed(*(part if isinstance(part, bytes) else SESSION.pack(part) for part in pick), **kwargs)


def judge(channel, parts, max_bytes=MAX_BYTES):
    return kernel_messages.judge(channel, parts, SESSION.sign, max_bytes)


def reason(channel, parts, max_bytes=MAX_BYTES) -> Reason:
    with pytest.raises(RefusedMessageError) as refused:
        judge(channel, parts, max_bytes)
    return refused.value.reason


# As ipykernel 7.4, IRkernel, ijavascript and bash_kernel send them; the protocol's own examples.
SOUND = [
    ("iopub", "status", {"execution_state": "busy"}),
    ("iopub", "status", {"execution_state": "starting"}),
    ("iopub", "stream", {"name": "stdout", "text": "ünï ☃ 🎉"}),
    ("iopub", "display_data", {"data": {"text/plain": "1"}, "metadata": {}, "transient": {}}),
    ("iopub", "display_data", {"data": {"application/json": {"a": [1, 2.5, None, True]}}}),
    ("iopub", "update_display_data", {"data": {}, "metadata": {}, "transient": {"display_id": "x"}}),
    ("iopub", "execute_result", {"data": {"text/plain": ["1", "2"]}, "metadata": {}, "execution_count": 3}),
    ("iopub", "execute_input", {"code": "1", "execution_count": 3}),
    ("iopub", "error", {"ename": "E", "evalue": "", "traceback": ["\x1b[0;31m" * 60]}),
    ("iopub", "clear_output", {"wait": True}),
    ("iopub", "clear_output", {}),
    ("iopub", "comm_open", {"comm_id": "c", "target_name": "t", "data": {}, "target_module": None}),
    ("iopub", "comm_msg", {"comm_id": "c", "data": [1]}),
    ("iopub", "comm_close", {"comm_id": "c"}),
    ("iopub", "debug_event", {"type": "event", "event": "stopped", "body": {}}),
    ("iopub", "iopub_welcome", {"subscription": ""}),
    ("iopub", "shutdown_reply", {"status": "ok", "restart": False}),
    ("shell", "execute_reply", {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}),
    ("shell", "execute_reply", {"status": "error", "ename": "E", "evalue": "", "traceback": []}),
    ("shell", "execute_reply", {"status": "aborted"}),
    ("shell", "execute_reply", {"status": "abort", "execution_count": None}),
    ("shell", "complete_reply", {"matches": ["a"], "cursor_start": 0, "cursor_end": 1, "status": "ok"}),
    ("shell", "inspect_reply", {"status": "ok", "found": True, "data": {}, "metadata": {}}),
    ("shell", "history_reply", {"history": [[1, 2, "x"]]}),
    ("shell", "is_complete_reply", {"status": "incomplete", "indent": "    "}),
    ("shell", "comm_info_reply", {"comms": {"c": {"target_name": "t"}}, "status": "ok"}),
    ("shell", "kernel_info_reply", {"protocol_version": "5.3", "language_info": {"name": "r"}}),
    ("shell", "kernel_info_reply", {}),
    ("shell", "connect_reply", {"shell_port": 1}),
    ("shell", "shutdown_reply", {"restart": True}),
    ("control", "interrupt_reply", {"status": "ok"}),
    ("control", "debug_reply", {"type": "response", "success": True, "status": 7}),
    ("control", "create_subshell_reply", {"status": "ok", "subshell_id": "s"}),
    ("control", "delete_subshell_reply", {"status": "ok"}),
    ("control", "list_subshell_reply", {"status": "ok", "subshell_id": ["s"]}),
    ("control", "usage_reply", {"kernel_cpu": 0.1}),
    ("stdin", "input_request", {"prompt": "name? ", "password": False}),
    ("stdin", "input_request", {"prompt": ""}),
]


@pytest.mark.parametrize(("channel", "msg_type", "content"), SOUND, ids=lambda value: str(value)[:30])
def test_what_real_kernels_send_passes_unchanged(channel, msg_type, content):
    before = [b"kernel.stream"] if channel == "iopub" else []
    parts = message(msg_type, content, before=before, buffers=[b"\x00\xff", b""])
    judged = judge(channel, parts)
    assert judged.parts == parts
    assert (judged.msg_type, judged.content) == (msg_type, content)
    assert judged.parent["msg_id"] == REQUEST["header"]["msg_id"]
    assert Session(key=b"key").deserialize(Session().feed_identities(judged.parts)[1])["msg_type"] == msg_type


@pytest.mark.parametrize(("channel", "msg_type", "content"), SOUND, ids=lambda value: str(value)[:30])
def test_a_message_on_a_channel_that_is_not_its_own_is_refused(channel, msg_type, content):
    homes = {home for home, kind, _ in SOUND if kind == msg_type}
    homes |= {"shell", "control"} if homes & {"shell", "control"} else set()
    for other in {"iopub", "shell", "control", "stdin"} - homes:
        assert reason(other, message(msg_type, content)) == Reason.WRONG_CHANNEL


STATUS = {"execution_state": "idle"}


def test_headers_may_lack_what_only_people_read():
    parts = message("status", STATUS, header={"msg_id": "1", "msg_type": "status"}, parent={})
    assert judge("iopub", parts).parent == {}


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"<IDS|MSG>"],
        message("status", STATUS)[:5],
        message("status", STATUS)[1:],
        message("status", STATUS, before=[b"1", b"2", b"3"]),
        message("status", STATUS, before=[b"t" * 1025]),
        message("status", STATUS, buffers=[b""] * 1024),
        [b"x"] * 100_000,
    ],
    ids=range(9),
)
def test_a_wrong_number_or_order_of_frames_is_refused(parts):
    assert reason("iopub", parts) == Reason.PARTS


def test_a_message_that_is_too_large_is_refused_whatever_it_is_made_of():
    assert reason("iopub", message("stream", {"name": "stdout", "text": "x" * 2000}), 2000) == Reason.TOO_LARGE
    assert reason("iopub", message("status", STATUS, buffers=[b"x" * 1000] * 2), 2000) == Reason.TOO_LARGE


def test_a_wrong_signature_is_refused():
    parts = message("status", STATUS)
    assert reason("iopub", [parts[0], b"0" * 64, *parts[2:]]) == Reason.SIGNATURE
    assert reason("iopub", [parts[0], b"", *parts[2:]]) == Reason.SIGNATURE
    assert reason("iopub", [*parts[:4], b'{"x": 1}', parts[5]]) == Reason.SIGNATURE


def test_without_a_key_nothing_is_signed():
    unsigned = Session(key=b"")
    parts = message("status", STATUS)
    assert kernel_messages.judge("iopub", [parts[0], b"", *parts[2:]], unsigned.sign, MAX_BYTES).msg_type == "status"


NO_JSON = [
    b"",
    b"{",
    b"nonsense",
    b"{'a': 1}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": -1.0e400}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 1} trailing',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": 1}'.encode("utf-16"),
    b'{"a": "\n"}',
]


@pytest.mark.parametrize("raw", NO_JSON, ids=lambda raw: str(raw[:20]))
def test_what_is_no_json_for_every_client_is_refused(raw):
    assert reason("iopub", message("comm_msg", raw)) == Reason.JSON
    assert reason("iopub", message("status", STATUS, metadata=raw)) == Reason.JSON
    assert reason("iopub", message("status", STATUS, header=raw)) == Reason.JSON
    assert reason("iopub", message("status", STATUS, parent=raw)) == Reason.JSON


@pytest.mark.parametrize("raw", [b"null", b"1", b'"text"', b"[]", b'[["msg_id", 1]]', b"true"])
def test_parts_that_are_no_objects_are_refused(raw):
    assert reason("iopub", message("comm_msg", raw)) == Reason.CONTENT
    assert reason("iopub", message("status", STATUS, metadata=raw)) == Reason.CONTENT
    assert reason("iopub", message("status", STATUS, header=raw)) == Reason.HEADER
    assert reason("iopub", message("status", STATUS, parent=raw)) == Reason.HEADER


def test_text_that_is_not_utf_8_is_mended_and_signed_again():
    raw = b'{"name": "stdout", "text": "caf\xe9 \xed\xa0\x80"}'
    judged = judge("iopub", message("stream", raw, before=[b"topic"]))
    assert judged.content["text"].startswith("caf\ufffd ")
    opened = Session(key=b"key").deserialize(Session().feed_identities(judged.parts)[1])
    assert opened["content"] == judged.content


def test_mending_does_not_grow_beyond_the_limit():
    raw = b'{"name": "stdout", "text": "' + b"\xff" * 3000 + b'"}'
    assert reason("iopub", message("stream", raw), 6000) == Reason.TOO_LARGE


def test_what_became_too_large_by_mending_is_not_signed_again():
    parts = message("stream", b'{"name": "stdout", "text": "' + b"\xff" * 3000 + b'"}')
    signed_bytes = []

    def sign(frames):
        signed_bytes.append(sum(map(len, frames)))
        return SESSION.sign(frames)

    with pytest.raises(RefusedMessageError):
        kernel_messages.judge("iopub", parts, sign, 6000)
    assert signed_bytes == [sum(map(len, parts[2:]))]


def test_headers_are_not_mended():
    assert reason("iopub", message("status", STATUS, header=b'{"msg_id": "\xff"}')) == Reason.JSON


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return f'{{"comm_id": "c", "data": {opening * depth}{closing * depth}}}'.encode()


@pytest.mark.parametrize("depth", [100, 500, 990, 100_000, 4_000_000])
def test_deep_json_is_refused(depth):
    assert reason("iopub", message("comm_msg", nested(depth))) == Reason.STRUCTURE
    assert reason("iopub", message("comm_msg", nested(depth, closing=""))) == Reason.STRUCTURE


def test_json_that_is_as_deep_as_a_chart_passes():
    assert judge("iopub", message("comm_msg", nested(99)))
    deep = '{"a":' * 98 + "1" + "}" * 98
    assert judge("iopub", message("comm_msg", f'{{"comm_id": "c", "data": {deep}}}'.encode()))


def test_brackets_and_commas_in_text_are_text():
    for text in ("[" * 100_000, "{" * 100_000, "," * 2_000_000, '\\"[[{' * 70_000, "\\\\" * 1000 + "[" * 70_000):
        content = {"name": "stdout", "text": text}
        assert judge("iopub", message("stream", content)).content == content


@pytest.mark.parametrize(
    "item", ["[]", "{}", '"ab"', '{"a":1}', "1.1", "1", "null", '""', '[[1],"[",{}]', '"\\""', "["]
)
def test_eight_mebibytes_of_small_values_stop_nobody(item):
    """Read, such a message would take 0.2 to 1.5 s and 180 MB or more."""
    raw = f'{{"comm_id": "c", "data": [{",".join([item] * (MAX_BYTES // (len(item) + 1) - 2000))}]}}'.encode()
    assert reason("iopub", message("comm_msg", raw)) == Reason.STRUCTURE


def test_half_a_million_numbers_pass():
    assert judge("iopub", message("comm_msg", {"comm_id": "c", "data": list(range(500_000))}))


def calls_of(parts) -> int:
    """How many functions of Python run while a message is judged."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        judge("iopub", parts)
    finally:
        sys.setprofile(None)
    return calls


def test_numbers_are_read_without_a_call_for_each():
    few, many = (message("comm_msg", {"comm_id": "c", "data": [0.5] * number}) for number in (200, 100_000))
    assert calls_of(many) < calls_of(few) + 1000  # some are of what Python does now and then


def test_among_many_numbers_an_infinite_one_is_found():
    for number in ("1e999", "-1.0E+400", "9" * 400 + ".0"):
        raw = f'{{"comm_id": "c", "data": [{"0.5," * 1000}{number}]}}'.encode()
        assert reason("iopub", message("comm_msg", raw)) == Reason.JSON


BAD_HEADERS = [
    {},
    {"msg_id": "1"},
    {"msg_type": "status"},
    {"msg_id": 1},
    {"msg_id": None},
    {"msg_id": ["1"]},
    {"session": {}},
    {"username": 5},
    {"date": [5]},
    {"version": 5},
    {"version": "five"},
    {"version": ""},
    {"version": "5.4; rm"},
    {"version": "9999.0"},
    {"msg_id": "x" * 1025},
    {"session": "x" * 5000},
    {"extra": "x" * (16 << 10)},
]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=lambda header: str(header)[:40])
def test_headers_have_the_fields_and_types_of_the_protocol(header):
    sound = {"msg_id": "1", "msg_type": "status"}
    whole = header if header in ({}, {"msg_id": "1"}, {"msg_type": "status"}) else sound | header
    assert reason("iopub", message("status", STATUS, header=whole)) == Reason.HEADER


BAD_PARENTS = [{"msg_id": []}, {"session": {}}, {"date": [1]}, {"msg_type": ["x"]}, {"username": "x" * 1025}]


@pytest.mark.parametrize("parent", BAD_PARENTS, ids=lambda parent: str(parent)[:40])
def test_parent_headers_are_made_of_names(parent):
    assert reason("iopub", message("status", STATUS, parent=parent)) == Reason.HEADER


def test_a_parent_header_is_the_words_of_the_client():
    """jupyter_server's own GatewayKernelClient sends a number for a date."""
    parent = {"msg_id": "1", "date": 1795539325.757507, "username": None, "version": 5}
    assert judge("iopub", message("status", STATUS, parent=parent)).parent == parent


@pytest.mark.parametrize(
    "msg_type", ["", "x", "Status", "execute_request", "data_pub", "a" * 1000, 5, None, [], {}, True]
)
def test_types_that_are_not_of_the_protocol_are_refused(msg_type):
    header = {"msg_id": "1", "msg_type": msg_type}
    expected = Reason.UNKNOWN_TYPE if isinstance(msg_type, str) else Reason.HEADER
    for channel in ("iopub", "shell", "control", "stdin"):
        assert reason(channel, message("status", STATUS, header=header)) == expected


@pytest.mark.parametrize(
    "state", ["dead", "restarting", "autorestarting", "terminating", "unknown", "", "Idle", "idle "]
)
def test_only_the_states_that_a_kernel_may_tell_of_itself(state):
    assert reason("iopub", message("status", {"execution_state": state})) == Reason.STATE


BAD_CONTENT = [
    ("iopub", "status", {}),
    ("iopub", "status", {"execution_state": 5}),
    ("iopub", "status", {"execution_state": ["idle"]}),
    ("iopub", "stream", {"name": "stdout"}),
    ("iopub", "stream", {"text": "x"}),
    ("iopub", "stream", {"name": "stdlog", "text": "x"}),
    ("iopub", "stream", {"name": "stdout", "text": ["x"]}),
    ("iopub", "display_data", {}),
    ("iopub", "display_data", {"data": "x"}),
    ("iopub", "display_data", {"data": {}, "metadata": []}),
    ("iopub", "display_data", {"data": {}, "transient": "x"}),
    ("iopub", "execute_result", {"data": {}, "execution_count": "1"}),
    ("iopub", "execute_input", {"code": 1}),
    ("iopub", "error", {"traceback": "x"}),
    ("iopub", "error", {"traceback": [1]}),
    ("iopub", "error", {"ename": None}),
    ("iopub", "clear_output", {"wait": "yes"}),
    ("iopub", "comm_open", {"comm_id": "c"}),
    ("iopub", "comm_msg", {"comm_id": 5}),
    ("iopub", "comm_close", {}),
    ("shell", "execute_reply", {}),
    ("shell", "execute_reply", {"status": "fine"}),
    ("shell", "execute_reply", {"status": ["ok"]}),
    ("shell", "execute_reply", {"status": "ok", "payload": {}}),
    ("shell", "execute_reply", {"status": "ok", "execution_count": []}),
    ("shell", "kernel_info_reply", {"protocol_version": 5}),
    ("shell", "kernel_info_reply", {"protocol_version": "latest"}),
    ("shell", "kernel_info_reply", {"language_info": "python"}),
    ("shell", "complete_reply", {"matches": "abc"}),
    ("shell", "is_complete_reply", {"status": "perhaps"}),
    ("stdin", "input_request", {}),
    ("stdin", "input_request", {"prompt": 5}),
    ("stdin", "input_request", {"prompt": "", "password": "yes"}),
]


@pytest.mark.parametrize(("channel", "msg_type", "content"), BAD_CONTENT, ids=lambda value: str(value)[:40])
def test_content_has_the_types_that_clients_rely_on(channel, msg_type, content):
    with pytest.raises(RefusedMessageError) as refused:
        judge(channel, message(msg_type, content))
    assert refused.value.reason == Reason.CONTENT
    assert refused.value.msg_type == msg_type
    assert refused.value.parent["msg_id"] == REQUEST["header"]["msg_id"]


def test_a_refusal_names_nothing_that_was_not_judged():
    header = {"msg_id": "1", "msg_type": "no such"}
    with pytest.raises(RefusedMessageError) as refused:
        judge("iopub", message("status", STATUS, header=header))
    assert refused.value.msg_type is None
    assert str(refused.value) == "unknown_type"


def test_the_start_of_a_message_tells_what_it_would_have_been():
    parts = message("stream", {"name": "stdout", "text": "x"}, before=[b"topic"])
    for count in (5, 6, 7):
        parent, msg_type = kernel_messages.peek(parts[:count])
        assert (parent["msg_id"], msg_type) == (REQUEST["header"]["msg_id"], "stream")
    for count in range(5):
        assert kernel_messages.peek(parts[:count]) == (None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
fields = st.sampled_from(
    ["execution_state", "name", "text", "data", "status", "comm_id", "msg_id", "msg_type", "version"]
)
types = st.sampled_from(sorted({kind for _, kind, _ in SOUND}))
channels = st.sampled_from(["iopub", "shell", "control", "stdin"])
objects = st.dictionaries(fields | st.text(max_size=5), json_values, max_size=5)


def usable(parts) -> None:
    """What Jupyter's own code does with a message it gets from us must not raise."""
    opened = Session(key=b"key").deserialize(Session().feed_identities(parts)[1])
    json.dumps(opened["content"], allow_nan=False)
    opened["header"]["msg_type"].split("_")
    opened["parent_header"].get("msg_type")


@given(channels, types, objects, objects, objects)
def test_any_object_passes_only_if_it_is_usable(channel, msg_type, content, parent, metadata):
    packed = [json.dumps(value).encode() for value in (content, parent, metadata)]
    try:
        judged = judge(channel, message(msg_type, packed[0], parent=packed[1], metadata=packed[2]))
    except RefusedMessageError:
        return
    usable(judged.parts)


@given(channels, st.lists(st.binary(max_size=60) | st.just(b"<IDS|MSG>") | st.just(b"{}"), max_size=12))
def test_any_frames_are_refused_and_nothing_else_happens(channel, parts):
    with pytest.raises(RefusedMessageError):
        judge(channel, parts)
    assert kernel_messages.peek(parts)[1] is None


def test_who_reads_no_content_gets_none_but_states():
    large = message("stream", b"nonsense " * 100_000, before=[b"topic"])
    judged = kernel_messages.judge_head("iopub", large, SESSION.sign, MAX_BYTES)
    opened = Session(key=b"key").deserialize(Session().feed_identities(judged.parts)[1])
    assert (opened["msg_type"], opened["content"], opened["metadata"]) == ("stream", {}, {})
    assert opened["parent_header"]["msg_id"] == judged.parent["msg_id"] == REQUEST["header"]["msg_id"]
    status = message("status", STATUS)
    assert kernel_messages.judge_head("iopub", status, SESSION.sign, MAX_BYTES).parts == status


@pytest.mark.parametrize(
    "parts",
    [
        message("status", {"execution_state": "dead"}),
        message("no_such_type", {}),
        message("execute_reply", {}),
        message("stream", {}, header=b"nonsense"),
        message("stream", {}, header={"msg_type": "stream"}),
        message("stream", {}, header={"msg_type": ["stream"], "msg_id": "1"}),
        message("stream", {}, parent={"msg_id": []}),
        message("stream", {})[:4],
    ],
    ids=range(8),
)
def test_who_reads_no_content_gets_nothing_that_is_not_sound(parts):
    with pytest.raises(RefusedMessageError):
        kernel_messages.judge_head("iopub", parts, SESSION.sign, MAX_BYTES)
