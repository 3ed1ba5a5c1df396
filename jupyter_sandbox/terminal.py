"""What the command line shows on a terminal: words of sandboxes that cannot command it, sizes, and progress.

Whatever a sandbox wrote may hold sequences that move the cursor, rename the window or type for the person.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

_QUICK_S: Final = 0.5
"""What is done sooner shows no progress."""
_REDRAW_S: Final = 0.1
_BAR: Final = 24


class Help(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of an epilog as they are."""


def line(text: str) -> str:
    """Return text on one line, with escapes for what is no printable character."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def lines(text: str) -> str:
    """The same for text of several lines, with tabs."""
    return "".join(each if each in "\n\t" else line(each) for each in text)


def size(number: int) -> str:
    """Return a number of bytes for people."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


class Progress:
    """A bar for what takes long, on standard error if that is a terminal. A context manager: it is gone at the end."""

    def __init__(self, total: int | None) -> None:
        """`total`: how many bytes there will be, if that is known."""
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._drawn = self._began + _QUICK_S - _REDRAW_S
        self._is_shown = False
        self._is_wanted = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def add(self, number: int) -> None:
        """So many bytes more are done."""
        self._done += number
        now = time.monotonic()
        if self._is_wanted and now - self._drawn >= _REDRAW_S:
            self._drawn, self._is_shown = now, True
            sys.stderr.write(f"\r{self._words(now - self._began)}\x1b[K")
            sys.stderr.flush()

    def _words(self, passed_s: float) -> str:
        rate = f"{size(self._done)}, {size(int(self._done / passed_s))}/s"
        if not self._total:
            return rate
        share = min(self._done / self._total, 1.0)
        filled = int(share * _BAR)
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}, {rate}"
