"""Whether what was looked at all the time has grown: the judge of a soak. Pure: it knows figures only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

MOST_MIB = 1.0
"""What server or broker may gain with each 1 000 executions in the second half."""
FLATTER = 0.75
"""The last third may gain no more than so much of what the first gained: what grows steadily is a leak, however slow."""
NOTHING_MIB = 0.1
"""A gain that is no matter, whatever the first third gained."""
FEWEST = 9
"""Looks; fewer are no three parts of anything."""
COUNTS = ("server_files", "broker_files", "mounts", "loops", "processes")


@dataclass(frozen=True)
class Look:
    """What server and broker use at a moment."""

    at_s: float
    executions: int
    server_mib: float
    broker_mib: float
    server_files: int
    broker_files: int
    server_age_s: float
    broker_age_s: float
    mounts: int
    """Those that the broker sees."""
    loops: int
    processes: int


def slope(looks: Sequence[Look], name: str) -> float:
    """How much a figure grew for each 1 000 executions: a straight line through the looks."""
    xs, ys = [each.executions / 1000 for each in looks], [getattr(each, name) for each in looks]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def second_half(looks: Sequence[Look], name: str) -> float:
    """The slope of the second half."""
    return slope(looks[len(looks) // 2 :], name)


def thirds(looks: Sequence[Look], name: str) -> tuple[float, float, float]:
    """The slopes of the first, the second and the last third."""
    a, b = len(looks) // 3, len(looks) - len(looks) // 3
    return slope(looks[:a], name), slope(looks[a:b], name), slope(looks[b:], name)


def grown(looks: Sequence[Look], who: str) -> list[str]:
    """What is wrong with the memory of `who`, which lived all the time: server or broker."""
    if len(looks) < FEWEST or looks[-1].executions == looks[0].executions:
        return [f"{len(looks)} looks are too few to say whether the {who} grows"]
    name, wrong = f"{who}_mib", []
    if looks[-1].at_s > getattr(looks[-1], f"{who}_age_s") + 1:
        wrong.append(f"the {who} ended, though nobody killed it")
    gain = second_half(looks, name)
    if gain > MOST_MIB:
        wrong.append(f"the {who} gains {gain:.2f} MB for each 1 000 executions, more than {MOST_MIB}")
    first, _, last = thirds(looks, name)
    if last > max(first * FLATTER, NOTHING_MIB):
        wrong.append(f"the {who} does not flatten: {first:.2f} MB at first, {last:.2f} MB at last")
    return wrong


def stayed(first: Look, last: Look) -> list[str]:
    """What is left of all that was done: counts that are above what they were."""
    pairs = ((name, getattr(first, name), getattr(last, name)) for name in COUNTS)
    return [f"{name}: {before} at first, {after} at last" for name, before, after in pairs if after > before]


def unreached(share: float, wanted: float) -> list[str]:
    """What is wrong with a load: 0 to 1, that of others left out."""
    return [f"a load of {share:.0%} is not {wanted:.0%}"] if round(share, 2) < wanted else []


def judged(
    first: Look, looks: Sequence[Look], last: Look, *, killed: Collection[str], share: float, wanted: float
) -> list[str]:
    """All that is wrong, a sentence each. `killed`: what was killed and came anew, so that its memory tells nothing."""
    memory = [words for who in ("server", "broker") if who not in killed for words in grown(looks, who)]
    return memory + stayed(first, last) + unreached(share, wanted)
