"""The pure parts of the benchmarks: summaries, records, goals, the plan, and whose containers are whose."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import containers, density, goals, interpreter, pools, records, report, spread
from benchmarks.metrics import Metric, Results, percentile, summarize
from benchmarks.plan import FULL, QUICK, Plan

pytestmark = pytest.mark.unit

START = Metric(name="start.total", unit="ms", meaning="start")
RPS = Metric(name="load.ready.rps", unit="1/s", meaning="answers", more_is_better=True)
MACHINE = {"cpu_model": "a processor", "packages": {"ipykernel": "7"}}


def results(**samples: dict[Metric, list[float]]) -> Results:
    found = Results(systems=list(samples))
    for system, metrics in samples.items():
        for metric, values in metrics.items():
            for value in values:
                found.add(metric, system, value)
    return found


def run_record(**changes: object) -> records.Record:
    run = {"started_at": "2026-01-01T00:00:00+00:00", "quick": False, "machine": MACHINE}
    return records.header({**run, **changes}, {"local": "stock", "embedded": "ours"})


def read(found: Results, measurement: str = "start") -> records.Figures:
    lines = records.dump([run_record(), *records.block(measurement, found, [START, RPS], seconds=1.5)])
    return records.figures(records.parse(lines))


def test_percentiles_lie_between_ranks():
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([1, 2], 0.95) == pytest.approx(1.95)
    assert percentile([7], 0.95) == 7


def test_a_summary_counts_and_averages():
    summary = summarize([4.0, 2.0, 3.0])
    assert (summary.n, summary.p50, summary.minimum, summary.maximum, summary.mean) == (3, 3.0, 2.0, 4.0, 3.0)


def test_a_wrong_answer_is_a_failure():
    found = Results(systems=["local"])
    assert found.check("local", "exec", expected="1\n", actual="1\n")
    assert not found.check("local", "exec", expected="2\n", actual="1\n")
    assert (found.right["local"], found.wrong["local"], found.failure_count("local")) == (1, 1, 1)


def test_figures_survive_the_way_through_a_file():
    found = results(local={START: [100.0, 300.0]}, embedded={START: [20.0]})
    found.check("embedded", "start", expected="x", actual="x")
    found.note("embedded", "a note", "start")
    figures = read(found)
    assert figures.of("start.total")["local"].summary == summarize([100.0, 300.0])
    assert figures.of("start.total")["embedded"].ratio["local"]["p50"] == pytest.approx(0.1)
    assert figures.of("start.total")["embedded"].samples == (20.0,)
    assert figures.answers == {"embedded": (1, 0)}
    assert [note.text for note in figures.notes] == ["a note"]
    assert figures.measured == {"start": 1.5}


def test_many_samples_are_summarized_only():
    figures = read(results(local={START: [1.0] * (records.MAX_SAMPLES + 1)}))
    assert figures.of("start.total")["local"].samples == ()


def test_a_file_that_was_cut_off_is_read_up_to_there():
    lines = records.dump([run_record(), *records.block("start", results(local={START: [1.0]}), [START])])
    figures = records.figures(records.parse(lines[:-9]))
    assert figures.measured == {}, "a measurement without its last record is not finished"


def test_a_broken_line_inside_a_file_is_an_error():
    with pytest.raises(ValueError, match="Expecting"):
        records.parse("{\n" + records.dump([run_record()]))


@pytest.mark.parametrize("changes", [{"machine": {"packages": {}}}, {"quick": True}, {"format": 1}])
def test_parts_that_do_not_belong_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"parts of this file|format"):
        records.figures([run_record(), run_record(**changes)])


def test_a_file_without_a_run_is_refused():
    with pytest.raises(ValueError, match="no run"):
        records.figures([])


@pytest.mark.parametrize(("value", "met", "by_ratio"), [(40.0, True, False), (49.0, True, True), (60.0, False, False)])
def test_a_goal_is_met_by_its_ratio_where_it_has_one(value, met, by_ratio):
    goal = goals.Goal(what="x", metric="start.total", system="embedded", limit=45.0, factor=0.5, of="local")
    verdict = goals.judge(goal, read(results(local={START: [100.0]}, embedded={START: [value]})))
    assert (verdict.met, verdict.by_ratio) == (met, by_ratio)
    assert verdict.wanted == "≤ 45 ms, ≤ 0.5 × local"


def test_more_is_better_turns_a_goal_round():
    goal = goals.Goal(what="x", metric="load.ready.rps", system="embedded", limit=700.0, factor=1.6, of="local")
    assert goals.judge(goal, read(results(local={RPS: [400.0]}, embedded={RPS: [720.0]}))).met
    assert not goals.judge(goal, read(results(local={RPS: [500.0]}, embedded={RPS: [720.0]}))).met


def test_a_goal_without_figures_is_not_judged():
    goal = goals.Goal(what="x", metric="start.total", system="docker", limit=1.0)
    verdict = goals.judge(goal, read(results(local={START: [1.0]})))
    assert (verdict.met, verdict.measured) == (None, "not measured")


def test_a_limit_that_can_be_judged_counts_when_the_other_cannot():
    goal = goals.Goal(what="x", metric="start.total", system="docker", limit=1.0, factor=1.2, of="gateway")
    assert goals.judge(goal, read(results(docker={START: [2.0]}))).met is False


def test_goals_of_a_measurement_that_is_not_in_the_figures_are_not_told():
    told = goals.verdicts(read(results(local={START: [1.0]})))
    assert {verdict.goal.metric for verdict in told} == {"start.total"}


@pytest.mark.parametrize(("value", "told"), [(10.0, "met"), (25.0, "NOT MET"), (40.0, "NOT MET")])
def test_goals_are_printed_with_what_was_measured_and_a_verdict(value, told):
    out = io.StringIO()
    report.print_verdicts(goals.verdicts(read(results(embedded={START: [value]}))), out)
    rows = [re.split(r"  +", line) for line in out.getvalue().splitlines()]
    assert ["POST to first result, warm pool", "embedded", "≤ 12 ms", f"{value:.1f} ms", told] in rows
    assert ["POST to first result, warm pool", "docker", "≤ 12 ms", "not measured", "-"] in rows
    assert rows[-1] == [{10.0: "2 met, 0 NOT MET", 25.0: "1 met, 1 NOT MET", 40.0: "0 met, 2 NOT MET"}[value]]


def test_every_goal_names_a_metric_and_systems_that_exist():
    from benchmarks.run import METRICS, TOGETHER
    from benchmarks.systems import SYSTEMS

    measured = {metric.name for metric in METRICS}
    by_name = {system.name: system for system in SYSTEMS}
    for goal in goals.GOALS:
        assert goal.metric in measured
        for name in filter(None, (goal.system, goal.of)):
            assert by_name[name].takes_part(goal.metric.partition(".")[0]), (goal, name)
    assert "start" in TOGETHER


def test_a_metric_is_named_after_its_measurement():
    from benchmarks.run import MEASUREMENTS, METRICS

    assert {metric.name.partition(".")[0] for metric in METRICS} == set(MEASUREMENTS)


def test_a_quick_look_is_never_more_than_a_full_run():
    for name, value in vars(QUICK).items():
        full = getattr(FULL, name)
        assert (max(value) <= max(full)) if isinstance(value, tuple) else value <= full, name


def test_a_container_belongs_to_the_server_whose_directory_it_shows_or_is_named_after():
    directory = Path("/tmp/jsb-abc")
    assert containers.belongs({"Mounts": [{"Source": "/tmp/jsb-abc/broker/1/h/2"}], "Names": ["/sbx_1"]}, directory)
    assert containers.belongs({"Mounts": [], "Names": ["/jsb-abc-1234"]}, directory)
    assert not containers.belongs({"Mounts": [{"Source": "/tmp/jsb-other/h"}], "Names": ["/sbx_2"]}, directory)
    assert not containers.belongs({"Mounts": [{"Type": "tmpfs"}], "Names": None}, directory)


class Answering:
    """A code interpreter of one user; `nothing` is what it answers when nothing was printed."""

    def __init__(self, nothing: str | None) -> None:
        self._nothing, self._variables = nothing, {}

    async def ask(self, _method, path, body=None):
        if "/release" in path:
            return None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(body["code"], self._variables)
        return {"result_text": printed.getvalue() or self._nothing}


@pytest.mark.parametrize(("nothing", "right", "wrong"), [("", 5, 0), (None, 4, 1)])
def test_the_answers_of_the_code_interpreter_are_counted_and_null_is_no_empty_text(nothing, right, wrong):
    found = Results(systems=["ours"])
    server = SimpleNamespace(system=SimpleNamespace(name="ours"), client=Answering(nothing))
    asyncio.run(interpreter._user(server, 0, 7, replace(QUICK, load_requests=5), found))
    assert (found.right["ours"], found.wrong["ours"], len(found.failures)) == (right, wrong, wrong)


def density_of(monkeypatch: pytest.MonkeyPatch, plan: Plan, *, available: float) -> Results:
    monkeypatch.setattr(density, "available_bytes", lambda: available)
    found = Results(systems=["ours"])
    system = SimpleNamespace(name="ours", image="", kernel_name="sandbox-python")
    asyncio.run(density.measure_density(SimpleNamespace(system=system, client=None), plan, found))
    return found


def test_memory_of_fewer_kernels_than_wanted_is_not_told(monkeypatch):
    found = density_of(monkeypatch, replace(QUICK, density_start_s=-1.0), available=64e9)
    assert {metric.name: samples["ours"] for metric, samples in found.samples.items()} == {"density.kernels": [0]}


def test_many_kernels_are_left_out_where_memory_is_small(monkeypatch):
    found = density_of(monkeypatch, QUICK, available=2e9)
    assert not found.samples
    assert [note.text for note in found.notes] == ["left out: 2.0 GB of memory are available, not 7"]


@pytest.mark.parametrize(("fast", "slow"), [(100, 0), (99, 1), (60, 40), (20, 80)])
def test_a_second_mode_is_seen_whichever_is_the_larger_one(fast, slow):
    samples = [25.0 + number % 7 for number in range(fast)] + [70.0] * slow
    assert spread.slow_percent(samples) == slow


def test_pools_are_told_as_a_table_by_their_size():
    system = SimpleNamespace(name="embedded-pool-4")
    found = Results(systems=[system.name])
    for metric in pools._METRICS:
        for value in (10.0, 30.0):
            found.add(metric, system.name, value)
    assert pools._rows([system], found)[2] == "| 4 | 20 / 29 ms | 20 / 29 ms | 20 ms | 20 MiB |"
