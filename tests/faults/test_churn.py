"""Many starts and ends leave the machine as it was."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from tests.conftest import broker_pid, eventually

from .conftest import Tree, claim, status, until
from .test_disks import loops

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root]

LIVES = 500
AT_ONCE = 3


def figures(tree: Tree) -> dict[str, object]:
    """Return all that could grow, but for the ids of the one warm worker."""
    pid = broker_pid()
    assert pid is not None
    return {
        "loop devices": len(loops(tree.directory)),
        "mounts": mounts("self"),
        "mounts of the broker": mounts(pid),
        "processes": len(tree.processes()),
        "left": len(tree.left()),
        "directories": sorted(
            str(path.relative_to(tree.directory)) for path in tree.directory.rglob("*") if path.is_dir()
        ),
        "records": len(tree.records()),
        "children of the broker": len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
    }


def mounts(pid: int | str) -> int:
    """Return how many mounts a process sees, but for those of a container engine that works beside us."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sum(not re.search(r"/overlay2/|/containers/|/netns/", line) for line in lines)


def descriptors() -> int:
    return len(os.listdir(f"/proc/{broker_pid()}/fd"))


async def one_life(number: int) -> None:
    """Claim, start a kernel in every other sandbox, and leave in one of three ways."""
    lease = await claim()
    if number % 2:
        request = verbs.StartKernel(
            sandbox=lease.sandbox, seat=secrets.token_hex(6), argv=None, env={}, cwd=None, key="k"
        )
        await client.call(request, verbs.KernelStarted)
    if number % 3:
        await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done)
    lease.close()


async def _is_quiet() -> bool:
    now = await status()
    return (now.claimed, now.warm) == (0, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_five_hundred_lives_leave_the_machine_as_it_was(tree):
    tree.start()
    for number in range(AT_ONCE):  # what is made once is made now
        await one_life(number)
    await until(_is_quiet)
    await eventually(lambda: len(tree.records()) == 1)
    before, open_before = figures(tree), descriptors()
    numbers = iter(range(LIVES))

    async def live() -> None:
        for number in numbers:
            await one_life(number)

    await asyncio.gather(*(live() for _ in range(AT_ONCE)))
    await until(_is_quiet)
    await eventually(lambda: len(tree.records()) == 1)
    try:
        await eventually(lambda: figures(tree) == before)
    except AssertionError:
        assert figures(tree) == before
    await eventually(lambda: descriptors() <= open_before)
    assert "Traceback" not in tree.output()
