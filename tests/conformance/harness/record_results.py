"""Runs inside a suite's environment: pytest with the suite's own settings, and a line of JSON per result.

Usage: record_results.py RESULTS PYTEST_ARGUMENT...

Started as a file, not as a `-p` plugin: a plugin would need PYTHONPATH or a file in the environment, and kernels would
see it. The lines are written as they come, so a run that is cut off still tells what it had done and what was left.
"""

import json
import os
import sys
from pathlib import Path
from typing import TextIO

import pytest

REASON_CHARACTERS = 300


class ResultRecorder:
    """Writes {"collected": [...]} once, then {"id":, "phase":, "outcome":, "reason":} per report that counts."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._directory = Path.cwd()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write({"collected": [item.nodeid for item in session.items]})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._report(report, "collect")

    def pytest_runtest_logfinish(self) -> None:
        """A test that changed the directory and left it so would take the suite's own files from later kernels."""
        os.chdir(self._directory)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._report(report, report.when or "call")

    def _report(self, report: pytest.CollectReport | pytest.TestReport, phase: str) -> None:
        self._write({"id": report.nodeid, "phase": phase, "outcome": report.outcome, "reason": _reason(report)})

    def _write(self, line: dict[str, object]) -> None:
        self._sink.write(json.dumps(line) + "\n")
        self._sink.flush()


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """One line: the error itself where pytest has it apart, else the end of its text."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash else report.longreprtext
    lines = text.strip().splitlines() or [""]
    return lines[0 if crash else -1][:REASON_CHARACTERS]


def main(arguments: list[str]) -> int:
    """Returns pytest's exit code."""
    results, *pytest_arguments = arguments
    sys.path[0] = ""  # as `python -m pytest`: suites import their own `tests` package from the current directory
    with Path(results).open("w", encoding="utf-8") as sink:
        return int(pytest.main(pytest_arguments, plugins=[ResultRecorder(sink)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
