"""Results for people (a table) and for programs (lines of JSON)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from benchmarks.systems import BASELINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.metrics import Metric, Remark, Results, Summary

SHOWN_FAILURES = 5
FORMAT_VERSION = 1


def ratios(summaries: Mapping[str, Summary], system: str) -> dict[str, dict[str, float]]:
    """Return for each baseline of the same run the quotients of p50 and p95; a baseline without samples is left out."""
    own = summaries[system]
    found: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        base = summaries.get(name)
        if base is not None and base.p50 > 0 and base.p95 > 0:
            found[name] = {"p50": own.p50 / base.p50, "p95": own.p95 / base.p95}
    return found


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _rows(metric: Metric, summaries: Mapping[str, Summary]) -> Iterator[list[str]]:
    for index, (system, summary) in enumerate(summaries.items()):
        quotients = ratios(summaries, system)
        title = [metric.name, metric.unit + (" +" if metric.more_is_better else "")] if index == 0 else ["", ""]
        values = [_number(value) for value in (summary.p50, summary.p95, summary.minimum)]
        by_baseline = [
            f"{quotients[name]['p50']:.2f} / {quotients[name]['p95']:.2f}" if name in quotients else "-"
            for name in BASELINES
        ]
        yield [*title, system, str(summary.n), *values, *by_baseline]


def _print_aligned(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column in {0, 1, 2} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=out)


def _print_remarks(remarks: Sequence[Remark], out: TextIO) -> None:
    for remark in remarks:
        print(f"  {remark.system}, {remark.measurement}: {remark.text}", file=out)


def print_table(results: Results, metrics: Sequence[Metric], facts: Mapping[str, object], out: TextIO) -> None:
    """Print all metrics, then what was verified and what was noticed."""
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items() if name != "packages"), file=out)
    header = ["metric", "unit", "system", "n", "median", "p95", "min", *(f"p50/p95 × {name}" for name in BASELINES)]
    rows = [header]
    for metric in metrics:
        if metric in results.samples:
            rows += _rows(metric, results.summaries(metric))
    print(file=out)
    _print_aligned(rows, out)
    print("\n+ more is better. × quotient of the medians and of the p95 of this run. Metrics:", file=out)
    for metric in metrics:
        if metric in results.samples:
            print(f"  {metric.name}: {metric.meaning}", file=out)
    print("\nAnswers verified:", file=out)
    for system in results.systems:
        print(f"  {system}: {results.right[system]} right, {results.wrong[system]} wrong", file=out)
    if results.notes:
        print("Notes:", file=out)
        _print_remarks(results.notes, out)
    if results.failures:
        print(f"FAILED: {len(results.failures)}, the first:", file=out)
        _print_remarks(results.failures[:SHOWN_FAILURES], out)


def write_lines(results: Results, metrics: Sequence[Metric], run: Mapping[str, object], out: TextIO) -> None:
    """Write one object per line: `run` first, then `metric`, `answers`, `note` and `failure` records."""

    def write(kind: str, record: Mapping[str, object]) -> None:
        out.write(json.dumps({"kind": kind, **record}) + "\n")

    write("run", {"format": FORMAT_VERSION, **run})
    for metric in metrics:
        if metric not in results.samples:
            continue
        summaries = results.summaries(metric)
        for system, summary in summaries.items():
            record = {"metric": asdict(metric), "system": system, **asdict(summary), "ratio": ratios(summaries, system)}
            write("metric", record)
    for system in results.systems:
        write("answers", {"system": system, "right": results.right[system], "wrong": results.wrong[system]})
    for note in results.notes:
        write("note", asdict(note))
    for failure in results.failures:
        write("failure", asdict(failure))
