"""The breaker: opens after failures in a row, tries one at a time, closes with the first success."""

from __future__ import annotations

import pytest

from jupyter_sandbox.breaker import Breaker, BreakerState, backoff_s

pytestmark = pytest.mark.unit


def failed(times: int, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker = breaker.begun(now).failed(now)
    return breaker


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_few_failures_let_everything_through(failures):
    assert failed(failures).state(0) is BreakerState.CLOSED
    assert failed(failures).wait_s(0) == 0


def test_the_third_failure_opens_it_for_a_while():
    breaker = failed(3, now=100)
    assert breaker.state(100) is BreakerState.OPEN
    assert breaker.wait_s(100) == backoff_s(3) == 2.0
    assert breaker.state(102) is BreakerState.HALF_OPEN
    assert breaker.wait_s(102) == 0


def test_half_open_one_is_let_through_at_a_time():
    trying = failed(3).begun(2.0)
    assert trying.wait_s(2.0) > 0, "another one waits for its end"
    assert trying.undecided().wait_s(2.0) == 0, "it ended and said nothing"


def test_a_failed_try_opens_it_for_longer_up_to_a_limit():
    breaker, now = failed(3), 0.0
    waits = []
    for _ in range(8):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        breaker = breaker.begun(now).failed(now)
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_many_that_fail_together_are_one_failure():
    assert failed(50).wait_s(0) == failed(3).wait_s(0)
