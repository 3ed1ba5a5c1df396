"""Which processes exist, who descends from whom, what memory they occupy: read from /proc (proc(5)).

Standard library only: the keeper uses it, too. Refuses to know systems and servers. A process that ends while it is
being read is left out; one that may not be read raises, for a missing figure must not look like a small one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process; `command` is its name and its arguments, `started_ticks` its start since boot (stat field 22)."""

    pid: int
    parent: int
    started_ticks: int
    command: str


def all_processes() -> dict[int, Process]:
    """Return all processes by id; zombies are left out, they occupy nothing and cannot be ended."""
    found: dict[int, Process] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, tail = (entry / "stat").read_text(errors="replace").rpartition(")")
            arguments = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except _GONE:
            continue
        fields = tail.split()
        if fields[0] in "ZX":
            continue
        pid = int(entry.name)
        name = head.partition("(")[2]
        command = f"{name} {arguments}".strip()
        found[pid] = Process(pid=pid, parent=int(fields[1]), started_ticks=int(fields[19]), command=command)
    return found


def descendants(root: int, processes: dict[int, Process]) -> dict[int, Process]:
    """Return children of `root`, their children and so on, without `root` itself."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            found[child.pid] = child
            queue.append(child.pid)
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process's living threads so far, exact to the nanosecond; 0 if it is gone.

    proc(5) counts in ticks of 10 ms, which is too coarse for what idles; schedstat does not.
    """
    total_ns = 0
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except _GONE:
        return 0.0
    for thread in threads:
        try:
            total_ns += int((thread / "schedstat").read_text().split()[0])
        except _GONE:
            continue
    return total_ns / 1e9


def ended_children_seconds(pid: int) -> float:
    """Return the processor time of a process's children that ended and were waited for, with theirs; 0 if it is gone.

    Exact to a tick of 10 ms (proc(5): cutime and cstime).
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except _GONE:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int | None:
    """Return the proportional set size of a process, None if it is gone. Raises PermissionError."""
    try:
        rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
    except _GONE:
        return None
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def mounts_below(directory: Path) -> list[Path]:
    """Return mount points inside `directory`, innermost first (mountinfo, field 5)."""
    lines = (_PROC / "self" / "mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in reversed(points) if directory in point.parents]
