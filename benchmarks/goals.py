"""What we want to reach, and whether a run reached it. Pure.

A goal may have a limit in the metric's unit, which is of the machine that it was set on, and a limit as a multiple of
another system in the same run, which holds anywhere: where there is one it decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.report import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.records import Figures


@dataclass(frozen=True, kw_only=True)
class Goal:
    """`limit` in the metric's unit; `factor` × the same metric of `of`. `statistic` is `p50` or `p95`."""

    what: str
    metric: str
    system: str
    limit: float | None = None
    factor: float | None = None
    of: str = ""
    statistic: str = "p50"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal and what a run says about it; `met` is None when it was not measured.

    `by_ratio`: it is met by the multiple alone, not by the limit in the metric's unit.
    """

    goal: Goal
    wanted: str
    measured: str
    met: bool | None
    by_ratio: bool

    @property
    def what(self) -> str:
        """Return what is wanted, with the statistic if it is not the median."""
        return self.goal.what + (", p95" if self.goal.statistic == "p95" else "")


_START = "POST to first result, warm pool"
_SLOW = "starts that take more than twice as long as the fastest tenth"
_COLD = "POST to first result, no pool"
_EXEC = "one execution, one user"
_NEW = "25 users × 100 requests, kernels made in the run"
_READY = "25 users × 100 requests, kernels exist"
_REST = "one execution over REST, one user"
_REST_LOAD = "25 users × 100 requests over REST, beside the same over websockets"
_INTERPRETER = "25 users × 100 requests over the code interpreter's API, sessions made in the run"
_CONTEXT = "a context over the contexts API, warm pool"
_CONTEXT_EXECUTE = "one execution over the contexts API"
_E2B = "E2B's SDK: Sandbox.create to the first result of run_code, warm pool"
_E2B_RUN = "E2B's SDK: one run_code"
_TRANSFER = "1 GiB over HTTP"
_CHURN = "create, run, destroy, 3 at a time"
_IDLE = "idle kernel"
_PER_KERNEL = "memory.per_kernel"
_LIVE = "live kernels that each used pandas"

GOALS: Sequence[Goal] = (
    Goal(what=_EXEC, metric="exec.round_trip", system="embedded", limit=2.0, factor=0.8, of="local-nodelay"),
    Goal(what=_EXEC, metric="exec.round_trip", system="embedded", limit=4.0, statistic="p95"),
    Goal(what=_EXEC, metric="exec.round_trip", system="docker", limit=2.5),
    Goal(what=f"{_EXEC}, the milder mark for containers", metric="exec.round_trip", system="docker", limit=3.0),
    Goal(what=_EXEC, metric="exec.round_trip", system="docker", limit=5.0, statistic="p95"),
    Goal(what=_START, metric="start.total", system="embedded", limit=12.0),
    Goal(what=_START, metric="start.total", system="embedded", limit=25.0, statistic="p95"),
    Goal(what=_START, metric="start.total", system="docker", limit=12.0),
    Goal(what=_START, metric="start.total", system="docker", limit=25.0, statistic="p95"),
    Goal(what=_COLD, metric="start.total", system="embedded-cold", limit=50.0, factor=0.2, of="local"),
    Goal(what=_COLD, metric="start.total", system="docker-cold", limit=350.0),
    Goal(what=_COLD, metric="start.total", system="docker-cold", factor=1.2, of="gateway"),
    Goal(what=f"{_SLOW}, warm pool", metric="spread.slow", system="embedded", limit=2.0),
    Goal(what=f"{_SLOW}, warm pool", metric="spread.slow", system="docker", limit=2.0),
    Goal(what=f"{_SLOW}, no pool", metric="spread.slow", system="embedded-cold", limit=2.0),
    Goal(what=f"{_SLOW}, no pool", metric="spread.slow", system="docker-cold", limit=2.0),
    Goal(what="second kernel in a sandbox", metric="context.second", system="embedded", limit=30.0),
    Goal(what="second kernel in a sandbox", metric="context.second", system="docker", limit=30.0),
    Goal(what=_NEW, metric="load.new.rps", system="embedded", limit=500.0, factor=2.0, of="local-nodelay"),
    Goal(what=_NEW, metric="load.new.rps", system="docker", limit=300.0),
    Goal(what=_READY, metric="load.ready.rps", system="embedded", limit=700.0, factor=1.6, of="local"),
    Goal(what=_READY, metric="load.ready.rps", system="docker", limit=600.0),
    Goal(what=_READY, metric="load.ready.latency", system="embedded", factor=0.5, of="local", statistic="p95"),
    Goal(what=_CHURN, metric="churn.kernels", system="embedded", limit=1500.0, factor=5.0, of="local"),
    Goal(what=_CHURN, metric="churn.kernels", system="docker", limit=300.0),
    Goal(what=_REST, metric="rest.round_trip", system="embedded", limit=5.0),
    Goal(what=_REST_LOAD, metric="rest.load.ratio", system="embedded", limit=0.9),
    Goal(what=_INTERPRETER, metric="interpreter.rps", system="embedded", limit=200.0),
    Goal(what=_INTERPRETER, metric="interpreter.rps", system="docker", limit=200.0),
    Goal(what=_INTERPRETER, metric="interpreter.latency", system="embedded", limit=150.0, statistic="p95"),
    Goal(what=_INTERPRETER, metric="interpreter.latency", system="docker", limit=150.0, statistic="p95"),
    Goal(what=_CONTEXT, metric="contexts.create", system="embedded", limit=100.0, statistic="p95"),
    Goal(what=_CONTEXT, metric="contexts.create", system="docker", limit=100.0, statistic="p95"),
    Goal(what=_CONTEXT_EXECUTE, metric="contexts.execute", system="embedded", limit=10.0),
    Goal(what=_CONTEXT_EXECUTE, metric="contexts.execute", system="docker", limit=10.0),
    Goal(what=_E2B, metric="e2b.first", system="embedded", limit=60.0),
    Goal(what=_E2B, metric="e2b.first", system="docker", limit=60.0),
    Goal(what=_E2B_RUN, metric="e2b.run_code", system="embedded", limit=8.0),
    Goal(what=_E2B_RUN, metric="e2b.run_code", system="docker", limit=8.0),
    Goal(what=f"{_TRANSFER}, into a sandbox", metric="transfer.up", system="embedded", limit=500.0),
    Goal(what=f"{_TRANSFER}, out of it", metric="transfer.down", system="embedded", limit=500.0),
    Goal(what=f"{_TRANSFER}, memory of the server", metric="transfer.memory", system="embedded", limit=64.0),
    Goal(what=f"{_IDLE}, data libraries preloaded (20 MB)", metric=_PER_KERNEL, system="embedded-data", limit=19.1),
    Goal(what=f"{_IDLE}, data libraries preloaded (45 MB)", metric=_PER_KERNEL, system="docker-data", limit=42.9),
    Goal(what=f"{_IDLE} (50 MB)", metric=_PER_KERNEL, system="docker", limit=47.7),
    Goal(what="25 idle kernels and the server", metric="idle.cpu", system="embedded", limit=1.0),
    Goal(what="25 idle kernels and the server", metric="idle.cpu", system="docker", limit=1.0),
    Goal(what=_LIVE, metric="density.kernels", system="embedded-data", limit=200.0),
    Goal(what=f"200 {_LIVE}, memory", metric="density.memory", system="embedded-data", limit=5.0),
    Goal(what=f"200 {_LIVE}, idle", metric="density.cpu", system="embedded-data", limit=1.0),
    Goal(what=_LIVE, metric="density.kernels", system="docker", limit=50.0),
    Goal(what=f"50 {_LIVE}, memory", metric="density.memory", system="docker", limit=5.0),
    Goal(what=f"50 {_LIVE}, idle", metric="density.cpu", system="docker", limit=1.0),
)


def verdicts(figures: Figures) -> list[Verdict]:
    """Judge the goals of the measurements that were made."""
    return [judge(goal, figures) for goal in GOALS if goal.metric.partition(".")[0] in figures.measured]


def judge(goal: Goal, figures: Figures) -> Verdict:
    """Compare a goal with the figures; a multiple decides if it can be judged, else the limit in the metric's unit."""
    metric = figures.metric(goal.metric)
    own = figures.of(goal.metric).get(goal.system)
    more = metric is not None and metric.more_is_better
    unit = metric.unit if metric else ""
    sign = "" if metric is None else "≥ " if more else "≤ "
    wanted, measured = [], []
    in_limit: bool | None = None
    in_ratio: bool | None = None
    value = float(getattr(own.summary, goal.statistic)) if own else None
    if goal.limit is not None:
        wanted.append(f"{sign}{goal.limit:g} {unit}".strip())
    if value is not None:
        measured.append(f"{number(value)} {unit}")
        if goal.limit is not None:
            in_limit = value >= goal.limit if more else value <= goal.limit
    if goal.factor is not None:
        wanted.append(f"{sign}{goal.factor:g} × {goal.of}")
        other = figures.of(goal.metric).get(goal.of)
        base = float(getattr(other.summary, goal.statistic)) if other else 0.0
        if value is not None and base:
            measured.append(f"{value / base:.2f} ×")
            in_ratio = value / base >= goal.factor if more else value / base <= goal.factor
        else:
            measured.append("-")
    return Verdict(
        goal=goal,
        wanted=", ".join(wanted),
        measured=", ".join(measured) if own else "not measured",
        met=in_limit if in_ratio is None else in_ratio,
        by_ratio=in_ratio is True and in_limit is False,
    )
