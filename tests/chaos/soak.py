"""As long as one likes: `python -m tests.chaos.soak --minutes 60`. What is used is written down while it goes on.

A line of JSON for each look, at the end a table and a verdict: what grew for each 1 000 executions, whether anything is left,
and whether the load was reached. The status is 1 when a figure is not what `tests.chaos.growth` says it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.chaos import by_hand
from tests.chaos.actions import Chaos
from tests.chaos.growth import COUNTS, FEWEST, Look, judged, second_half, stayed, thirds
from tests.chaos.load import Load
from tests.chaos.steady import Steady
from tests.chaos.system import READY_S, System, a_system, children
from tests.conftest import broker_pid, wait_until
from tests.faults.test_churn import mounts
from tests.faults.test_disks import loops

FAULTS = {
    "server": ("kill_server",),
    "broker": ("kill_broker", "kill_broker_of_paused"),
    "zygote": ("kill_zygote",),
    "kernel": ("kill_kernel",),
    "agent": ("kill_agent",),
}
EVERY_S = 10
STILL_S = 2
WARM = 3
"""Two of the template that is used, and one of `python`."""


def look(system: System, executions: int, began: float) -> Look:
    """Look at everything that could grow."""
    server, broker = system.server.process.pid, broker_pid() or 0
    return Look(
        at_s=round(time.monotonic() - began, 1),
        executions=executions,
        server_mib=resident_mib(server),
        broker_mib=resident_mib(broker),
        server_files=files(server),
        broker_files=files(broker),
        server_age_s=age_s(server),
        broker_age_s=age_s(broker),
        mounts=mounts(broker) if broker else 0,
        loops=len(loops(system.tree.directory)),
        processes=len(system.tree.processes()) + len(children(server)),
    )


def resident_mib(pid: int) -> float:
    """The memory of a process that no other has, MiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return round(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024, 2)


def files(pid: int) -> int:
    """How many files it has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def age_s(pid: int) -> float:
    """How long it has been there."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"), 1)


def ours(system: System) -> set[int]:
    """The processes whose work is the load."""
    return {system.server.process.pid, broker_pid() or 0, *system.tree.processes()}


def settle(chaos: Chaos) -> None:
    """Give everything back, and wait until nothing is there but warm workers."""
    chaos.finish()
    chaos.act("claim", 0)  # a broker that came after a kill keeps none warm of a template that nobody used since
    chaos.finish()
    wait_until(lambda: len(chaos.system.tree.records()) == WARM and not chaos.system.orphans(), READY_S)


def baseline(system: System, began: float) -> Look:
    """The look before all that is done, when all of it is there that is there from then on: nothing comes any more."""

    def counts() -> list[int]:
        seen = look(system, 0, began)
        return [getattr(seen, name) for name in COUNTS]

    before: list[int] = []
    while before != (before := counts()):
        time.sleep(STILL_S)
    return look(system, 0, began)


def settled(system: System, executions: int, began: float, first: Look) -> Look:
    """The look after the end, as soon as nothing is left, or when there was time enough for that."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not stayed(first, look(system, executions, began)), READY_S)
    return look(system, executions, began)


def parsed() -> argparse.Namespace:
    """What is wanted."""
    parser = by_hand.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--faults", type=float, default=0.05, help="how many of 1 actions kill something")
    parser.add_argument(
        "--kill",
        nargs="+",
        choices=FAULTS,
        default=["zygote", "kernel", "agent"],
        help="what is killed; server and broker live, unless they are named, so that it is seen whether they grow",
    )
    parser.add_argument(
        "--load",
        type=float,
        default=0.7,
        help="how busy the processors are to be, 0 to 1, with what is ours: a user beside it executes as often as that takes",
    )
    parser.add_argument("--output", type=Path, default=Path("soak.jsonl"))
    return parser.parse_args()


def main() -> int:
    """Run, and say what came of it; raises when something was lost or doubled, 1 when a figure is not what it must be."""
    options = parsed()
    chance = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    killing = [action for victim in options.kill for action in FAULTS[victim]]
    gentle = [action for action in Chaos.ACTIONS if not action.startswith("kill_")]
    looks: list[Look] = []
    with a_system() as system, options.output.open("w") as output:
        chaos = Chaos(system)
        chaos.act("claim", 0)  # from then on there are warm workers of its template
        chaos.act("add_context", 0)  # and the process's one context of ZeroMQ, with its descriptor
        settle(chaos)
        first = baseline(system, time.monotonic())
        began = looked = time.monotonic()
        load, steady = Load(lambda: ours(system)), Steady(chaos, options.load)
        with steady.at_work(load):
            while time.monotonic() - began < options.minutes * 60:
                kind = killing if chance.random() < options.faults else gentle
                chaos.act(chance.choice(kind), chance.randrange(1 << 20))
                steady.look()
                del chaos.history.steps[:-200]
                if time.monotonic() - looked > EVERY_S:
                    looked = time.monotonic()
                    load.look()
                    looks.append(look(system, chaos.executions + steady.executions, began))
                    print(json.dumps(asdict(looks[-1])), file=output, flush=True)
            load.look()
            share, executions = load.share(), chaos.executions + steady.executions
        settle(chaos)
        wait_until(lambda: len(system.audited("sandbox_ended")) >= len(chaos.history.ever))
        chaos.history.audited(system.audited("sandbox_claimed"), system.audited("sandbox_ended"))
        last = settled(system, executions, began, first)
    print(f"{executions} executions, {len(chaos.history.ever)} sandboxes, processors {share:.0%} busy with them")
    print(f"the user beside it waited {steady.worst_s:.2f} s at most")
    print(chaos.recoveries())
    for name in ("server_mib", "broker_mib", *COUNTS):
        print(f"{name:14}{getattr(first, name):>10} at first{getattr(last, name):>10} at last   {trend(looks, name)}")
    wrong = judged(first, looks, last, killed=options.kill, share=share, wanted=options.load)
    return by_hand.verdict(wrong, "nothing was lost, doubled or left, and nothing grows")


def trend(looks: list[Look], name: str) -> str:
    """How a figure grew in the second half, and in each third."""
    if len(looks) < FEWEST:
        return ""
    parts = ", ".join(f"{each:+.3f}" for each in thirds(looks, name))
    return f"{second_half(looks, name):+.3f} for each 1 000 executions (by thirds {parts})"


if __name__ == "__main__":
    sys.exit(main())
