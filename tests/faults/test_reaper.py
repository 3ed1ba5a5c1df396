"""A reap of a broker that is at work: what lives and what is being made goes on, what nobody owns is gone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.host import places

from .conftest import claim, listed, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(120)]

SMALL = "min_idle = 2\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n"


async def test_reaping_all_the_time_while_sandboxes_are_made_and_end_hurts_none(tree):
    tree.template("small", SMALL)
    tree.start()
    where = places.find()
    is_over, reaped = False, []

    async def reap() -> None:
        number = 0
        while not is_over:
            number += 1
            (where.run / "a" / f"{number:020}").touch()  # there is always something to do
            answer = await client.call(verbs.Reap(dry_run=False), verbs.Reaped)
            reaped.extend(answer.found)

    async def live() -> None:
        for _ in range(8):
            lease = await claim("small")
            request = verbs.RunCommand(sandbox=lease.sandbox, argv=("true",), env={}, cwd=None)
            with open("/dev/null", "r+") as null:
                await client.call(request, verbs.CommandStarted, [null.fileno()] * 3)
            lease.close()

    reaping = asyncio.create_task(reap())
    await asyncio.gather(*(live() for _ in range(4)))
    is_over = True
    await reaping
    assert reaped
    assert [what for what in reaped if not what.startswith("agent socket 0000")] == []
    await until(_nothing_is_claimed)


async def _nothing_is_claimed() -> bool:
    return await listed() == []


async def test_the_command_says_what_it_would_do_and_does_it(tree):
    tree.start()
    where = places.find()
    (where.run / "k" / "000000000000-1").touch()
    (where.ledger / f"sbx_{'0' * 20}.json").write_text(
        '{"id": "sbx_00000000000000000000", "template": "python", "slot": 77}'
    )
    runtime = tree.directory / "runtime"
    runtime.mkdir()
    left = runtime / "kernel-left.json"
    left.write_text(json.dumps({"transport": "ipc", "ip": str(where.run / "k" / "0123456789ab")}))
    os.utime(left, (0, 0))
    os.environ["JUPYTER_RUNTIME_DIR"] = str(runtime)  # the tree puts the environment back
    command = [sys.executable, "-P", "-m", "jupyter_sandbox.cli", "reap"]
    for arguments, words in ((["--dry-run"], "would be destroyed"), ([], "destroyed")):
        done = await asyncio.to_thread(
            subprocess.run, [*command, *arguments], capture_output=True, text=True, check=True
        )
        assert sorted(done.stdout.splitlines()) == [
            f"connection file kernel-left.json: {words}",
            f"kernel socket 000000000000-1: {words}",
            f"ledger record sbx_{'0' * 20}: {words}",
        ]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout == "Nothing was left behind.\n"
    assert not left.exists()
