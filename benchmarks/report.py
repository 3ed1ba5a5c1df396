"""Figures as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from benchmarks.systems import BASELINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.goals import Verdict
    from benchmarks.metrics import Metric, Remark
    from benchmarks.records import Figure, Figures

SHOWN_FAILURES = 5
_MET = {True: "met", False: "NOT MET", None: "-"}


def number(value: float) -> str:
    """Return a figure with about three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def label(metric: Metric) -> str:
    """Return the name of a metric, with the number of kernels if it has one."""
    return f"{metric.name} @{metric.at}" if metric.at else metric.name


def _rows(metric: Metric, figures: Mapping[str, Figure]) -> Iterator[list[str]]:
    for index, (system, figure) in enumerate(figures.items()):
        summary, quotients = figure.summary, figure.ratio
        title = [label(metric), metric.unit + (" +" if metric.more_is_better else "")] if index == 0 else ["", ""]
        values = [number(value) for value in (summary.p50, summary.p95, summary.minimum)]
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


def print_table(figures: Figures, out: TextIO) -> None:
    """Print all metrics, then what was verified and what was noticed."""
    facts = {name: value for name, value in figures.machine.items() if name != "packages"}
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()), file=out)
    header = ["metric", "unit", "system", "n", "median", "p95", "min", *(f"p50/p95 × {name}" for name in BASELINES)]
    rows = [header]
    for metric, by_system in figures.figures.items():
        rows += _rows(metric, by_system)
    print(file=out)
    _print_aligned(rows, out)
    print("\n+ more is better. × quotient of the medians and of the p95 of this run. Metrics:", file=out)
    for name, meaning in {metric.name: metric.meaning for metric in figures.figures}.items():
        print(f"  {name}: {meaning}", file=out)
    print("\nAnswers verified:", file=out)
    for system, (right, wrong) in figures.answers.items():
        print(f"  {system}: {right} right, {wrong} wrong", file=out)
    print("Seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures.measured.items()), file=out)
    if figures.notes:
        print("Notes:", file=out)
        _print_remarks(figures.notes, out)
    if figures.failures:
        print(f"FAILED: {len(figures.failures)}, the first:", file=out)
        _print_remarks(figures.failures[:SHOWN_FAILURES], out)


def print_verdicts(verdicts: Sequence[Verdict], out: TextIO) -> None:
    """Print what was wanted, what was measured and whether that is enough: what the page says of them."""
    rows = [["goal", "system", "wanted", "measured", "verdict"]]
    for verdict in verdicts:
        met = "met, by the ratio" if verdict.by_ratio else _MET[verdict.met]
        rows.append([verdict.what, verdict.goal.system, verdict.wanted, verdict.measured, met])
    print("\nGoals; a multiple (×) of another system in the same run decides where there is one:", file=out)
    _print_aligned(rows, out)
    missed = sum(verdict.met is False for verdict in verdicts)
    print(f"{sum(verdict.met is True for verdict in verdicts)} met, {missed} NOT MET", file=out)
