"""Cut websockets at random moments: `python -m tests.chaos.cuts --count 1000`. Each output comes once, or a gap tells how much is missing.

Several clients (`tests.chaos.cells`) run cells that print numbers, and are cut in the middle.
"""

from __future__ import annotations

import asyncio
import collections
import random
import sys

from tests.chaos import by_hand
from tests.chaos.actions import Chaos
from tests.chaos.cells import Client
from tests.chaos.history import Violation
from tests.chaos.system import System

CLIENTS = 4


async def cut(system: System, kernels: list[str], count: int, chance: random.Random) -> list[Client]:
    """Cut `count` times; raises when output was lost without a word, or doubled."""
    clients = [Client(system, kernel, random.Random(chance.random())) for kernel in kernels]
    left = [count]

    async def work(client: Client) -> None:
        while left[0] > 0:
            cuts = min(1 + chance.randrange(3), left[0])
            left[0] -= cuts
            await client.one_cell(cuts)
        counted = await client.counted()
        if counted != client.cells:
            raise Violation(f"the kernel ran {counted} cells, and its client saw {client.cells}")

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
    return clients


def run(chaos: Chaos, count: int, chance: random.Random) -> str:
    """Cut `count` times; return what is to be said of it."""
    while chaos.contexts() < CLIENTS:
        chaos.act("claim", 0)
        chaos.add_context(len(chaos.history.sandboxes) - 1)
    kernels = [each for sandbox in chaos.history.sandboxes.values() for each in sandbox.contexts]
    clients = asyncio.run(cut(chaos.system, kernels, count, chance))
    ways = sum((client.cuts for client in clients), collections.Counter())
    cells, told, unsent = (sum(getattr(each, name) for each in clients) for name in ("cells", "told", "unsent"))
    return f"{ways.total()} cuts {dict(ways)} in {cells} cells, {told} of them with a gap that was told; {unsent} were never sent"


if __name__ == "__main__":
    sys.exit(by_hand.counted(__doc__, 1000, run, "each output came once, but for no more than gaps told"))
