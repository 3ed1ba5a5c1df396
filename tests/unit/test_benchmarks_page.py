"""docs/benchmarks.md says what its figures say, and plots can be drawn from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import page, records, spread
from benchmarks.metrics import Results

pytestmark = pytest.mark.unit

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"
FIGURES = DOCS / "benchmarks/figures.jsonl"


@pytest.fixture(scope="module")
def figures() -> records.Figures:
    return records.figures(records.parse(FIGURES.read_text()))


def test_the_page_is_generated_from_the_figures_beside_it(figures):
    """Otherwise: `python -m benchmarks --write-docs docs/benchmarks/figures.jsonl`."""
    text = PAGE.read_text()
    assert page.replaced(text, page.generated(figures)) == text


def test_generating_twice_changes_nothing(figures):
    once = page.replaced(PAGE.read_text(), page.generated(figures))
    assert page.replaced(once, page.generated(figures)) == once


@pytest.mark.parametrize("text", ["no markers", page.BEGIN, f"{page.BEGIN}{page.END}{page.BEGIN}{page.END}"])
def test_a_page_needs_one_pair_of_markers(text):
    with pytest.raises(ValueError, match="one pair of markers"):
        page.replaced(text, "x")


def test_what_is_written_by_hand_stays():
    text = page.replaced(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", "new")
    assert text == f"before\n{page.BEGIN}\n\nnew\n\n{page.END}\nafter\n"


def test_every_answer_was_checked_and_ours_were_right(figures):
    """Stock kernels share one history file: under load one of them prints that it is locked, between its results."""
    assert figures.answers
    wrong = {system for system, (_, wrong) in figures.answers.items() if wrong}
    assert wrong <= {"local", "local-nodelay"}


def test_the_page_names_no_place_of_the_machine_that_was_measured():
    assert re.findall(r"(?<![\w.$}])/(?:root|home|work|tmp|mnt)\b", FIGURES.read_text()) == []


def test_every_plot_is_drawn_shown_and_committed(figures, tmp_path):
    from benchmarks import plots

    plots.write(figures, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == set(re.findall(r"\(benchmarks/(\w+\.svg)\)", PAGE.read_text()))
    assert drawn == {path.name for path in FIGURES.parent.glob("*.svg")}


def test_a_quick_look_is_said_to_be_one_and_not_judged():
    metric = {"name": "idle.cpu", "unit": "% of a core", "meaning": "idle"}
    figure = {"n": 1, "p50": 0.5, "p95": 0.5, "minimum": 0.5, "maximum": 0.5, "mean": 0.5, "ratio": {}}
    machine = dict.fromkeys(["cpu_count", "cpu_model", "system", "kernel", "python", "user"], "x")
    machine |= {"memory_mib": 1024, "packages": {}}
    run = {"started_at": "2026-01-01", "machine": machine}
    measured = {"kind": "metric", "metric": metric, "system": "embedded", **figure}
    end = {"kind": "measured", "measurement": "idle", "seconds": 1.0}
    judged, quick = (
        page.generated(records.figures([records.header(run | {"quick": quick}, {"embedded": "ours"}), measured, end]))
        for quick in (False, True)
    )
    assert "| 0.50 % of a core | yes |" in judged
    assert "| yes |" not in quick
    assert "not to be quoted" in quick


def test_histograms_of_many_starts_tell_their_number_and_the_share_of_slow_ones(tmp_path):
    from benchmarks import plots

    found = Results(systems=["embedded"])
    for value in [25.0] * 99 + [70.0]:
        found.add(spread.START, "embedded", value)
    run = {"started_at": "2026-01-01", "quick": False, "machine": {"packages": {}}}
    block = records.block("spread", found, spread.METRICS)
    plots.write(records.figures([records.header(run, {"embedded": "ours"}), *block]), tmp_path)
    assert "embedded: 100 starts, 1.00 % right of the line" in (tmp_path / "spread.svg").read_text()


def test_plots_of_figures_with_gaps_are_drawn(tmp_path):
    from benchmarks import plots

    run = {"started_at": "2026-01-01", "quick": True, "machine": {"packages": {}}}
    plots.write(records.figures([records.header(run, {"local": "stock"})]), tmp_path)
    assert len(list(tmp_path.iterdir())) == len(plots.PLOTS)
