"""The pool: how many to start is a table, and the loop keeps that number whatever fails."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from jupyter_sandbox import breaker, pool
from jupyter_sandbox.breaker import backoff_s
from jupyter_sandbox.errors import CapacityError, StartError
from jupyter_sandbox.pool import Pool, Snapshot, plan
from jupyter_sandbox.specs import Template
from tests.conftest import eventually

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("min_idle", "max_total", "warm", "starting", "total", "wanted"),
    [
        (0, 5, 0, 0, 0, 0),
        (1, 5, 0, 0, 0, 1),
        (1, 5, 1, 0, 1, 0),
        (3, 5, 1, 1, 2, 1),
        (3, 5, 0, 0, 4, 1),
        (3, 5, 0, 0, 5, 0),
        (3, 5, 0, 0, 9, 0),
        (1, 5, 4, 0, 4, 0),
        (1, 5, 0, 2, 2, 0),
        (9, 5, 0, 0, 0, 5),
    ],
)
def test_the_plan(min_idle, max_total, warm, starting, total, wanted):
    template = Template(name="t", min_idle=min_idle, max_total=max_total)
    assert plan(template, Snapshot(warm=warm, starting=starting, total=total)) == wanted


def test_the_plan_never_overfills_and_never_stops_short():
    for min_idle, max_total, warm, starting, claimed in itertools.product(range(4), range(1, 5), *[range(4)] * 3):
        total = warm + starting + claimed
        started = plan(
            Template(name="t", min_idle=min_idle, max_total=max_total),
            Snapshot(warm=warm, starting=starting, total=total),
        )
        assert started >= 0
        assert started == 0 or total + started <= max_total
        assert warm + starting + started >= min_idle or total + started >= max_total


def test_waiting_grows_to_a_limit():
    waits = [backoff_s(failures) for failures in range(12)]
    assert waits[:4] == [0.0, 0.5, 1.0, 2.0]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


@pytest.mark.parametrize("failures", [100, 1024, 1025, 1026, 5000, 10**6])
def test_waiting_has_a_limit_after_a_night_of_failures(failures):
    # once: 0.5 * 2**1025 is an OverflowError; it ends the broker, and all sandboxes, after 8.5 h of a full disk
    assert backoff_s(failures) == 30.0


class Factory:
    """Makes numbered items; `failures` says what the next calls raise; `gate` holds them back."""

    def __init__(self):
        self.made: list[str] = []
        self.gone: set[str] = set()
        self.failures: list[BaseException] = []
        self.calls = 0
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def make(self, template: Template) -> str:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.at_once -= 1
        self.made.append(f"{template.name}{len(self.made)}")
        return self.made[-1]

    async def unmake(self, item: str) -> None:
        self.gone.add(item)

    def total(self, template: Template) -> int:
        return len([item for item in self.made if item.startswith(template.name) and item not in self.gone])


@asynccontextmanager
async def running(*, head_start_s: float = 0):
    factory = Factory()
    subject: Pool[str] = Pool(factory.make, factory.unmake, factory.total, head_start_s=head_start_s)
    task = asyncio.create_task(subject.run())
    try:
        yield subject, factory, task
    finally:
        task.cancel()
        await asyncio.wait([task])


PYTHON = Template(name="python", min_idle=2, max_total=4)


async def test_nothing_is_started_before_somebody_wants_it():
    async with running() as (subject, factory, _):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert factory.calls == 0
        assert subject.warm() == []


async def test_wanted_workers_become_warm_one_after_the_other():
    async with running() as (subject, factory, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        assert factory.most_at_once == 1
        assert factory.calls == 2


async def test_it_fills_for_templates_that_were_asked_for_while_their_workers_start():
    async with running() as (subject, factory, _):
        assert not subject.fills(PYTHON)
        factory.failures = [StartError("no")]
        factory.gate.clear()
        subject.want(PYTHON)
        await eventually(lambda: factory.calls == 1)
        assert subject.fills(PYTHON)
        factory.gate.set()
        await eventually(lambda: not subject.fills(PYTHON))
        await eventually(lambda: len(subject.warm()) == 2)
        assert subject.fills(PYTHON)
        await subject.forget(PYTHON)
        assert not subject.fills(PYTHON)


async def test_the_oldest_is_taken_and_replaced():
    async with running() as (subject, _, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        assert subject.take(PYTHON) == "python0"
        await eventually(lambda: subject.warm() == ["python1", "python2"])


async def test_an_empty_pool_hands_out_nothing_and_starts_to_fill():
    async with running() as (subject, _, _):
        assert subject.take(PYTHON) is None
        await eventually(lambda: len(subject.warm()) == 2)


async def test_templates_do_not_share_workers():
    other = Template(name="r", min_idle=1, max_total=1)
    async with running() as (subject, _, _):
        subject.want(PYTHON)
        subject.want(other)
        await eventually(lambda: len(subject.warm()) == 3)
        taken = subject.take(other)
        assert taken is not None
        assert taken.startswith("r")
        assert subject.take(other) is None
        assert len(subject.warm()) == 2


async def test_a_dead_warm_worker_is_replaced():
    async with running() as (subject, factory, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        factory.gone.add("python0")
        subject.discard("python0")
        await eventually(lambda: subject.warm() == ["python1", "python2"])


async def test_discarding_a_stranger_is_quiet():
    async with running() as (subject, _, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        subject.discard("stranger")
        assert len(subject.warm()) == 2


async def test_the_pool_stops_at_the_total_and_goes_on_below_it():
    async with running() as (subject, factory, _):
        subject.want(PYTHON)
        for number in range(4):
            await eventually(lambda: len(subject.warm()) > 0)
            assert subject.take(PYTHON) == f"python{number}"
        await eventually(lambda: factory.at_once == 0)
        assert factory.calls == 4
        factory.gone.add("python0")
        subject.discard("python0")
        await eventually(lambda: subject.warm() == ["python4"])


@pytest.fixture
def impatient(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(breaker, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(breaker, "_MAX_WAIT_S", 0.004)
    original = pool.backoff_s
    monkeypatch.setattr(pool, "backoff_s", lambda failures: waits.append(original(failures)) or waits[-1])
    return waits


async def test_a_failing_start_is_tried_again_later_each_time(impatient):
    async with running() as (subject, factory, _):
        factory.failures = [StartError("no") for _ in range(5)]
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        assert factory.calls == 7
        assert impatient == [0.001, 0.002, 0.004, 0.004, 0.004]


async def test_after_a_recovery_the_waiting_starts_again_from_the_beginning(impatient):
    async with running() as (subject, factory, _):
        factory.failures = [StartError("no"), StartError("no")]
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        factory.failures = [StartError("no")]
        subject.take(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        assert impatient == [0.001, 0.002, 0.001]


async def test_one_broken_template_does_not_keep_another_waiting(monkeypatch):
    # once: the loop slept after a failure, up to 30 s, whatever other templates needed meanwhile
    monkeypatch.setattr(pool, "backoff_s", lambda _: 3600.0)
    broken, good = Template(name="broken"), Template(name="good", min_idle=1)
    async with running() as (subject, factory, _):

        async def make(template):
            if template is broken:
                raise StartError("always")
            return await factory.make(template)

        subject._make = make
        subject.want(broken)
        await asyncio.sleep(0)
        subject.want(good)
        await eventually(lambda: subject.warm() == ["good0"])
        assert subject.take(good) == "good0"
        await eventually(lambda: subject.warm() == ["good1"])


async def test_where_there_is_no_room_the_wait_does_not_grow():
    async with running() as (subject, factory, _):
        factory.failures = [CapacityError("full", retry_after_s=5) for _ in range(9)]
        subject.want(PYTHON)
        for _ in range(9):
            await eventually(lambda: "python" in subject._again_at)
            assert subject._again_at["python"] - asyncio.get_running_loop().time() < 7
            subject._again_at = {}
            subject.wake()
        await eventually(lambda: len(subject.warm()) == 2)


async def test_the_same_reason_is_told_once_until_a_start_succeeds(caplog):
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    async with running() as (subject, factory, _):
        full = CapacityError("full", retry_after_s=5)
        factory.failures = [full, full, full]
        subject.want(PYTHON)
        for calls in (1, 2, 3):
            await eventually(lambda calls=calls: factory.calls == calls and "python" in subject._again_at)
            subject._again_at = {}
            subject.wake()
        await eventually(lambda: len(subject.warm()) == 2)
        assert told() == ["no warm worker of template python: full"]
        factory.failures = [full]
        subject.take(PYTHON)
        await eventually(lambda: len(told()) == 2)


async def waiting_for_the_next(subject, factory):
    """Somebody who waits for the worker that is being started, which comes no further until the gate is open."""
    factory.gate.clear()
    subject.want(PYTHON)
    await eventually(lambda: factory.at_once == 1)
    waiting = asyncio.create_task(subject.take_next(PYTHON))
    await asyncio.sleep(0)
    return waiting


async def test_who_waits_gets_the_worker_that_is_being_started_and_nobody_else_does():
    async with running() as (subject, factory, _):
        assert await subject.take_next(PYTHON) is None, "there is none"
        waiting = await waiting_for_the_next(subject, factory)
        assert await subject.take_next(PYTHON) is None, "somebody waits for it"
        assert await subject.take_next(Template(name="r")) is None
        factory.gate.set()
        assert await waiting == "python0"
        await eventually(lambda: subject.warm() == ["python1", "python2"])


async def test_who_waits_is_told_why_there_is_none():
    async with running() as (subject, factory, _):
        factory.failures = [StartError("no")]
        waiting = await waiting_for_the_next(subject, factory)
        factory.gate.set()
        with pytest.raises(StartError):
            await waiting


@pytest.mark.parametrize("how", ["cancelled", "cancelled when it has come"])
async def test_a_worker_that_nobody_waits_for_any_more_is_kept_or_ended(how):
    async with running() as (subject, factory, _):
        waiting = await waiting_for_the_next(subject, factory)
        if how == "cancelled when it has come":
            subject._waiting.add_done_callback(lambda _: waiting.cancel())
            factory.gate.set()
        else:
            waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        factory.gate.set()
        await eventually(lambda: len(subject.warm()) == 2)
        assert set(factory.made) == {*subject.warm(), *factory.gone}


async def test_an_unforeseen_error_of_one_start_does_not_end_the_pool(impatient):
    # once: OSError (state directory full, control group refused) ends run(), and so the broker and every sandbox
    async with running() as (subject, factory, task):
        factory.failures = [OSError(28, "No space left on device")]
        subject.want(PYTHON)
        await eventually(lambda: task.done() or len(subject.warm()) == 2)
        assert not task.done(), task.exception()


async def test_who_waits_gets_nothing_from_a_pool_that_ends():
    async with running() as (subject, factory, task):
        waiting = await waiting_for_the_next(subject, factory)
        task.cancel()
        async with asyncio.timeout(5):
            assert await waiting is None


async def test_ending_the_pool_while_it_starts_one_ends_that_start():
    async with running() as (subject, factory, task):
        factory.gate.clear()
        subject.want(PYTHON)
        await eventually(lambda: factory.at_once == 1)
        task.cancel()
        await asyncio.wait([task])
        assert factory.at_once == 0
        assert subject.warm() == []


async def test_who_took_a_worker_has_the_machine_for_a_while():
    async with running(head_start_s=3600) as (subject, factory, _):
        subject.want(PYTHON)
        for _ in range(50):
            await asyncio.sleep(0)
        assert factory.calls == 0


async def test_a_template_that_is_forgotten_has_no_workers_any_more():
    async with running() as (subject, factory, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        await subject.forget(PYTHON)
        assert subject.warm() == []
        assert len(factory.gone) == 2
        subject.wake()
        await asyncio.sleep(0.01)
        assert factory.calls == 2


async def test_a_worker_that_was_being_made_for_another_template_of_that_name_is_ended():
    async with running() as (subject, factory, _):
        factory.gate.clear()
        subject.want(PYTHON)
        await eventually(lambda: factory.calls == 1)
        await subject.forget(PYTHON)
        subject.want(Template(name="python", min_idle=1, description="another"))
        factory.gate.set()
        await eventually(lambda: factory.gone and len(subject.warm()) == 1)
        assert factory.gone.isdisjoint(subject.warm())


async def test_a_template_that_was_replaced_before_is_not_forgotten_for_its_name():
    async with running() as (subject, factory, _):
        subject.want(PYTHON)
        await eventually(lambda: len(subject.warm()) == 2)
        await subject.forget(Template(name="python", description="another"))
        assert len(subject.warm()) == 2
        assert not factory.gone
