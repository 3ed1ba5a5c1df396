"""All bombs at once, two in each of four sandboxes: a fifth owner is served, and each bomb is told by its right name."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import only_privileged
from tests.chaos import bombs

MOST_S = 2.0
"""An execution, on a machine with other work; `python -m tests.chaos.bombs` compares it with that without bombs."""


@pytest.mark.slow
@pytest.mark.timeout(240)
@only_privileged
def test_all_bombs_at_once_leave_a_fifth_owner_served_and_have_their_names(host):
    broker = host.broker_pid()
    waits, told = bombs.run(host, rounds=1, times=100)
    print(dict(told), waits, sep="\n")
    assert set(told) == set(bombs.ALL)
    assert bombs.p95(waits.loud) < MOST_S
    assert host.broker_pid() == broker


@pytest.mark.unit
def test_more_than_twice_as_long_is_noticed():
    quiet = [0.005] * 95 + [0.010] * 5
    assert bombs.wrong(bombs.Waits(quiet, [0.005] * 95 + [0.020] * 5)) == []
    assert bombs.wrong(bombs.Waits(quiet, [0.005] * 95 + [0.021] * 5)) == ["beside the bombs p95 is 2.1 times as long"]
    assert bombs.wrong(bombs.Waits(quiet, [0.005] * 96 + [9.0] * 4)) == []
