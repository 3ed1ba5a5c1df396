"""Plots of figures as SVG files, made with matplotlib. The same figures make the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from benchmarks.report import number
from benchmarks.spread import slow_ms, slow_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.records import Figures

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "jupyter-sandbox", "font.size": 9, "axes.spines.top": False}
_STYLE |= {"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}
_COLORS = {
    "local": "#9a9a9a",
    "local-nodelay": "#5f5f5f",
    "embedded": "#1f6fb4",
    "embedded-cold": "#7db3de",
    "embedded-data": "#7db3de",
    "docker": "#d9541e",
    "docker-cold": "#f0a987",
    "docker-data": "#f0a987",
    "gateway": "#3d8f4b",
}
_OTHER = "#444444"


def _systems(figures: Figures, metrics: Sequence[str]) -> list[str]:
    return [system for system in figures.systems if any(system in figures.of(name) for name in metrics)]


def _logarithmic(axes: Axes) -> None:
    """Make the axis logarithmic, from 1 on in every plot, so that lengths compare."""
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(axes: Axes, figures: Figures, metric: str, title: str, *, log: bool) -> None:
    """Draw medians as bars, p95 as ticks."""
    by_system = figures.of(metric)
    systems = [system for system in figures.systems if system in by_system]
    found = figures.metric(metric)
    axes.set_title(title, fontsize=9, loc="left")
    for row, system in enumerate(systems):
        summary = by_system[system].summary
        axes.barh(row, summary.p50, color=_COLORS.get(system, _OTHER), height=0.65)
        if summary.n > 2:
            axes.plot([summary.p95], [row], marker="|", color="black", markersize=9)
        axes.annotate(f" {number(summary.p50)}", (max(summary.p50, summary.p95), row), va="center", fontsize=8)
    axes.set_yticks(range(len(systems)), systems)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if log and systems:
        _logarithmic(axes)
    unit = found.unit if found else ""
    axes.set_xlabel(f"{unit}, {'more' if found and found.more_is_better else 'less'} is better")


def _grid(figures: Figures, panels: Sequence[tuple[str, str]], *, log: bool = False) -> Canvas:
    present = [(metric, title) for metric, title in panels if figures.of(metric)]
    rows = max(1, (len(present) + 1) // 2)
    canvas = Canvas(figsize=(9, 0.6 + 2.1 * rows), layout="constrained")
    for axes, (metric, title) in zip(canvas.subplots(rows, 2, squeeze=False).flat, present, strict=False):
        _bars(axes, figures, metric, title, log=log)
    for axes in canvas.axes[len(present) :]:
        axes.remove()
    return canvas


def latency(figures: Figures) -> Canvas:
    """Draw what one user waits for, on a logarithmic scale."""
    panels = [
        ("start.total", "New kernel to first result"),
        ("exec.round_trip", "One execution"),
        ("notebook.wall", "Small notebook, nbclient"),
        ("context.second", "Second kernel in a sandbox"),
    ]
    return _grid(figures, panels, log=True)


def throughput(figures: Figures) -> Canvas:
    """Draw what many users get."""
    panels = [
        ("load.ready.rps", "25 users, kernels exist"),
        ("load.new.rps", "25 users, kernels made in the run"),
        ("churn.kernels", "Kernels created, used, destroyed"),
        ("idle.cpu", "Server and 25 idle kernels"),
    ]
    return _grid(figures, panels)


def memory(figures: Figures) -> Canvas:
    """Draw memory of idle kernels."""
    panels = [
        ("memory.per_kernel", "One more idle kernel"),
        ("memory.with_data", "The same, numpy, pandas, matplotlib imported"),
        ("memory.all_in", "With its share of what stands"),
        ("memory.standing", "What stands without a kernel"),
    ]
    return _grid(figures, panels)


def starts(figures: Figures) -> Canvas:
    """Draw each single start as a dot: a second mode would show as a second cloud."""
    by_system = figures.of("start.total")
    systems = _systems(figures, ["start.total"])
    canvas = Canvas(figsize=(9, 0.8 + 0.4 * len(systems)), layout="constrained")
    axes = canvas.subplots()
    for row, system in enumerate(systems):
        samples = by_system[system].samples
        spread = [row + 0.22 * ((index * 7) % 11 - 5) / 5 for index in range(len(samples))]
        axes.scatter(samples, spread, s=14, color=_COLORS.get(system, _OTHER), alpha=0.7, linewidths=0)
    axes.set_yticks(range(len(systems)), systems)
    axes.invert_yaxis()
    _logarithmic(axes)
    axes.set_xlabel("ms from POST /api/kernels to the first result, each start a dot")
    return canvas


def _histogram(axes: Axes, figures: Figures, system: str) -> None:
    """Draw how many starts took how long, and the line behind which one counts as slow."""
    samples = figures.of("spread.start")[system].samples
    limit_ms = slow_ms(samples)
    axes.hist(samples, bins=60, range=(0, max(1.5 * limit_ms, *samples)), color=_COLORS.get(system, _OTHER))
    axes.axvline(limit_ms, color="black", linewidth=0.8, linestyle=":")
    axes.set_title(
        f"{system}: {len(samples)} starts, {number(slow_percent(samples))} % right of the line", fontsize=9, loc="left"
    )
    axes.set_xlabel("ms from POST to first result")
    axes.set_ylabel("starts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def spread(figures: Figures) -> Canvas:
    """Draw histograms of many starts."""
    systems = _systems(figures, ["spread.start"])
    rows = max(1, (len(systems) + 1) // 2)
    canvas = Canvas(figsize=(9, 0.4 + 2.0 * rows), layout="constrained")
    for axes, system in zip(canvas.subplots(rows, 2, squeeze=False).flat, systems, strict=False):
        _histogram(axes, figures, system)
    for axes in canvas.axes[len(systems) :]:
        axes.remove()
    if not systems:
        canvas.text(0.5, 0.5, "not measured in this run", ha="center")
    return canvas


def scaling(figures: Figures) -> Canvas:
    """Draw what the next kernel, a request and a kernel's memory cost as more kernels live."""
    panels = [
        ("scale.start", "Start of the next kernel"),
        ("scale.latency", "One request, all kernels busy"),
        ("scale.rps", "Requests per second, all kernels busy"),
        ("scale.memory", "Memory per kernel"),
    ]
    canvas = Canvas(figsize=(9, 6), layout="constrained")
    for axes, (name, title) in zip(canvas.subplots(2, 2).flat, panels, strict=True):
        steps, found = figures.steps(name), figures.metric(name)
        axes.set_title(title, fontsize=9, loc="left")
        for system in figures.systems:
            points = [(step, by[system].summary.p50) for step in steps if system in (by := figures.of(name, step))]
            if points:
                color = _COLORS.get(system, _OTHER)
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=color, label=system)
        axes.set_xlabel("kernels")
        axes.set_ylabel(found.unit if found else "")
        axes.set_ylim(bottom=0)
        axes.set_xticks(steps)
    if handles := canvas.axes[0].get_legend_handles_labels()[0]:
        canvas.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return canvas


PLOTS: dict[str, Callable[[Figures], Canvas]] = {
    "latency": latency,
    "throughput": throughput,
    "scaling": scaling,
    "memory": memory,
    "starts": starts,
    "spread": spread,
}
"""By the name of the file."""


def write(figures: Figures, directory: Path) -> None:
    """Draw all plots into `directory`."""
    with mpl.rc_context(_STYLE):
        for name, draw in PLOTS.items():
            draw(figures).savefig(directory / f"{name}.svg", metadata={"Date": None})
