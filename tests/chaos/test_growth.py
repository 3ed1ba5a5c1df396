"""The judge of a soak notices each figure that is not what it must be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.chaos.growth import COUNTS, Look, judged
from tests.chaos.load import of_others

pytestmark = pytest.mark.unit

LOOKS = 30
FIRST = Look(
    at_s=0,
    executions=0,
    server_mib=80,
    broker_mib=40,
    server_files=50,
    broker_files=30,
    server_age_s=5,
    broker_age_s=6,
    mounts=40,
    loops=3,
    processes=9,
)


def flattening(executions: int) -> float:
    """What grows by ever less."""
    return 3 * (1 - math.exp(-executions / 4000))


def looks(**grows) -> list[Look]:
    """An hour, with what grows by a function of the executions."""
    grows = {"server_mib": flattening, "broker_mib": lambda _: 0.0} | grows
    made = []
    for number in range(1, LOOKS + 1):
        figures = {name: getattr(FIRST, name) + grow(number * 500) for name, grow in grows.items()}
        age = {"at_s": number * 120.0, "server_age_s": 5 + number * 120.0, "broker_age_s": 6 + number * 120.0}
        made.append(replace(FIRST, executions=number * 500, **age, **figures))
    return made


def verdict(seen=None, last=FIRST, killed=("zygote",), share=0.71, wanted=0.7) -> list[str]:
    return judged(FIRST, seen or looks(), last, killed=killed, share=share, wanted=wanted)


def test_what_flattens_and_leaves_nothing_passes():
    assert verdict() == []
    assert verdict(last=replace(FIRST, server_files=49)) == [], "fewer than before are none too many"


@pytest.mark.parametrize("who", ["server", "broker"])
def test_more_than_a_megabyte_for_each_thousand_executions_is_noticed(who):
    (wrong, flat) = verdict(looks(**{f"{who}_mib": lambda executions: executions / 1000 * 1.1}))
    assert wrong == f"the {who} gains 1.10 MB for each 1 000 executions, more than 1.0"
    assert "does not flatten" in flat


@pytest.mark.parametrize("who", ["server", "broker"])
def test_a_steady_growth_is_noticed_though_it_is_slow(who):
    (wrong,) = verdict(looks(**{f"{who}_mib": lambda executions: executions / 1000 * 0.3}))
    assert wrong == f"the {who} does not flatten: 0.30 MB at first, 0.30 MB at last"
    assert verdict(looks(**{f"{who}_mib": lambda executions: executions / 1000 * 0.09})) == []


def test_a_growth_of_the_second_half_only_is_noticed():
    seen = looks(broker_mib=lambda executions: max(0, executions - 8000) / 1000 * 2)
    assert any("the broker gains 2.0" in each for each in verdict(seen))


@pytest.mark.parametrize("name", COUNTS)
def test_one_that_stays_is_noticed(name):
    count = getattr(FIRST, name)
    assert verdict(last=replace(FIRST, **{name: count + 1})) == [f"{name}: {count} at first, {count + 1} at last"]


def test_a_load_that_was_not_reached_is_noticed():
    assert verdict(share=0.69) == ["a load of 69% is not 70%"]
    assert verdict(share=0.6999) == []


def test_who_ended_by_himself_is_noticed_and_who_was_killed_is_not_judged():
    seen = looks(broker_mib=lambda executions: executions / 1000 * 5)
    seen = [replace(each, broker_age_s=1.0) for each in seen]
    assert "the broker ended, though nobody killed it" in verdict(seen)
    assert verdict(seen, killed=("broker",)) == []


def test_a_run_that_is_too_short_to_tell_fails():
    assert verdict(looks()[:8]) == [
        f"8 looks are too few to say whether the {who} grows" for who in ("server", "broker")
    ]
    assert len(verdict([replace(each, executions=7) for each in looks()])) == 2


def test_the_work_of_others_is_not_ours():
    processes = {1: (0, 5), 10: (1, 7), 11: (10, 100), 12: (11, 1000), 20: (1, 9), 30: (1, 10_000)}
    assert of_others(processes, {10}) == 5 + 9 + 10_000
    assert of_others(processes, {10, 30}) == 5 + 9
    assert of_others(processes, ()) == 11_121
