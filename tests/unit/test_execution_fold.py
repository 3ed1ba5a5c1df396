"""What a kernel says becomes one value: by tables, and for any order of messages within exact bounds."""

from __future__ import annotations

import json

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.execution_fold import MAX_OUTPUTS, ExecutionFold, Failure, Outcome

pytestmark = pytest.mark.unit

MAX_BYTES = 1000


def stream(text, name="stdout"):
    return ("iopub", "stream", {"name": name, "text": text})


def display(text="x", display_id=None, kind="display_data", **more):
    transient = {"display_id": display_id} if display_id is not None else {}
    return ("iopub", kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient, **more})


def status(state):
    return ("iopub", "status", {"execution_state": state})


def reply(state="ok", **more):
    return ("shell", "execute_reply", {"status": state, "execution_count": 3, **more})


CLEAR, CLEAR_LATER = ("iopub", "clear_output", {"wait": False}), ("iopub", "clear_output", {"wait": True})
ERROR = ("iopub", "error", {"ename": "ValueError", "evalue": "no", "traceback": ["a", "b"]})


def out(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(text):
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}


def folded(*messages, max_bytes=MAX_BYTES):
    fold = ExecutionFold(max_bytes)
    events = [event for message in messages for event in fold.take(*message)]
    return fold, fold.result(), events


CASES = {
    "nothing": ([], []),
    "texts of one stream are one output": ([stream("a"), stream("b\n")], [out("ab\n")]),
    "another stream is another output": (
        [stream("a"), stream("b", "stderr"), stream("c")],
        [out("a"), out("b", "stderr"), out("c")],
    ),
    "a display between them separates": ([stream("a"), display(), stream("b")], [out("a"), shown("x"), out("b")]),
    "empty text is nothing": ([stream("")], []),
    "an update replaces every output of its id": (
        [display("1", "i"), display("1", "i"), display("2", "j"), display("new", "i", "update_display_data")],
        [shown("new"), shown("new"), shown("2")],
    ),
    "an update of an unknown id is nobody's": (
        [display("1", "i"), display("2", "j", "update_display_data")],
        [shown("1")],
    ),
    "an update without an id is nobody's": ([display("1"), display("2", None, "update_display_data")], [shown("1")]),
    "clear": ([stream("a"), CLEAR, stream("b")], [out("b")]),
    "clear at the end": ([stream("a"), CLEAR], []),
    "clear that waits": ([stream("a"), CLEAR_LATER], [out("a")]),
    "clear that waited": ([stream("a"), CLEAR_LATER, stream("b")], [out("b")]),
    "clear that waited for an update of what it cleared": (
        [display("1", "i"), CLEAR_LATER, display("new", "i", "update_display_data")],
        [shown("new")],
    ),
    "a cleared id is forgotten": ([display("1", "i"), CLEAR, display("new", "i", "update_display_data")], []),
    "a result has its number": (
        [display("4", kind="execute_result", execution_count=7)],
        [shown("4") | {"output_type": "execute_result", "execution_count": 7}],
    ),
    "an error is an output": (
        [ERROR],
        [{"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["a", "b"]}],
    ),
    "half characters are mended": ([stream("a\ud800b"), display("\udfff")], [out("a\ufffdb"), shown("\ufffd")]),
    "output on shell is none": ([("shell", "stream", {"name": "stdout", "text": "x"})], []),
    "comms are no outputs": ([("iopub", "comm_msg", {"comm_id": "c", "data": {}})], []),
}


@pytest.mark.parametrize(("messages", "outputs"), CASES.values(), ids=CASES)
def test_outputs_are_those_of_a_notebook(messages, outputs):
    _, result, _ = folded(*messages)
    assert list(result.outputs) == outputs
    assert result.omitted.bytes == 0
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.from_dict(each) for each in result.outputs])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))


def test_data_that_is_no_text_is_shown_as_its_json():
    content = {
        "data": {"text/plain": 5, "application/json": {"a": 1}, "application/x+json": [1], "text/html": ["a", "b"]}
    }
    _, result, _ = folded(("iopub", "display_data", content))
    data = {"text/plain": "5", "application/json": {"a": 1}, "application/x+json": [1], "text/html": ["a", "b"]}
    assert result.outputs == ({"output_type": "display_data", "data": data, "metadata": {}},)


@pytest.mark.parametrize(
    ("messages", "is_complete", "outcome", "failure"),
    [
        ([], False, None, None),
        ([status("busy"), reply()], False, Outcome.OK, None),
        ([status("busy"), status("idle")], False, None, None),
        ([status("busy"), reply(), status("idle")], True, Outcome.OK, None),
        ([status("idle"), reply()], True, Outcome.OK, None),
        (
            [ERROR, reply("error", ename="ValueError", evalue="no")],
            False,
            Outcome.ERROR,
            Failure(name="ValueError", value="no"),
        ),
        ([reply("error", ename="E" * 5000, evalue=7)], False, Outcome.ERROR, Failure(name="E" * 1000, value="")),
        ([reply("aborted")], False, Outcome.ERROR, Failure(name="Aborted", value="")),
        ([("iopub", "execute_reply", {"status": "ok"}), status("idle")], False, None, None),
    ],
)
def test_an_end_has_two_halves(messages, is_complete, outcome, failure):
    fold, result, _ = folded(*messages)
    assert (fold.is_complete, result.outcome, result.failure) == (is_complete, outcome, failure)


@pytest.mark.parametrize(("count", "kept"), [(7, 7), (0, 0), (True, None), (-1, None), (1 << 60, None), (None, None)])
def test_a_number_that_is_none_is_not_taken(count, kept):
    _, result, _ = folded(("iopub", "execute_input", {"code": "", "execution_count": count}))
    assert result.execution_count == (kept or None)


def test_a_refused_reply_is_the_end_and_is_counted():
    fold = ExecutionFold(MAX_BYTES)
    fold.refuse("iopub", 7)
    assert not fold.is_answered
    fold.refuse("shell", 20)
    result = fold.result()
    assert fold.is_answered
    assert (result.outcome, result.failure.name) == (Outcome.ERROR, "RefusedMessage")
    assert (result.omitted.refused_messages, result.omitted.refused_bytes) == (2, 27)


def test_refused_outputs_count_against_the_limit():
    fold = ExecutionFold(MAX_BYTES)
    fold.take(*stream("x" * 10))
    fold.refuse("shell", MAX_BYTES)
    fold.refuse("iopub", MAX_BYTES, "comm_msg")
    fold.refuse("iopub", MAX_BYTES - 10, "stream")
    assert not fold.is_over_limit
    fold.refuse("iopub", 1)  # of what it was cannot be read
    assert fold.is_over_limit


def test_a_text_that_is_too_long_is_cut_between_characters_and_counted():
    fold, result, events = folded(stream("ä" * 10), max_bytes=5)
    assert result.outputs == (out("ää"),)
    assert (result.omitted.outputs, result.omitted.bytes) == (1, 16)
    assert fold.is_over_limit
    assert [event.output["text"] for event in events] == ["ää"]


def test_an_output_that_is_too_large_is_left_out_whole_and_counted():
    size = len(json.dumps({"data": {"text/plain": "x" * 990}, "metadata": {}}))
    _, result, events = folded(stream("kept"), display("x" * 990), stream(" and this"))
    assert result.outputs == (out("kept and this"),)
    assert (result.omitted.outputs, result.omitted.bytes) == (1, size)
    assert len(events) == 2


def test_an_update_that_is_too_large_leaves_what_was_there():
    _, result, events = folded(display("1", "i"), display("x" * 990, "i", "update_display_data"))
    assert result.outputs == (shown("1"),)
    assert result.omitted.outputs == 1
    assert len(events) == 1


def test_a_clear_makes_room():
    fold, result, _ = folded(stream("x" * MAX_BYTES), CLEAR, stream("y" * MAX_BYTES))
    assert result.outputs == (out("y" * MAX_BYTES),)
    assert not fold.is_over_limit


def test_the_number_of_outputs_is_bounded():
    _, result, _ = folded(*[display()] * (MAX_OUTPUTS + 5), max_bytes=1 << 20)
    assert len(result.outputs) == MAX_OUTPUTS
    assert result.omitted.outputs == 5


def test_a_stream_of_single_letters_does_not_keep_a_text_for_each():
    fold, result, _ = folded(*[stream("x")] * 5000, max_bytes=1 << 20)
    assert result.outputs == (out("x" * 5000),)
    assert len(fold._kept[0].texts) <= 1001


def test_a_clear_that_waited_is_told_before_what_it_waited_for():
    _, _, events = folded(stream("a"), CLEAR_LATER, display("b", "i"), display("c", "i", "update_display_data"))
    assert [event.kind for event in events] == ["output", "clear", "output", "update"]
    assert events[2].output["display_id"] == events[3].output["display_id"] == "i"


TEXT = some.text(max_size=30)
MESSAGES = some.lists(
    some.one_of(
        some.builds(stream, TEXT, some.sampled_from(["stdout", "stderr"])),
        some.builds(display, TEXT, some.none() | some.sampled_from(["i", "j"])),
        some.builds(display, TEXT, some.sampled_from(["i", "j"]), some.just("update_display_data")),
        some.sampled_from([CLEAR, CLEAR_LATER, ERROR, status("busy"), status("idle"), reply(), reply("error")]),
    ),
    max_size=30,
)


def replayed(events):
    """What a client has that follows the events."""
    outputs = []
    for event in events:
        if event.kind == "clear":
            outputs = []
        elif event.kind == "update":
            for output in outputs:
                if output.get("display_id") == event.output["display_id"]:
                    output.update(event.output)
        elif event.output["output_type"] == "stream" and outputs and outputs[-1].get("name") == event.output["name"]:
            outputs[-1] = outputs[-1] | {"text": outputs[-1]["text"] + event.output["text"]}
        else:
            outputs.append(dict(event.output))
    return [{name: value for name, value in output.items() if name != "display_id"} for output in outputs]


@given(MESSAGES, some.integers(0, 300))
def test_who_follows_the_events_has_the_outputs(messages, max_bytes):
    _, result, events = folded(*messages, max_bytes=max_bytes)
    assert replayed(events) == list(result.outputs)


@given(MESSAGES, some.integers(0, 300))
def test_never_more_than_the_limit_is_kept(messages, max_bytes):
    fold, result, _ = folded(*messages, max_bytes=max_bytes)
    texts = sum(len(output["text"].encode()) for output in result.outputs if output["output_type"] == "stream")
    assert texts <= fold.kept_bytes <= max_bytes


@given(
    some.lists(some.builds(stream, some.text(max_size=50), some.sampled_from(["stdout", "stderr"]))),
    some.integers(0, 200),
)
def test_what_is_kept_and_what_is_omitted_is_all(messages, max_bytes):
    _, result, _ = folded(*messages, max_bytes=max_bytes)
    kept = sum(len(output["text"].encode()) for output in result.outputs)
    assert kept + result.omitted.bytes == sum(len(content["text"].encode()) for _, _, content in messages)
