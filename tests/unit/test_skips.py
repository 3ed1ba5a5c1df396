"""Where it is said for which reasons tests may be skipped, a skip for another one is a failure."""

from __future__ import annotations

import pytest

from tests.conftest import judged


def skipped(reason, **more):
    return pytest.TestReport("t", ("t.py", 1, "t"), {}, "skipped", ("t.py", 1, f"Skipped: {reason}"), "setup", **more)


@pytest.mark.parametrize(("may_skip", "outcome"), [(None, "skipped"), ("curl|node", "skipped"), ("wget", "failed")])
def test_a_skip_for_a_reason_that_is_not_named_is_a_failure(may_skip, outcome):
    report = judged(skipped("needs curl"), may_skip)
    assert report.outcome == outcome
    assert "needs curl" in str(report.longrepr)


def test_a_failure_that_is_expected_is_no_skip():
    assert judged(skipped("known", wasxfail="known"), "wget").outcome == "skipped"
