"""What is written about metrics and events, the alert rules and the dashboard: all of it exists, and nothing is left out."""

from __future__ import annotations

import json
import re

import pytest
from jupyter_events import yaml
from prometheus_client.metrics import MetricWrapperBase

from jupyter_sandbox import errors, events, metrics
from jupyter_sandbox.pool_metrics import PoolMetrics
from tests.unit.test_docs import DOCS, page

pytestmark = pytest.mark.unit

ALERTS = yaml.load(DOCS / "monitoring" / "alerts.yml")
DASHBOARD = json.loads((DOCS / "monitoring" / "dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = {target["expr"]: panel["title"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
EXPRESSIONS = [*(rule["expr"] for rule in RULES), *PANELS]

_METRIC = re.compile(r"(jupyter_sandbox_\w+)(?:\{([^}]*)\})?")
_SELECTOR = re.compile(r'(\w+)=(~?)"([^"]*)"')
_GROUPED = re.compile(r"(?:by|on) \(([^)]*)\)")


def known() -> dict[str, set[str]]:
    """The names of all metrics as they are documented, with their labels."""
    found = {}
    for metric in (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)):
        suffix = "_total" if metric._type == "counter" else ""
        found[f"{metric._name}{suffix}"] = set(metric._labelnames)
    for family in PoolMetrics(lambda: None).describe():
        found[family.name] = set(family._labelnames)
    return found


METRICS = known()
VALUES = {
    "origin": set(events.Origin),
    "means": set(events.Means),
    "outcome": {*events.ExecutionEnd, *events.CommandOutcome},
    "reason": {*events.SandboxEnd, *events.KernelEnd},
    "code": set(errors.codes()),
    "state": {"idle", "claimed", "passing"},
    "kind": {"start", "restart", "pause", "resume"},
}
"""What a label can be, where we know it."""


def base(name: str) -> str:
    """A metric's name without what a histogram appends."""
    return re.sub(r"_(bucket|count|sum)$", "", name)


def test_the_table_of_metrics_is_what_there_is():
    rows = re.findall(r"^\| `(jupyter_sandbox_\w+)` \|([^|]*)\|", page("monitoring.md"), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == METRICS


def test_the_table_of_events_is_what_there_is():
    section = page("monitoring.md").partition("## Events")[2].partition("## Metrics")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == [kind.name for kind in events.ALL]


@pytest.mark.parametrize("kind", [events.SandboxEnd, events.KernelEnd])
def test_the_page_names_every_reason(kind):
    assert [reason for reason in kind if f"`{reason}`" not in page("monitoring.md")] == []


def test_the_table_of_alerts_is_the_file():
    rows = re.findall(r"^\| `(Sandbox\w+)` \|", page("monitoring.md"), re.MULTILINE)
    assert rows == [rule["alert"] for rule in RULES]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what(rule):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    grouped = {name.strip() for names in _GROUPED.findall(rule["expr"]) for name in names.split(",")}
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    labels = {label for name, _ in _METRIC.findall(rule["expr"]) for label in METRICS[base(name)]}
    assert named <= grouped | labels


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_metrics_labels_and_values_that_exist(expression):
    found = _METRIC.findall(expression)
    assert found
    for name, selectors in found:
        assert base(name) in METRICS, name
        for label, is_pattern, value in _SELECTOR.findall(selectors):
            assert label in METRICS[base(name)] | {"instance"}
            if label in VALUES:
                assert set(value.split("|") if is_pattern else [value]) <= VALUES[label]
    labels = {label for name, _ in found for label in METRICS[base(name)]} | {"instance", "le"}
    for names in _GROUPED.findall(expression):
        assert {name.strip() for name in names.split(",")} <= labels
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_on_the_dashboard():
    shown = {base(name) for expression in PANELS for name, _ in _METRIC.findall(expression)}
    assert shown == set(METRICS)


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in DASHBOARD["panels"]})
