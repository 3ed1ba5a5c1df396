"""Where kernels' connection files lie in a worker: what `%connect_info` shows, and what other programs' kernels read.

There is place for some hundreds, so who sees a kernel end removes them.
"""

from __future__ import annotations

import contextlib
import os

DIRECTORY = "/run"


def of(kernel: str) -> str:
    """Return the path of a kernel's file."""
    return f"{DIRECTORY}/kernel-{kernel}.json"


def behind(path: str) -> str:
    """Return the path of the file for a kernel that has somebody of ours in front of it, whose own is at `path`."""
    return f"{path.removesuffix('.json')}-own.json"


def forget(kernel: str) -> None:
    """Remove those of a kernel that has ended; quiet when there are none, or something else is there."""
    for path in (of(kernel), behind(of(kernel))):
        with contextlib.suppress(OSError):
            os.unlink(path)
