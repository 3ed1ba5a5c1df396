"""Admission: who is refused before anything is made, and what ends count for the next."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from jupyter_sandbox.breaker import BreakerState
from jupyter_sandbox.broker.admission import Admission, Marks
from jupyter_sandbox.capacity import Space
from jupyter_sandbox.errors import CapacityError, EngineUnavailableError, StartError, TemplateFailingError
from jupyter_sandbox.specs import Template

pytestmark = pytest.mark.unit

SMALL = Template(name="small", max_total=4)
ALICE, BOB = (1000, "a"), (1000, "b")
PLENTY = Space(total_mib=16000, free_mib=8000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def admission(clock):
    return Admission(Marks(max_total=6), memory=lambda: PLENTY, clock=clock)


def of(party, template=SMALL):
    return SimpleNamespace(party=party, template=template)


def start(admission, error=None, of_template=0, workers=0, template=SMALL):
    with admission.start(template, of_template=of_template, workers=workers):
        if error:
            raise error


def test_the_number_of_a_template_and_the_number_of_all_are_limits(admission):
    start(admission, of_template=3, workers=5)
    with pytest.raises(CapacityError, match="all 4 sandboxes of template small") as refused:
        start(admission, of_template=4, workers=4)
    assert (refused.value.status, refused.value.retry_after_s) == (503, 5)
    with pytest.raises(CapacityError, match="all 6 sandboxes that may exist"):
        start(admission, of_template=0, workers=6)


def test_without_a_number_of_all_only_templates_count(clock):
    start(Admission(memory=lambda: PLENTY, clock=clock), workers=100_000)


def test_memory_above_its_mark_is_no_room_and_what_starts_counts(clock):
    space = Space(total_mib=16000, free_mib=800 + 100)
    admission = Admission(Marks(memory_percent=95), memory=lambda: space, clock=clock)
    with admission.start(SMALL, of_template=0, workers=0), pytest.raises(CapacityError, match="95 % of the host's"):
        start(admission)
    start(admission)


def test_a_failing_template_is_refused_until_its_time_and_a_success_closes_it(admission, clock):
    for _ in range(3):
        with pytest.raises(StartError):
            start(admission, StartError("no"))
    with pytest.raises(TemplateFailingError, match=r"The last time: no$") as refused:
        start(admission)
    assert refused.value.retry_after_s == 3
    assert admission.state(SMALL) is BreakerState.OPEN
    start(admission, template=Template(name="other"))
    clock.now += 2
    with admission.start(SMALL, of_template=0, workers=0):
        assert admission.state(SMALL) is BreakerState.HALF_OPEN
        with pytest.raises(TemplateFailingError):
            start(admission)
    assert admission.state(SMALL) is BreakerState.CLOSED


@pytest.mark.parametrize("error", [CapacityError("full"), EngineUnavailableError("away"), asyncio.CancelledError()])
def test_what_is_not_the_templates_fault_does_not_count(admission, clock, error):
    for _ in range(3):
        with contextlib.suppress(type(error)):
            start(admission, error)
    assert admission.state(SMALL) is BreakerState.CLOSED
    for _ in range(3):
        with pytest.raises(StartError):
            start(admission, StartError("no"))
    clock.now += 2
    with contextlib.suppress(type(error)):
        start(admission, error)
    start(admission)  # the next try is let through at once


def test_a_template_that_was_replaced_begins_anew(admission):
    for _ in range(3):
        with pytest.raises(StartError):
            start(admission, StartError("no"))
    start(admission, template=Template(name="small", max_total=4, preload=("numpy",)))


def claim(admission, party, claimed):
    with admission.claim(party, SMALL, claimed):
        pass


def test_one_owner_alone_may_have_everything(admission):
    for held in range(4):
        claim(admission, ALICE, [of(ALICE)] * held)


def test_who_was_refused_gets_the_next_place_before_who_holds_more(admission, clock):
    full = [of(ALICE)] * 4
    with pytest.raises(CapacityError), admission.claim(BOB, SMALL, full):
        raise CapacityError("there is no room")  # as starts say it
    with pytest.raises(CapacityError, match="for others"):
        claim(admission, ALICE, full[:3])
    claim(admission, BOB, full[:3])
    claim(admission, ALICE, [*full[:2], of(BOB)])  # he has what he asked for


def test_a_place_is_not_kept_for_ever(admission, clock):
    full = [of(ALICE)] * 4
    with pytest.raises(CapacityError), admission.claim(BOB, SMALL, full):
        raise CapacityError("there is no room")
    clock.now += 16
    claim(admission, ALICE, full[:3])


def test_claims_under_way_count_as_held(admission):
    with pytest.raises(CapacityError), admission.claim(BOB, SMALL, [of(ALICE)] * 4):
        raise CapacityError("there is no room")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.claim(ALICE, SMALL, []))
        with pytest.raises(CapacityError, match="for others"):
            claim(admission, ALICE, [])


def refuse(admission, party, template=SMALL):
    with pytest.raises(CapacityError), admission.claim(party, template, []):
        raise CapacityError("there is no room")


def test_a_place_of_a_template_is_not_kept_for_who_waits_for_another(clock):
    # once: who asked again and again for what was full kept the last place of everything else from all others
    admission = Admission(memory=lambda: PLENTY, clock=clock)
    refuse(admission, BOB, Template(name="other"))
    claim(admission, ALICE, [of(ALICE)] * 3)
    limited = Admission(Marks(max_total=4), memory=lambda: PLENTY, clock=clock)
    refuse(limited, BOB, Template(name="other"))
    with pytest.raises(CapacityError, match="for others"):
        claim(limited, ALICE, [of(ALICE)] * 3)  # the last place of all may be his


def test_who_makes_up_owners_does_not_make_us_forget_his_neighbours(admission):
    # once: when there were too many nobody else was remembered
    for number in range(2000):
        refuse(admission, (1000, str(number)))
    refuse(admission, (2000, ""))
    with pytest.raises(CapacityError, match="for others"):
        claim(admission, (1000, "again"), [of((1000, "more"))] * 3)
