"""Lines of JSON: what a run found out, measurement by measurement, and figures read back from it. Pure.

A file holds one or more runs on one machine: a `run` record, then for each finished measurement a block of `metric`,
`answers`, `note` and `failure` records that ends with `measured`. So a run that was interrupted can be resumed, and
tables, pages and plots are made from the file alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.metrics import Metric, Remark, Summary
from benchmarks.systems import BASELINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.metrics import Results

FORMAT_VERSION = 2
MAX_SAMPLES = 200
"""Samples themselves are kept when there are not more of them."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric of one system; `ratio` holds the quotients of p50 and p95 by baseline."""

    summary: Summary
    ratio: Mapping[str, Mapping[str, float]]
    samples: Sequence[float] = ()


@dataclass(kw_only=True)
class Figures:
    """Everything that a file says."""

    runs: list[Record] = field(default_factory=list)
    systems: dict[str, str] = field(default_factory=dict)
    figures: dict[Metric, dict[str, Figure]] = field(default_factory=dict)
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[Remark] = field(default_factory=list)
    failures: list[Remark] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    conditions: list[Mapping[str, float]] = field(default_factory=list)

    def of(self, name: str, at: int = 0) -> dict[str, Figure]:
        """Return the figures of a metric by system; empty when it was not measured."""
        found = (figures for metric, figures in self.figures.items() if (metric.name, metric.at) == (name, at))
        return next(found, {})

    def metric(self, name: str) -> Metric | None:
        """Return the first metric of that name."""
        return next((metric for metric in self.figures if metric.name == name), None)

    def steps(self, name: str) -> list[int]:
        """Return the numbers of kernels with which a metric was measured."""
        return sorted(metric.at for metric in self.figures if metric.name == name)

    @property
    def machine(self) -> Mapping[str, Any]:
        """Return the facts of the machine."""
        machine: Mapping[str, Any] = self.runs[-1]["machine"]
        return machine

    @property
    def is_quick(self) -> bool:
        """Whether any part was only a quick look."""
        return any(run["quick"] for run in self.runs)


def ratios(summaries: Mapping[str, Summary], system: str) -> dict[str, dict[str, float]]:
    """Return for each baseline of the same run the quotients of p50 and p95; a baseline without samples is left out."""
    own = summaries[system]
    found: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        base = summaries.get(name)
        if base is not None and base.p50 > 0 and base.p95 > 0:
            found[name] = {"p50": own.p50 / base.p50, "p95": own.p95 / base.p95}
    return found


def _rounded(values: Mapping[str, Any]) -> Record:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def header(run: Mapping[str, Any], systems: Mapping[str, str]) -> Record:
    """Return the record that a run begins with; `systems`: summary by name."""
    return {"kind": "run", "format": FORMAT_VERSION, **run, "systems": dict(systems)}


def block(
    measurement: str,
    results: Results,
    metrics: Sequence[Metric],
    *,
    seconds: float = 0.0,
    condition: Mapping[str, float] | None = None,
) -> list[Record]:
    """Return the records of one finished measurement."""
    records: list[Record] = []
    for metric in metrics:
        if metric not in results.samples:
            continue
        summaries = results.summaries(metric)
        for system, summary in summaries.items():
            record: Record = {"kind": "metric", "metric": asdict(metric), "system": system, **_rounded(asdict(summary))}
            record["ratio"] = {name: _rounded(ratio) for name, ratio in ratios(summaries, system).items()}
            if summary.n <= MAX_SAMPLES:
                record["samples"] = [round(value, 3) for value in results.samples[metric][system]]
            records.append(record)
    for system in results.systems:
        if results.right[system] or results.wrong[system]:
            right, wrong = results.right[system], results.wrong[system]
            records.append({"kind": "answers", "system": system, "right": right, "wrong": wrong})
    records += [{"kind": "note", **asdict(note)} for note in results.notes]
    records += [{"kind": "failure", **asdict(failure)} for failure in results.failures]
    end: Record = {"kind": "measured", "measurement": measurement, "seconds": round(seconds, 1)}
    records.append(end | ({"condition": _rounded(condition)} if condition else {}))
    return records


def dump(records: Iterable[Record]) -> str:
    """Return records as lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def parse(text: str) -> list[Record]:
    """Return the records of a file; a last line that was cut off is left out. Raises ValueError."""
    records = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise
    return records


def figures(records: Iterable[Record]) -> Figures:
    """Return what the records say. Raises ValueError when they are of another format or of two machines."""
    found = Figures()
    for record in records:
        match record["kind"]:
            case "run":
                _add_run(found, record)
            case "metric":
                _add_metric(found, record)
            case "answers":
                right, wrong = found.answers.get(record["system"], (0, 0))
                found.answers[record["system"]] = (right + record["right"], wrong + record["wrong"])
            case "note" | "failure" as kind:
                remark = Remark(system=record["system"], measurement=record["measurement"], text=record["text"])
                (found.notes if kind == "note" else found.failures).append(remark)
            case "measured":
                found.measured[record["measurement"]] = record["seconds"]
                found.conditions += [record["condition"]] if "condition" in record else []
    if not found.runs:
        raise ValueError("no run in this file")
    return found


def _add_run(found: Figures, record: Record) -> None:
    if record["format"] != FORMAT_VERSION:
        raise ValueError(f"format {record['format']}, not {FORMAT_VERSION}")
    if found.runs and (record["machine"], record["quick"]) != (found.machine, found.is_quick):
        raise ValueError("the parts of this file are of different machines, packages or plans")
    found.runs.append(record)
    found.systems |= record["systems"]


def _add_metric(found: Figures, record: Record) -> None:
    metric = Metric(**record["metric"])
    names = ("n", "p50", "p95", "minimum", "maximum", "mean")
    summary = Summary(**{name: record[name] for name in names})
    figure = Figure(summary=summary, ratio=record["ratio"], samples=tuple(record.get("samples", ())))
    found.figures.setdefault(metric, {})[record["system"]] = figure
