"""How much memory and disk the host has, and how much of it can still be had. Sources: proc(5), statvfs(3)."""

from __future__ import annotations

import shutil
from pathlib import Path

from jupyter_sandbox.capacity import Space

_MEMINFO = Path("/proc/meminfo")


def memory(text: str | None = None) -> Space:
    """Return the host's memory; caches that can be dropped are free. `text`: of /proc/meminfo, if not now's."""
    values = dict(line.split(":", 1) for line in (text or _MEMINFO.read_text()).splitlines() if ":" in line)
    total, free = (int(values[name].split()[0]) >> 10 for name in ("MemTotal", "MemAvailable"))
    return Space(total_mib=total, free_mib=free)


def disk(directory: Path) -> Space:
    """Return the blocks of a directory's file system, but for those that only root may have."""
    usage = shutil.disk_usage(directory)
    return Space(total_mib=(usage.used + usage.free) >> 20, free_mib=usage.free >> 20)
