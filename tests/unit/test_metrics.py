"""Metrics: each event counts where it should, and nothing that a client or a sandbox chose becomes a label."""

from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from jupyter_sandbox import errors, events, metrics
from jupyter_sandbox.broker.verbs import StatusReport, WorkersReport
from jupyter_sandbox.errors import BrokerUnavailableError
from jupyter_sandbox.pool_metrics import PoolMetrics
from tests.conftest import eventually
from tests.unit.naughty import NAMES
from tests.unit.test_events import example

pytestmark = pytest.mark.unit

ALL = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in ALL
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


SERIES = frozenset(samples())
"""All that there ever will be: they are there before the first event."""


def grown(event: events.Event) -> dict[str, float]:
    """What grows by how much when an event is read, without labels."""
    before = samples()
    metrics.read(event)
    return {key[0]: value - before.get(key, 0) for key, value in samples().items() if value != before.get(key, 0)}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (events.SandboxClaimed, {"claim_seconds_count", "claim_seconds_sum"}),
        (events.SandboxPaused, {"pause_seconds_count", "pause_seconds_sum"}),
        (events.SandboxResumed, {"pause_seconds_count", "pause_seconds_sum"}),
        (events.SandboxEnded, {"sandboxes_ended_total"}),
        (events.ContextStarted, {"context_start_seconds_count", "context_start_seconds_sum"}),
        (
            events.ContextRestarted,
            {"context_start_seconds_count", "context_start_seconds_sum", "kernels_ended_total"},
        ),
        (events.ContextEnded, {"kernels_ended_total"}),
        (
            events.ExecutionEnded,
            {
                "executions_total",
                "execution_seconds_count",
                "execution_seconds_sum",
                "execution_wait_seconds_count",
                "execution_wait_seconds_sum",
                "output_bytes_total",
                "omitted_output_bytes_total",
                "refused_messages_total",
            },
        ),
        (
            events.CommandEnded,
            {"commands_total", "command_seconds_count", "command_seconds_sum", "command_output_bytes_total"},
        ),
        (events.CommandStarted, set()),
        (events.FileTransferred, {"files_total", "file_bytes_total"}),
        (events.RequestRefused, {"refusals_total"}),
        (events.ExecutionStarted, set()),
        (events.SandboxRenewed, set()),
        (events.SandboxRestricted, set()),
        (events.TokenIssued, set()),
        (events.TemplateDefined, set()),
    ],
)
def test_an_event_counts(kind, names):
    assert grown(example(kind)) == dict.fromkeys((f"jupyter_sandbox_{name}" for name in names), 1)


def test_an_execution_whose_turn_never_came_has_no_duration():
    event = dataclasses.replace(example(events.ExecutionEnded), duration_s=None)
    assert not [name for name in grown(event) if name.startswith("jupyter_sandbox_execution_seconds")]


def test_no_text_that_somebody_chose_becomes_a_label():
    for text in NAMES:
        for kind in events.ALL:
            free = {
                field.name: text
                for field in dataclasses.fields(kind)
                if field.type in ("str", "str | None") and field.name != "code"
            }
            metrics.read(dataclasses.replace(example(kind), **free))
    assert samples().keys() == SERIES
    words = {word for kind in vars(events).values() if isinstance(kind, type) for word in _words(kind)}
    allowed = {*errors.codes(), *words, "start", "restart", "pause", "resume", "yes", "no"}
    assert {value for _, labels in SERIES for _, value in labels} <= allowed


def _words(kind: type) -> list[str]:
    return [str(word) for word in kind] if issubclass(kind, events.StrEnum) else []


def report(warm: int) -> StatusReport:
    workers = (WorkersReport(name="python", warm=warm, claimed=2, total=warm + 3, max_total=200),)
    return StatusReport(
        pid=1, version="1", engine="embedded", templates=("python",), warm=warm, claimed=2, notes=(), workers=workers
    )


def shown(pool: PoolMetrics) -> dict[str, float]:
    return {
        " ".join((sample.name.removeprefix("jupyter_sandbox_"), *sample.labels.values())): sample.value
        for family in pool.collect()
        for sample in family.samples
    }


async def test_a_look_at_the_pool_shows_what_the_last_one_has_learnt(jp_asyncio_loop, monkeypatch):
    asked = []

    async def ask() -> StatusReport:
        asked.append(1)
        if len(asked) > 2:
            raise BrokerUnavailableError("gone")
        return report(len(asked))

    monkeypatch.setattr("jupyter_sandbox.pool_metrics._FRESH_S", 0)
    pool = PoolMetrics(ask)
    assert shown(pool) == {"broker_up": 0}
    await eventually(lambda: pool._is_up)
    assert shown(pool) == {
        "broker_up": 1,
        "workers python idle": 1,
        "workers python claimed": 2,
        "workers python passing": 1,
        "workers_max python": 200,
        "template_failing python": 0,
    }
    await eventually(lambda: pool._known == report(2))
    assert shown(pool)["workers python idle"] == 2
    await eventually(lambda: not pool._is_up)
    assert shown(pool) == {"broker_up": 0}
    pool.stop()


async def test_many_looks_ask_once_and_no_look_asks_nothing(jp_asyncio_loop):
    asked = []

    async def ask() -> StatusReport:
        asked.append(1)
        return report(1)

    pool = PoolMetrics(ask)
    registry = CollectorRegistry()
    registry.register(pool)
    assert asked == []
    for _ in range(20):
        generate_latest(registry)
    await eventually(lambda: pool._is_up)
    generate_latest(registry)
    assert asked == [1]


def test_who_looks_from_outside_the_loop_sees_what_is_known():
    async def never() -> StatusReport:
        raise AssertionError

    pool = PoolMetrics(never)
    pool.note(report(4))
    assert shown(pool)["workers python idle"] == 4
