"""A wall clock that can be set, for the Python processes that are started with it. Their monotonic clock goes on as it is.

A library of our own (`clock.c`) stands between them and the system. Kernels have the machine's clock: a worker's
environment is its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class WallClock:
    """It is right at first. Raises CalledProcessError or FileNotFoundError where there is no C compiler."""

    def __init__(self, directory: Path) -> None:
        self._library, self._offset = directory / "clock.so", directory / "clock"
        subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", self._library, _SOURCE], check=True)
        self._offset.write_bytes(bytes(8))
        self.offset_s = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment that is to have this clock."""
        return {"LD_PRELOAD": str(self._library), "JUPYTER_SANDBOX_TEST_CLOCK": str(self._offset)}

    def set(self, offset_s: int) -> None:
        """Set it so much before (more than 0) or behind the right time."""
        file = os.open(self._offset, os.O_WRONLY)
        try:
            os.pwrite(file, offset_s.to_bytes(8, sys.byteorder, signed=True), 0)  # in one: they have it mapped
        finally:
            os.close(file)
        self.offset_s = offset_s
