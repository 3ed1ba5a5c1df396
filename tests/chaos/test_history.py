"""The checker notices what must not be: a checker that accepts everything would prove nothing."""

from __future__ import annotations

import pytest

from tests.chaos.history import Context, History, Violation

pytestmark = pytest.mark.unit


@pytest.fixture
def history():
    made = History()
    made.claimed("sbx_1", "")
    return made


def test_an_honest_history_passes(history):
    sandbox, context = history.sandboxes["sbx_1"], Context()
    history.ran(context, "t1", "t1 1\n")
    history.is_unsure(context)
    history.ran(context, "t2", "t2 3\n")
    history.began_anew(context)
    history.ran(context, "t3", "t3 1\n")
    history.wrote(sandbox, "f", b"1", is_done=True)
    history.wrote(sandbox, "f", b"2", is_done=False)
    history.read(sandbox, "f", b"1")
    history.read(sandbox, "g", None)
    history.may_have_written(sandbox, "h", b"3")
    history.read(sandbox, "h", b"3")
    history.read(sandbox, "h", None)
    history.streamed([0, 1, 2], 3, is_whole=True)
    history.streamed([0, 1], 3, is_whole=False)
    history.listed({"sbx_1"})
    history.ended("sbx_1")
    history.audited(["sbx_1"], ["sbx_1"])


LIES = {
    "handed out twice": lambda h: h.claimed("sbx_1", ""),
    "not new": lambda h: h.claimed("sbx_2", "marker"),
    "lost": lambda h: h.listed(set()),
    "stranger": lambda h: h.listed({"sbx_1", "sbx_2"}),
    "another's output": lambda h: h.ran(Context(), "t1", "t0 1\n"),
    "doubled output": lambda h: h.ran(Context(), "t1", "t1 1\nt1 1\n"),
    "no output": lambda h: h.ran(Context(), "t1", ""),
    "state lost": lambda h: h.ran(Context(counts={4}), "t1", "t1 1\n"),
    "run twice": lambda h: h.ran(Context(counts={4}), "t1", "t1 6\n"),
    "a line lost": lambda h: h.streamed([0, 2], 3, is_whole=False),
    "a line doubled": lambda h: h.streamed([0, 1, 1, 2], 3, is_whole=True),
    "the end missing": lambda h: h.streamed([0, 1], 3, is_whole=True),
    "a file lost": lambda h: (
        h.wrote(h.sandboxes["sbx_1"], "f", b"1", is_done=True),
        h.read(h.sandboxes["sbx_1"], "f", None),
    ),
    "half a file": lambda h: (
        h.wrote(h.sandboxes["sbx_1"], "f", b"12", is_done=True),
        h.read(h.sandboxes["sbx_1"], "f", b"1"),
    ),
    "a file from nowhere": lambda h: h.read(h.sandboxes["sbx_1"], "f", b""),
    "never ended": lambda h: h.audited(["sbx_1"], []),
    "ended twice": lambda h: h.audited(["sbx_1"], ["sbx_1", "sbx_1"]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_must_not_be_is_noticed(history, lie):
    with pytest.raises(Violation):
        LIES[lie](history)
