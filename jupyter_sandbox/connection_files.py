"""Connection files of sandbox kernels that are gone: what a killed server leaves in Jupyter's runtime directory.

They hold the kernel's key and the paths of its sockets, which the broker removes with the kernel. A file whose sockets
are not there is nobody's; a kernel that starts again writes its own anew. Other people's files are not looked at.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_BYTES: Final = 65_536
_AGE_S: Final = 60
"""A younger file may be that of a kernel which is just starting."""


def stale(runtime: Path, sockets: Path) -> Iterator[Path]:
    """Yield the connection files in `runtime` whose kernel had sockets in the directory `sockets`, and has none."""
    for path in sorted(runtime.glob("kernel-*.json")):
        try:
            status = path.lstat()
            if status.st_size > _MAX_BYTES or _age_s(status.st_mtime) < _AGE_S:
                continue
            prefix = str(json.loads(path.read_text())["ip"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
        seat = prefix.removeprefix(f"{sockets}/")
        if seat != prefix and seat.isalnum() and not any(sockets.glob(f"{seat}-*")):
            yield path


def _age_s(modified: float) -> float:
    return time.clock_gettime(time.CLOCK_REALTIME) - modified
