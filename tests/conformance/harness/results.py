"""What a suite did, and whether that is what the reviewed exceptions expect: decisions without I/O, but for one reader.

A test that was collected and has no result counts as failed: a suite that dies in the middle must not look shorter.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.errors import ConformanceError
from harness.provisioners import Provisioner

Outcome = Literal["passed", "failed", "skipped"]

SCOPES = ("both", *(str(provisioner) for provisioner in Provisioner))


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """All outcomes of one suite on one provisioner, with the last line of each failure."""

    suite: str
    provisioner: Provisioner
    outcomes: Mapping[str, Outcome]
    reasons: Mapping[str, str] = field(default_factory=dict)
    duration_s: float
    trouble: str = ""  # why the suite itself did not end as it should

    def count(self, outcome: Outcome) -> int:
        return sum(found == outcome for found in self.outcomes.values())

    @property
    def failed_ids(self) -> list[str]:
        return sorted(test for test, outcome in self.outcomes.items() if outcome == "failed")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A result held against the exceptions."""

    result: SuiteResult
    expected: Sequence[str]  # failed, with a reason on file
    unexpected: Sequence[str]  # failed, without one
    stale: Sequence[str]  # on file, but passed or gone

    @property
    def good(self) -> bool:
        return not self.unexpected and not self.result.trouble


@dataclass(frozen=True, kw_only=True)
class Exceptions:
    """The reviewed file: suite -> scope (both, local, sandbox) -> test id -> reason."""

    reasons: Mapping[str, Mapping[str, Mapping[str, str]]]

    def of(self, suite: str, provisioner: Provisioner) -> dict[str, str]:
        """The reasons that count for one suite on one provisioner."""
        scopes = self.reasons.get(suite, {})
        return {**scopes.get("both", {}), **scopes.get(provisioner, {})}


def read_exceptions(path: Path, suites: Iterable[str]) -> Exceptions:
    """Read and check the file: an exception that is misspelt would hide nothing and tell nobody."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConformanceError(f"{path.name}: {error}") from error
    known = set(suites)
    for suite, scopes in document.items():
        if suite not in known:
            raise ConformanceError(f"{path.name}: no suite is called {suite!r}, only {', '.join(sorted(known))}")
        for scope, tests in scopes.items():
            if scope not in SCOPES:
                raise ConformanceError(f"{path.name}: {suite}.{scope} is none of {', '.join(SCOPES)}")
            for test, reason in tests.items():
                if not isinstance(reason, str) or not reason.strip():
                    raise ConformanceError(f"{path.name}: {suite}.{scope}: {test!r} has no reason")
    return Exceptions(reasons=document)


def parse_results(lines: Iterable[str]) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Outcomes and failure reasons from what `record_results.py` wrote; any failed phase makes a test failed."""
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    collected: list[str] = []
    for line in lines:
        entry = json.loads(line)
        if "collected" in entry:
            collected = entry["collected"]
            continue
        test = entry["id"]
        if entry["outcome"] == "failed":
            outcomes[test] = "failed"
            reasons.setdefault(test, f"{entry['phase']}: {entry['reason']}")
        elif outcomes.get(test) != "failed":
            outcomes[test] = entry["outcome"]
    for test in collected:
        if test not in outcomes:
            outcomes[test] = "failed"
            reasons[test] = "never ran to an end"
    return outcomes, reasons


def judge(result: SuiteResult, exceptions: Mapping[str, str]) -> Verdict:
    """Split the failures into expected and unexpected, and find exceptions that have had their day."""
    failed = result.failed_ids
    return Verdict(
        result=result,
        expected=[test for test in failed if test in exceptions],
        unexpected=[test for test in failed if test not in exceptions],
        stale=[] if result.provisioner is Provisioner.LOCAL else _stale(result, exceptions),
    )


def _stale(result: SuiteResult, exceptions: Mapping[str, str]) -> list[str]:
    return sorted(test for test in exceptions if result.outcomes.get(test) in (None, "passed"))


def describe(verdict: Verdict, exceptions: Mapping[str, str], stock_failures: Iterable[str]) -> str:
    """What a reader wants to know about one suite on one provisioner, several lines."""
    result = verdict.result
    also_stock = set(stock_failures)
    lines = [f"{result.suite} on {result.provisioner}: {counts(result)} ({result.duration_s:.0f} s)"]
    if result.trouble:
        lines.append(f"  TROUBLE {result.trouble}")
    for test in verdict.unexpected:
        hint = " [fails on stock as well]" if test in also_stock else ""
        lines.append(f"  UNEXPECTED {test}{hint}\n    {result.reasons.get(test, '')}")
    lines += [f"  exception {test}: {exceptions[test]}" for test in verdict.expected]
    lines += [f"  STALE exception {test}: it passes or is gone, take it out" for test in verdict.stale]
    return "\n".join(lines)


def counts(result: SuiteResult) -> str:
    """`passed/failed/skipped` in words."""
    return f"{result.count('passed')} passed, {result.count('failed')} failed, {result.count('skipped')} skipped"


def table(verdicts: Sequence[Verdict]) -> str:
    """The end of a run: a row per suite and provisioner."""
    head = ("suite", "provisioner", "passed", "failed", "skipped", "expected", "unexpected", "seconds", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for verdict in verdicts:
        result = verdict.result
        numbers = [result.count("passed"), result.count("failed"), result.count("skipped")]
        numbers += [len(verdict.expected), len(verdict.unexpected), round(result.duration_s)]
        word = "ok" if verdict.good else ("TROUBLE" if result.trouble else "FAILED")
        rows.append((result.suite, str(result.provisioner), *map(str, numbers), word))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(_row(row, widths) for row in rows)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    aligned = (
        cell.rjust(width) if 2 <= column <= 7 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(aligned).rstrip()
