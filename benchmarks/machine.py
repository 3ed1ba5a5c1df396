"""The machine a run happened on: facts for the record, and waiting until it is quiet. No names of hosts or paths."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.systems import installed_version

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGES = (
    "jupyter-sandbox",
    "jupyter_server",
    "jupyter_client",
    "ipykernel",
    "ipython",
    "pyzmq",
    "tornado",
    "traitlets",
    "orjson",
    "aiohttp",
)
QUIET_IDLE_SHARE = 0.9
QUIET_WINDOW_S = 0.25


def _proc_field(file: str, name: str) -> str:
    """Return the value of the first line `name : value` in a file of /proc."""
    for line in (Path("/proc") / file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def facts() -> Mapping[str, object]:
    """Return what a reader needs to judge the figures."""
    return {
        "cpu_count": os.cpu_count(),
        "cpu_model": _proc_field("cpuinfo", "model name"),
        "memory_mib": int(_proc_field("meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "unprivileged",
        "packages": {name: found for name in _PACKAGES if (found := installed_version(name)) is not None},
    }


def condition() -> Mapping[str, float]:
    """Return how busy and how fast the machine is just now: the probe tells slow phases and slow machines apart."""
    best_s = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        sum(range(1_000_000))
        best_s = min(best_s, time.perf_counter() - begin)
    return {"load_average": os.getloadavg()[0], "cpu_probe_ms": best_s * 1e3}


def _cpu_fields() -> list[int]:
    """Return the CPU time since boot by kind, in ticks, of which none counts twice (proc_stat(5))."""
    return [int(word) for word in (Path("/proc") / "stat").read_text().split("\n", 1)[0].split()[1:9]]


def _cpu_ticks() -> tuple[int, int]:
    """Return idle and total CPU time since boot."""
    fields = _cpu_fields()
    return fields[3] + fields[4], sum(fields)


def busy_seconds() -> float:
    """Return the processor time since boot that this machine spent, on whatever it was."""
    fields = _cpu_fields()
    return (sum(fields) - fields[3] - fields[4] - fields[7]) / os.sysconf("SC_CLK_TCK")


async def quiet(timeout_s: float, *, window_s: float = QUIET_WINDOW_S) -> None:
    """Wait until the CPUs are nearly idle, so that a sample does not pay for the one before; gives up after a while.

    They must be so for `window_s`, after a pause that is as long.
    """
    end = time.monotonic() + timeout_s
    await asyncio.sleep(window_s)
    share = 0.0
    while share < QUIET_IDLE_SHARE and time.monotonic() < end:
        idle_before, total_before = _cpu_ticks()
        await asyncio.sleep(window_s)
        idle, total = _cpu_ticks()
        share = (idle - idle_before) / max(1, total - total_before)
