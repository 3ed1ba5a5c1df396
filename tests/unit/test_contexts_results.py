"""What the contexts API says of code that ran, and what it takes: pure."""

from __future__ import annotations

import base64
import json
import tracemalloc
from datetime import UTC, datetime

import pytest

from jupyter_sandbox import errors, named_sandboxes
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.execution import ExecutionState, ExecutionView
from jupyter_sandbox.execution_fold import Failure, Folded, Omission, Outcome
from jupyter_sandbox.surfaces.contexts import models, results

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
DOT = base64.b64encode(b"\x89PNG").decode()


def ended(*outputs, outcome=Outcome.OK, message=None, failure=None, count=1, omitted=None, started_at=NOW):
    return ExecutionView(
        id="exe",
        sandbox_id="sbx",
        context_id="ctx",
        state=ExecutionState.ENDED,
        outcome=outcome,
        message=message,
        detached=False,
        accepted_at=NOW,
        started_at=started_at,
        ended_at=NOW,
        duration_s=0.12345678 if started_at else None,
        folded=Folded(
            outputs=outputs,
            outcome=outcome,
            failure=failure,
            execution_count=count,
            omitted=omitted or Omission(),
        ),
    )


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    bundle = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "data": bundle, "metadata": {}}


def test_streams_results_and_displays_are_what_a_prompt_would_print():
    result = {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1}
    display = shown(text_plain=["two ", "pieces\n"], text_html="<b>two</b>")
    ran = results.of(ended(stream("a\nb"), display, stream("c\n"), stream("warning\n", "stderr"), result))
    assert (ran.stdout, ran.stderr) == ("a\nb\ntwo pieces\nc\n42\n", "warning\n")
    assert (ran.success, ran.execution_time, ran.images) == (True, 0.123457, ())


def test_a_display_without_plain_text_says_what_it_has():
    assert results.of(ended(shown(text_markdown="# head"), shown(text_html="<b>one</b>"))).stdout == "# head\n"


def test_a_traceback_is_among_the_errors_and_has_no_colours():
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[0;31mE\x1b[0m", "  line", "E: v"]}
    ran = results.of(ended(error, outcome=Outcome.ERROR, failure=Failure(name="E", value="v")))
    assert (ran.stderr, ran.stdout, ran.success) == ("E\n  line\nE: v\n", "", False)


@pytest.mark.parametrize("outputs", [(), ({"output_type": "error", "ename": "E", "evalue": "v", "traceback": []},)])
def test_an_error_without_a_traceback_is_told_by_its_name(outputs):
    ran = results.of(ended(*outputs, outcome=Outcome.ERROR, failure=Failure(name="E", value="v")))
    assert (ran.stderr, ran.success) == ("E: v\n", False)


@pytest.mark.parametrize(
    ("outcome", "message", "words"),
    [
        (Outcome.TIMEOUT, None, "did not end in time"),
        (Outcome.INTERRUPTED, None, "was interrupted"),
        (Outcome.DIED, "It used too much memory.", "It used too much memory.\nThe context is over"),
        (Outcome.TIMEOUT, "It does not react.", "It does not react.\nThe context is over"),
        (Outcome.OUTPUT_LIMIT, "It does not react.", "It does not react.\nThe context is over"),
    ],
)
def test_every_other_end_is_told_and_is_no_success(outcome, message, words):
    ran = results.of(ended(stream("so far"), outcome=outcome, message=message))
    assert (ran.stdout, ran.success) == ("so far", False)
    assert words in ran.stderr


def test_what_is_left_out_is_told():
    omitted = Omission(outputs=2, bytes=1000, refused_messages=3, refused_bytes=9)
    ran = results.of(ended(outcome=Outcome.OUTPUT_LIMIT, omitted=omitted))
    assert "1009 bytes" in ran.stderr
    assert "3 outputs" in ran.stderr
    assert not ran.success


def test_images_come_beside_the_text_and_what_is_none_does_not():
    display = shown(text_plain="<Figure>", image_png=DOT[:4] + "\n" + DOT[4:] + "\n", image_jpeg="no base64!")
    ran = results.of(ended(display, shown(image_png={"not": "text"}), shown(image_png="ä")))
    assert ran.images == (results.Image(mime_type="image/png", data=DOT),)
    assert ran.stdout == "<Figure>\n"


def test_an_image_in_many_lines_is_one_and_takes_no_more_memory_than_in_one():
    peaks = []
    for text in ("a " * 500_000, "a" * 1_000_000):
        output = {"output_type": "display_data", "data": {"image/png": text}, "metadata": {}}
        tracemalloc.start()
        ran = results.of(ended(output))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [image.data for image in ran.images] == [text.replace(" ", "")]
    assert peaks[0] < 2 * peaks[1]


def test_images_are_bounded():
    ran = results.of(ended(*(shown(image_png=DOT) for _ in range(results.MAX_IMAGES + 2))))
    assert len(ran.images) == results.MAX_IMAGES
    assert ran.stderr == "2 images are left out.\n"


@pytest.mark.parametrize(
    ("changed", "is_over"),
    [
        ({"outcome": Outcome.DIED}, True),
        ({"outcome": Outcome.TIMEOUT, "message": "It does not react."}, True),
        ({"outcome": Outcome.TIMEOUT}, False),  # it reacted
        ({"outcome": Outcome.TIMEOUT, "message": "It was busy.", "count": None}, False),
        ({"outcome": Outcome.TIMEOUT, "message": "Not its turn.", "started_at": None}, False),
        ({"outcome": Outcome.INTERRUPTED, "message": "It does not react."}, True),
        ({"outcome": Outcome.INTERRUPTED}, False),
        ({"outcome": Outcome.INTERRUPTED, "message": "It was busy.", "count": None}, False),
        ({"outcome": Outcome.OUTPUT_LIMIT, "message": "It does not react."}, True),
        ({"outcome": Outcome.OUTPUT_LIMIT}, False),
        ({"outcome": Outcome.ERROR}, False),
    ],
    ids=str,
)
def test_a_context_ends_with_its_kernel_and_with_code_that_does_not_react(changed, is_over):
    assert results.ruins(ended(**changed)) is is_over


@pytest.mark.parametrize(
    ("changed", "is_over"),
    [
        ({"outcome": Outcome.TIMEOUT}, True),  # as its clients expect
        ({"outcome": Outcome.INTERRUPTED, "message": "It does not react."}, True),
        ({"outcome": Outcome.INTERRUPTED, "message": "It was busy.", "count": None}, False),
        ({"outcome": Outcome.OUTPUT_LIMIT, "message": "It does not react."}, True),
        ({"outcome": Outcome.OUTPUT_LIMIT}, False),
    ],
    ids=str,
)
def test_a_session_of_the_code_interpreter_ends_with_code_that_runs_on_and_not_with_what_it_waits_behind(
    changed, is_over
):
    assert named_sandboxes.is_ruined(ended(**changed)) is is_over


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/workspace", "/sandbox"),
        ("/workspace/", "/sandbox"),
        ("/workspace/a/../b", "/sandbox/b"),
        ("/sandbox", "/sandbox"),
        ("/sandbox//a/./b/", "/sandbox/a/b"),
        ("/workspace/sandbox", "/sandbox/sandbox"),
    ],
)
def test_the_workspace_is_the_disk(given, meant):
    assert models.directory(given) == meant


@pytest.mark.parametrize(
    "given",
    ["/", "/etc", "/sandbox/../etc", "/workspace/../tmp", "/tmp", "relative", "/sandbox/a\0", "/sandbox/\ud800"],
)
def test_other_directories_are_refused(given):
    with pytest.raises(InvalidRequestError):
        models.directory(given)


def test_an_unknown_context_has_the_words_that_clients_know():
    refusal = models.refusal(errors.UnknownContextError("no context 'ctx-1'"))
    assert refusal == {"error": "Context not found", "code": "CONTEXT_NOT_FOUND"}
    assert models.refusal(errors.QuotaError("too many")) == {"error": "too many", "code": "QUOTA_EXCEEDED"}


def test_images_are_in_the_full_answer_only():
    ran = results.of(ended(stream("a"), shown(image_png=DOT)))
    usual = models.ran(ran, in_full=False)
    assert usual == {"output": {"stdout": "a", "stderr": ""}, "success": True, "execution_time": 0.123457}
    assert models.ran(ran, in_full=True) == usual | {"images": [{"mime_type": "image/png", "data": DOT}]}
    json.dumps(models.ran(ran, in_full=True))
