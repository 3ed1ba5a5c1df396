"""Measurement of files: 1 GiB into a sandbox and out of it through the files service, without HTTP.

`python -m benchmarks.files` starts a broker of its own, with this user's rights, and prints one JSON object. The same
bytes are also written and read by plain system calls on the same disk in turns: what a disk or a busy machine cannot
do, the service need not. Memory is the growth of this process's peak while the service works.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.metrics import Metric
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.files import BLOCK, Files
from jupyter_sandbox.host import places

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

UP = Metric(name="files.up", unit="MB/s", meaning="1 GiB written by the files service", more_is_better=True)
DOWN = Metric(name="files.down", unit="MB/s", meaning="1 GiB read by the files service", more_is_better=True)
PLAIN_UP = Metric(name="files.plain_up", unit="MB/s", meaning="the same by write(2)", more_is_better=True)
PLAIN_DOWN = Metric(name="files.plain_down", unit="MB/s", meaning="the same by read(2)", more_is_better=True)
MEMORY = Metric(name="files.memory", unit="MiB", meaning="growth of the process that reads and writes")

SIZE = 1 << 30
PIECE = os.urandom(1 << 16)
"""As much as a server gets of a request's body at once."""
ROUNDS = 5
_TEMPLATE = "[limits]\ndisk_mib = 2600\n"


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(SIZE // len(PIECE)):
        yield PIECE


async def _up(files: Files, sandbox: str) -> None:
    entry = await files.write(sandbox, "service", _pieces())
    if entry.size_bytes != SIZE:
        raise AssertionError(entry)


async def _down(files: Files, sandbox: str) -> None:
    size = 0
    async with files.reading(sandbox, "service") as reading:
        async for block in reading:
            size += len(block)
    if size != SIZE:
        raise AssertionError(size)


def _plain_up(view: int) -> None:
    block = PIECE * (BLOCK // len(PIECE))
    descriptor = os.open("plain", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=view)
    for _ in range(SIZE // BLOCK):
        os.write(descriptor, block)
    os.close(descriptor)


def _plain_down(view: int) -> None:
    descriptor = os.open("plain", os.O_RDONLY, dir_fd=view)
    while os.read(descriptor, BLOCK):
        pass
    os.close(descriptor)


async def _rate(work: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await work()
    return SIZE / (time.perf_counter() - begun) / 1e6


async def measure() -> dict[str, list[float]]:
    """Return samples by the name of their metric."""
    found: dict[str, list[float]] = {metric.name: [] for metric in (UP, DOWN, PLAIN_UP, PLAIN_DOWN)}
    lease = await client.Lease.claim("large", "none", "", None)
    view = await client.open_disk(lease.sandbox)
    try:
        files, sandbox = Files(), lease.sandbox
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(ROUNDS):
            for metric, work in (
                (UP, lambda: _up(files, sandbox)),
                (DOWN, lambda: _down(files, sandbox)),
                (PLAIN_UP, lambda: asyncio.to_thread(_plain_up, view)),
                (PLAIN_DOWN, lambda: asyncio.to_thread(_plain_down, view)),
            ):
                found[metric.name].append(await _rate(work))
            os.unlink("plain", dir_fd=view)
            await files.delete(sandbox, "service")
        found[MEMORY.name] = [(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]
        return found
    finally:
        os.close(view)
        lease.close()


def main() -> None:
    """Measure with a broker of our own and print medians and samples."""
    directory = Path(tempfile.mkdtemp(prefix="jsbf"))
    (directory / "config/sandbox-templates").mkdir(parents=True)
    (directory / "config/sandbox-templates/large.toml").write_text(_TEMPLATE)
    os.environ.setdefault(ENGINE_VARIABLE, "embedded")
    os.environ |= {
        places.DIRECTORY_VARIABLE: str(directory),
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    try:
        found = asyncio.run(measure())
        broker = asyncio.run(client.call(verbs.Status(), verbs.StatusReport)).pid
        os.kill(broker, signal.SIGINT)
        while Path(f"/proc/{broker}").exists():
            time.sleep(0.05)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    medians = {name: round(statistics.median(samples), 1) for name, samples in found.items()}
    json.dump(
        {"medians": medians, "samples": {name: [round(one) for one in all_] for name, all_ in found.items()}},
        sys.stdout,
    )
    print()


if __name__ == "__main__":
    main()
