"""The judges of the programs that kill and cut notice what must not be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_sandbox.websocket_words import CUT
from tests.chaos import creates
from tests.chaos.by_hand import verdict
from tests.chaos.cells import LINES, Cell
from tests.chaos.history import Violation
from tests.chaos.kills import slow

pytestmark = pytest.mark.unit


def judged(missing=(), gaps="", doubled=()) -> bool:
    cell = Cell("cell")
    numbers = sorted([*(set(range(LINES)) - set(missing)), *doubled])
    cell.text, cell.gaps = "".join(f"{number}\n" for number in numbers), gaps
    return cell.judge()


def gap(messages: int) -> str:
    return CUT.format(messages=messages, size_bytes=1234) + "\n"


def test_output_that_came_once_passes_and_a_gap_that_was_told_is_counted():
    assert not judged()
    assert judged(missing=(3, 4), gaps=gap(2))
    assert judged(missing=(3, 4, 9), gaps=gap(2) + gap(1)), "each gap tells of its own"
    assert judged(gaps=gap(5)), "what may be missing need not"
    assert judged(missing=range(30), gaps="30 messages with 3,000 bytes were dropped while this notebook was closed.\n")


@pytest.mark.parametrize(
    "lie",
    [
        {"missing": (3,)},
        {"missing": (3, 4, 5), "gaps": gap(2)},
        {"missing": (3,), "gaps": "something may be missing"},
        {"doubled": (3,), "gaps": gap(1)},
        {"doubled": (LINES,)},
    ],
)
def test_more_loss_than_was_told_or_a_doubled_line_is_noticed(lie):
    with pytest.raises(Violation):
        judged(**lie)


def test_one_slow_recovery_is_noticed_and_told(capsys):
    took = {"server": [2.0, 5.1], "broker": [0.3, 5.0]}
    assert slow(took, 5) == ["server killed: ready again in 5.1 s at worst, not in 5 s"]
    assert verdict(slow(took, 5), "all is well") == 1
    assert capsys.readouterr().out == "FAILED: server killed: ready again in 5.1 s at worst, not in 5 s\n"
    assert verdict(slow(took, 6), "all is well") == 0
    assert capsys.readouterr().out == "all is well\n"


REFUSED = (503, "no_capacity", "5")
CROWD = creates.Seen(
    made=[f"sbx_{number}" for number in range(20)],
    live=frozenset(f"sbx_{number}" for number in range(20)),
    refusals=[REFUSED] * 480,
    refused_s=0.9,
    refilled_s=29,
)


def test_a_crowd_of_which_twenty_are_served_passes():
    assert creates.wrong(CROWD) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(CROWD, refused_s=1.1), "a refusal took 1.10 s"),
        (replace(CROWD, refilled_s=31), "31.0 s after the release"),
        (replace(CROWD, made=["sbx_0", *CROWD.made[:19]]), "handed out twice"),
        (replace(CROWD, live=frozenset(CROWD.made[:19])), "20 were served and 19 live"),
        (replace(CROWD, made=CROWD.made[:19]), "19 were served"),
        (replace(CROWD, refusals=[REFUSED] * 479), "479 were refused"),
        (replace(CROWD, refusals=[REFUSED] * 479 + [(500, "internal_error", "5")]), "when to come again"),
        (replace(CROWD, refusals=[REFUSED] * 479 + [(503, "no_capacity", "")]), "when to come again"),
    ],
)
def test_what_must_not_be_in_a_crowd_is_noticed(seen, words):
    assert any(words in each for each in creates.wrong(seen))
