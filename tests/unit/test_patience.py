"""How long an agent waits for its broker, by a clock that a test turns on."""

from __future__ import annotations

import pytest

from sandbox_worker.patience import LOOK_S, Patience

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_patience_ends_when_nothing_is_heard(clock):
    patience = Patience(clock)
    for waited in range(0, 900, 30):
        assert patience.left_s(900) == 900 - waited
        clock.now += 30
    assert patience.left_s(900) == 0


def test_a_word_renews_it(clock):
    patience = Patience(clock)
    clock.now += 50
    assert patience.left_s(60) == 10
    patience.renew()
    assert patience.left_s(60) == 60


def test_hours_in_which_the_agent_was_frozen_count_for_one_look(clock):
    patience = Patience(clock)
    clock.now += 50
    assert patience.left_s(900) == 850
    clock.now += 7 * 3600
    assert patience.left_s(900) == 850 - LOOK_S
