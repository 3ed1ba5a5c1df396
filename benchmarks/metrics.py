"""What was measured: samples per metric and system, right and wrong answers, and their summaries. Pure, no I/O."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A quantity; `name` is `measurement.quantity` and never changes, so that files of several runs can be compared.

    `at`: with how many kernels it was measured, for quantities that are measured with several numbers; else 0.
    """

    name: str
    unit: str
    meaning: str
    more_is_better: bool = False
    at: int = 0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The distribution of one metric of one system."""

    n: int
    p50: float
    p95: float
    minimum: float
    maximum: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that happened to a system during a measurement."""

    system: str
    measurement: str
    text: str


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile by linear interpolation between the two nearest ranks; `share` is 0 to 1."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summarize(values: Sequence[float]) -> Summary:
    """Summarize at least one sample."""
    return Summary(
        n=len(values),
        p50=percentile(values, 0.5),
        p95=percentile(values, 0.95),
        minimum=min(values),
        maximum=max(values),
        mean=math.fsum(values) / len(values),
    )


@dataclass(kw_only=True)
class Results:
    """Everything a run found out about `systems`; measurements add, reports read."""

    systems: Sequence[str]
    samples: dict[Metric, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    failures: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)

    def add(self, metric: Metric, system: str, value: float) -> None:
        """Add one sample."""
        self.samples[metric][system].append(value)

    def check(self, system: str, measurement: str, *, expected: str, actual: str) -> bool:
        """Compare an answer with the one expected, count it, and return whether it is right."""
        return self.judge(system, measurement, is_right=actual == expected, expected=expected, actual=actual)

    def judge(self, system: str, measurement: str, *, is_right: bool, expected: str, actual: str) -> bool:
        """Count an answer that was compared already; a wrong one is a failure. Return whether it is right."""
        if is_right:
            self.right[system] += 1
            return True
        self.wrong[system] += 1
        self.fail(system, measurement, f"expected {expected!r}, got {actual[:200]!r}")
        return False

    def fail(self, system: str, measurement: str, text: str) -> None:
        """Remember something that must not happen; the run ends with an error."""
        self.failures.append(Remark(system=system, measurement=measurement, text=text))

    def note(self, system: str, text: str, measurement: str = "run") -> None:
        """Remember something the reader of the figures should know."""
        self.notes.append(Remark(system=system, measurement=measurement, text=text))

    def failure_count(self, system: str) -> int:
        """Return how often something failed on this system so far."""
        return sum(failure.system == system for failure in self.failures)

    def summaries(self, metric: Metric) -> dict[str, Summary]:
        """Return the summary of each system that has samples, in the order of the systems."""
        samples = self.samples[metric]
        return {system: summarize(samples[system]) for system in self.systems if system in samples}
