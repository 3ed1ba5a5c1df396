"""Rates: so many requests in a minute, for each owner and kind, however many owners there are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox import rates
from jupyter_sandbox.owners import named

pytestmark = pytest.mark.unit

ALICE, BOB = named("alice"), named("bob")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def _rates(**quotas):
    clock = Clock()
    found = rates.Rates(clock, **quotas)
    return found, clock


def test_as_many_as_the_quota_may_come_at_once_and_no_more():
    limits, _ = _rates(reads_per_minute=5)
    told = [limits.take(ALICE, "read").retry_after_s for _ in range(7)]
    assert told == [None] * 5 + [12, 12]


def test_time_gives_back_what_was_taken():
    limits, clock = _rates(executions_per_minute=60)
    for _ in range(60):
        limits.take(ALICE, "execute")
    refused = limits.take(ALICE, "execute")
    assert refused.retry_after_s == 1
    clock.now += refused.retry_after_s
    assert limits.take(ALICE, "execute").retry_after_s is None
    assert limits.take(ALICE, "execute").retry_after_s == 1


def test_a_clock_that_stands_or_goes_back_gives_nothing():
    assert rates.judge("read", 60, rates.Bucket(0.5, 100.0), 90.0).bucket.left == 0.5


def test_owners_and_kinds_have_buckets_of_their_own():
    limits, _ = _rates(reads_per_minute=1, writes_per_minute=1, executions_per_minute=1)
    assert [
        limits.take(owner, action).retry_after_s for owner in (ALICE, BOB) for action in ("read", "write", "execute")
    ] == [None] * 6
    assert limits.take(ALICE, "write").retry_after_s is not None


def test_header_fields_are_those_of_the_draft():
    limits, clock = _rates(writes_per_minute=120)
    assert limits.take(ALICE, "write").headers == {
        "RateLimit-Policy": '"write";q=120;w=60',
        "RateLimit": '"write";r=119;t=1',
    }
    for _ in range(119):
        limits.take(ALICE, "write")
    clock.now += 0.1
    assert limits.take(ALICE, "write").headers == {
        "RateLimit-Policy": '"write";q=120;w=60',
        "RateLimit": '"write";r=0;t=60',
        "Retry-After": "1",
    }


@given(some.integers(1, 10_000), some.lists(some.floats(0, 90), max_size=200))
def test_never_more_than_two_quotas_pass_in_a_minute(quota, pauses):
    """One that was saved, and one that came meanwhile."""
    bucket, now, passed = None, 0.0, []
    for pause in pauses:
        now += pause
        verdict = rates.judge("read", quota, bucket, now)
        bucket = verdict.bucket
        assert 0 <= bucket.left <= quota
        assert re.fullmatch(r'"read";r=\d+;t=\d+', verdict.headers["RateLimit"])
        if verdict.retry_after_s is None:
            passed.append(now)
        assert len([at for at in passed if at > now - 60]) <= 2 * quota


def test_many_owners_take_bounded_memory():
    limits, _ = _rates()
    for number in range(20_000):
        limits.take(named(f"owner{number}"), "read")
    assert len(limits._buckets) == 4096
