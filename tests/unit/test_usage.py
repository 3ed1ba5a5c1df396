"""How busy a sandbox was between two looks."""

from __future__ import annotations

import pytest

from jupyter_sandbox import usage_service
from jupyter_sandbox.broker.usage_verbs import UsageReport

pytestmark = pytest.mark.unit


def report(cpu_s, cpus=2.0):
    return UsageReport(
        cpu_s=cpu_s,
        cpus=cpus,
        memory_bytes=None,
        memory_cache_bytes=None,
        memory_total_bytes=1,
        disk_bytes=None,
        disk_total_bytes=1,
    )


@pytest.mark.parametrize(
    ("before", "after", "seconds", "percent"),
    [
        (1.0, 1.0, 1.0, 0.0),
        (1.0, 2.0, 1.0, 50.0),
        (1.0, 3.0, 1.0, 100.0),
        (1.0, 9.0, 1.0, 100.0),  # the clocks of the two looks are not one
        (2.0, 1.0, 1.0, 0.0),
        (None, 1.0, 1.0, None),
        (1.0, None, 1.0, None),
        (1.0, 2.0, 0.0, None),
    ],
)
def test_how_busy_it_was(before, after, seconds, percent):
    assert usage_service.cpu_percent(report(before), report(after), seconds) == percent
