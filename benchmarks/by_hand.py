"""What programs share that measure one system outside of a run: which system, what went wrong, the exit status."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from benchmarks.server import NotInstalledError
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from benchmarks.metrics import Results


def parser(module: str, doc: str | None, *, system: str) -> argparse.ArgumentParser:
    """Return a parser that knows `--system`, by default `system`."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc)
    made.add_argument(
        "--system",
        default=system,
        choices=BY_NAME,
        metavar="NAME",
        help=f"a system of `python -m benchmarks --help` (default: {system})",
    )
    return made


def tell(results: Results) -> int:
    """Print what is remarkable; return how much of it is a failure."""
    for remark in (*results.failures, *results.notes):
        print(remark.text, file=sys.stderr)
    return len(results.failures)


def exit_status(measuring: Coroutine[object, object, int]) -> int:
    """Measure; return 0, 1 if something was wrong, 2 if the system cannot run here."""
    try:
        return min(1, asyncio.run(measuring))
    except NotInstalledError as error:
        print(error, file=sys.stderr)
        return 2
