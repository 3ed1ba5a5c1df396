"""Room: how full the host may get, and for whom the last places are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.capacity import Space, kept_for_others
from jupyter_sandbox.host import readings

pytestmark = pytest.mark.unit

ALICE, BOB, CAROL = (1000, "a"), (1000, "b"), (2000, "")
MEMINFO = (
    "MemTotal:       16384000 kB\nMemFree:          500000 kB\nMemAvailable:    4096000 kB\nHugePages_Total:       0\n"
)


@pytest.mark.parametrize(
    ("free_mib", "wanted_mib", "percent", "reserve_mib", "holds"),
    [
        (100, 50, 95, 0, True),  # 950 of 1000 are in use then
        (100, 51, 95, 0, False),
        (100, 50, 95, 50, True),
        (100, 50, 95, 51, False),
        (100, 100, 100, 0, True),
        (100, 101, 100, 0, False),
        (1000, 0, 1, 0, True),
        (0, 0, 100, 0, True),
        (40, 0, 95, 0, False),  # it is fuller already
    ],
)
def test_the_mark_and_the_reserve_hold_together(free_mib, wanted_mib, percent, reserve_mib, holds):
    space = Space(total_mib=1000, free_mib=free_mib)
    assert space.holds(wanted_mib, percent=percent, reserve_mib=reserve_mib) is holds


def test_memory_is_what_can_be_had_caches_included():
    assert readings.memory(MEMINFO) == Space(total_mib=16000, free_mib=4000)


def test_this_machine_can_be_read(tmp_path):
    for space in (readings.memory(), readings.disk(tmp_path)):
        assert 0 <= space.free_mib <= space.total_mib


@pytest.mark.parametrize(
    ("asker", "held", "in_vain", "kept"),
    [
        (ALICE, {ALICE: 9}, [], 0),
        (ALICE, {ALICE: 9}, [ALICE], 0),
        (ALICE, {ALICE: 9}, [BOB], 1),
        (BOB, {ALICE: 9}, [ALICE], 0),
        (ALICE, {ALICE: 2, BOB: 2}, [BOB], 0),
        (ALICE, {ALICE: 9}, [CAROL], 1),
        (ALICE, {ALICE: 9}, [BOB, CAROL], 2),
        (ALICE, {ALICE: 9, CAROL: 20}, [CAROL], 0),
        (CAROL, {ALICE: 9, CAROL: 20}, [ALICE, BOB], 1),  # two owners of one user
        (CAROL, {CAROL: 1}, [(1000, f"{number:x}") for number in range(500)], 1),
    ],
)
def test_places_are_kept_for_who_holds_fewer_and_asked_in_vain(asker, held, in_vain, kept):
    users = {user: sum(n for (whose, _), n in held.items() if whose == user) for user in (1000, 2000)}
    assert kept_for_others(asker, held, in_vain, users) == kept


parties = some.tuples(some.integers(1, 3), some.sampled_from(["", "a", "b"]))


@given(some.dictionaries(parties, some.integers(0, 5)), some.sets(parties, min_size=1))
def test_somebody_who_waits_is_always_served(held, in_vain):
    users = {user: sum(n for (whose, _), n in held.items() if whose == user) for user in (1, 2, 3)}
    assert 0 in {kept_for_others(asker, held, in_vain, users) for asker in in_vain}
