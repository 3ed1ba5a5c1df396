"""Measurements without a server in between, run in a system's own environment: `python -m benchmarks.direct`

`notebook KERNEL COUNT FILE`: nbclient executes a small notebook, wall time each.
`context KERNEL COUNT FILE`: one more kernel where one runs already, from asking until its first reply. With our
provisioner that is a second kernel in the same sandbox, by the broker's own verb; else it is one more local process.
Writes `{"elapsed_ms": [...], "wrong": [...]}` to FILE.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OUR_KERNEL = "sandbox-python"
CELLS = (
    ("import json, math", ""),
    ("x = [math.sqrt(n) for n in range(10_000)]\nprint(len(x))", "10000\n"),
    ("def total(values):\n    return sum(values)\nprint(round(total(x)))", "666616\n"),
    (
        "import tempfile\n"
        "with tempfile.TemporaryFile('w') as file:\n"
        "    json.dump(x[:2], file)\n"
        "    print(file.tell())",
        "10\n",
    ),
    ("for n in range(3):\n    print(n)", "0\n1\n2\n"),
)
"""Code and what it must print."""
_TIMEOUT_S = 60
_PORTS = ("shell", "iopub", "stdin", "hb", "control")


def run_notebook(kernel_name: str) -> tuple[float, list[str]]:
    """Execute the notebook in a fresh kernel; returns milliseconds and what was wrong."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code, _ in CELLS])
    begin = time.perf_counter()
    NotebookClient(notebook, kernel_name=kernel_name, timeout=_TIMEOUT_S).execute()
    elapsed_ms = (time.perf_counter() - begin) * 1e3
    printed = ["".join(output.get("text", repr(output)) for output in cell.outputs) for cell in notebook.cells]
    return elapsed_ms, [text for text, (_, expected) in zip(printed, CELLS, strict=True) if text != expected]


async def _answer(client: AsyncKernelClient) -> str:
    """Return what the kernel says 6 * 7 is; the channels are opened here and closed again."""
    client.start_channels(stdin=False, hb=False, control=False)
    try:
        asked = client.execute("", user_expressions={"answer": "6 * 7"}, store_history=False)
        async with asyncio.timeout(_TIMEOUT_S):
            while (reply := await client.get_shell_msg())["parent_header"].get("msg_id") != asked:
                pass
        answer: str = reply["content"]["user_expressions"]["answer"]["data"]["text/plain"]
        return answer
    finally:
        client.stop_channels()


class _Sandboxes:
    """Kernels of one sandbox."""

    def __init__(self) -> None:
        from jupyter_sandbox.broker import client, verbs
        from jupyter_sandbox.guards import ids

        self._broker, self._verbs, self._ids = client, verbs, ids

    async def open(self) -> None:
        self._lease = await self._broker.Lease.claim("python", "none", "", None)

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[AsyncKernelClient]:
        seat, key = self._ids.new_seat(), os.urandom(32).hex()
        request = self._verbs.StartKernel(sandbox=self._lease.sandbox, seat=seat, argv=None, env={}, cwd=None, key=key)
        started = await self._broker.call(request, self._verbs.KernelStarted)
        client = AsyncKernelClient(transport="ipc", ip=started.prefix)
        for number, name in enumerate(_PORTS, start=1):
            setattr(client, f"{name}_port", number)
        client.session.key = key.encode()
        yield client
        kill = self._verbs.SignalKernel(sandbox=self._lease.sandbox, target=seat, number=9)
        await self._broker.call(kill, self._verbs.Done)
        while seat not in self._lease.exits:  # as `shutdown_kernel` waits: it would be measured with the next one
            await self._lease.hear(_TIMEOUT_S)

    async def close(self) -> None:
        await self._broker.call(self._verbs.Release(sandbox=self._lease.sandbox), self._verbs.Done)
        self._lease.close()


class _Locals:
    """Kernels beside each other."""

    def __init__(self, kernel_name: str) -> None:
        self._kernel_name = kernel_name

    async def open(self) -> None:
        pass

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[AsyncKernelClient]:
        manager = AsyncKernelManager(kernel_name=self._kernel_name)
        await manager.start_kernel()
        yield manager.client()
        await manager.shutdown_kernel(now=True)

    async def close(self) -> None:
        pass


async def run_contexts(kernel_name: str, count: int) -> tuple[list[float], list[str]]:
    """Start kernels one after the other beside a first one; returns milliseconds and wrong answers."""
    place = _Sandboxes() if kernel_name == OUR_KERNEL else _Locals(kernel_name)
    elapsed_ms, wrong = [], []
    await place.open()
    async with place.kernel() as first:
        await _answer(first)
        for _ in range(count):
            begin = time.perf_counter()
            async with place.kernel() as client:
                answer = await _answer(client)
                elapsed_ms.append((time.perf_counter() - begin) * 1e3)
            if answer != "42":
                wrong.append(answer)
    await place.close()
    return elapsed_ms, wrong


def main(what: str, kernel_name: str, count: str, file: str) -> None:
    """Measure and write the figures."""
    elapsed_ms: list[float] = []
    wrong: list[str] = []
    if what == "context":
        elapsed_ms, wrong = asyncio.run(run_contexts(kernel_name, int(count)))
    else:
        run_notebook(kernel_name)  # imports, byte code: not what is compared
        for _ in range(int(count)):
            one_ms, one_wrong = run_notebook(kernel_name)
            elapsed_ms.append(one_ms)
            wrong += one_wrong
    Path(file).write_text(json.dumps({"elapsed_ms": elapsed_ms, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
