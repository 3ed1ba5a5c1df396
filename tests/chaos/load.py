"""How busy the processors are with what is ours. What others do on the machine is left out, as far as it can be seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path


class Load:
    """From now on. `ours`: the processes whose work counts, with all that comes from them."""

    def __init__(self, ours: Callable[[], Collection[int]]) -> None:
        self._ours = ours
        self._busy, self._there = _ticks()
        self._others_at_first = self._others = others(ours())

    def look(self) -> None:
        """Look what others do. It takes a while, so it is not done each time."""
        self._others = others(self._ours())

    def share(self) -> float:
        """Return the share of the time for which they did something for us, 0 to 1."""
        busy, there = _ticks()
        return max(0, busy - self._busy - max(0, self._others - self._others_at_first)) / max(1, there - self._there)


def _ticks() -> tuple[int, int]:
    """For how long they did something, and have been there."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4] - ticks[7], sum(ticks)


def others(ours: Collection[int]) -> int:
    """Return the time of all processes that are seen, but of these, ourselves, and what comes from them."""
    processes = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            processes[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return of_others(processes, {*ours, os.getpid()})


def of_others(processes: Mapping[int, tuple[int, int]], ours: Collection[int]) -> int:
    """Return the time of all processes but these and what comes from them. `processes`: parent and time of each.

    The time includes that of the children it waited for, so what ends goes over to its parent and is not lost.
    """

    def is_ours(pid: int) -> bool:
        while pid in processes:
            if pid in ours:
                return True
            pid = processes[pid][0]
        return False

    return sum(time for pid, (_, time) in processes.items() if not is_ours(pid))
