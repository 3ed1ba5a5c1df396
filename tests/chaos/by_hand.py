"""What the long runs share: options, a system, chance that can be had again, and what is said at the end."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from tests.chaos.actions import Chaos
from tests.chaos.system import a_system


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return one that knows `--seed`."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    return made


def counted(
    doc: str | None,
    count: int,
    run: Callable[[Chaos, int, random.Random], str],
    promise: str,
    judge: Callable[[Chaos], list[str]] = lambda _: [],
) -> int:
    """Run so often, `count` times if nobody says how often; say what came of it, how soon all was well, what holds.

    Returns the program's status: 1 when `judge` finds something wrong.
    """
    options = parser(doc)
    options.add_argument("--count", type=int, default=count)
    wanted = options.parse_args()
    print(f"seed {wanted.seed}", flush=True)
    with a_system() as system:
        chaos = Chaos(system)
        said = run(chaos, wanted.count, random.Random(wanted.seed))
        chaos.finish()
    for line in (said, chaos.recoveries()):
        if line:
            print(line)
    return verdict(judge(chaos), promise)


def verdict(wrong: list[str], promise: str) -> int:
    """Say what is wrong, or what holds; return the program's status."""
    for each in wrong:
        print(f"FAILED: {each}")
    if not wrong:
        print(promise)
    return int(bool(wrong))
