"""The time of a claimed sandbox: what lengthens it, when its end is announced, and what it looks like on a wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jupyter_sandbox.terms import Term

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def term(length_s: float = 600, *, by_use: bool = True) -> Term:
    return Term.begun(1000, length_s, is_renewed_by_use=by_use)


def test_it_ends_at_its_time_and_not_before():
    assert not term().is_over(1599.9)
    assert term().is_over(1600)


def test_a_use_lets_it_begin_anew_and_never_shortens_it():
    used = term().used(1500)
    assert used.ends_at == 2100
    assert used.used(1200) == used


def test_a_use_changes_nothing_where_only_its_owner_says_how_long():
    assert term(by_use=False).used(1500) == term(by_use=False)


@pytest.mark.parametrize(("length_s", "left_s"), [(86400, 60), (900, 60), (300, 60), (100, 20), (10, 2)])
def test_its_end_is_announced_once_a_minute_before_or_when_a_fifth_is_left(length_s, left_s):
    begun = term(length_s)
    moment = begun.ends_at - left_s
    assert not begun.is_to_be_announced(moment - 0.1)
    assert begun.is_to_be_announced(moment)
    assert not begun.announced().is_to_be_announced(moment)


def test_after_a_use_it_is_announced_again():
    assert term().announced().used(1590).is_to_be_announced(2150)


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_wall_clock_moves_the_stamp_and_not_the_end(step_s):
    begun = term()
    said = begun.end_on(NOON, 1000, None)
    assert said == NOON + timedelta(seconds=600)
    assert begun.end_on(NOON + timedelta(seconds=100.3), 1100, said) == said, "it does not tremble"
    stepped = begun.end_on(NOON + timedelta(seconds=100 + step_s), 1100, said)
    assert stepped == said + timedelta(seconds=step_s)
    assert not begun.is_over(1100)
