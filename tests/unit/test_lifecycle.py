"""The life of a worker: the table is the whole truth, and nobody comes back."""

from __future__ import annotations

import itertools

import pytest

from jupyter_sandbox.lifecycle import TRANSITIONS, WorkerState, advance, table

pytestmark = pytest.mark.unit

ALLOWED = {
    ("starting", "warm"),
    ("starting", "doomed"),
    ("warm", "claimed"),
    ("warm", "doomed"),
    ("claimed", "doomed"),
    ("doomed", "gone"),
}


@pytest.mark.parametrize(("state", "to"), list(itertools.product(WorkerState, WorkerState)))
def test_only_the_known_steps_are_allowed(state, to):
    if (state, to) in ALLOWED:
        assert advance(state, to) is to
    else:
        with pytest.raises(ValueError, match=f"a {state} worker cannot become {to}"):
            advance(state, to)


def test_every_state_is_in_the_table_and_can_be_reached():
    assert set(TRANSITIONS) == set(WorkerState)
    assert set().union(*TRANSITIONS.values()) | {WorkerState.STARTING} == set(WorkerState)


def test_every_life_ends():
    for start in WorkerState:
        reached, frontier = set(), {start}
        while frontier:
            reached |= frontier
            frontier = set().union(*(TRANSITIONS[state] for state in frontier)) - reached
        assert WorkerState.GONE in reached


def test_the_table_reads_as_markdown():
    lines = table().splitlines()
    assert lines[0] == "| state | may become |"
    assert "| claimed | doomed |" in lines
    assert "| gone | - |" in lines
    assert len(lines) == 2 + len(WorkerState)
