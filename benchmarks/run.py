"""Run measurements on systems and hand over the records of each one as soon as it is finished.

Measurements of latency and load have all their systems up at the same time, taking turns; memory and growth are
measured with one system at a time, since systems would share pages.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks import (
    contexts,
    density,
    e2b,
    idle,
    interpreter,
    latency,
    load,
    memory,
    programs,
    rest,
    scale,
    spread,
    transfer,
)
from benchmarks.containers import EngineError
from benchmarks.machine import condition, quiet
from benchmarks.metrics import Results
from benchmarks.records import block
from benchmarks.server import NotInstalledError, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from benchmarks.metrics import Metric
    from benchmarks.plan import Plan
    from benchmarks.records import Record
    from benchmarks.server import Server
    from benchmarks.systems import System

TOGETHER: Mapping[str, Callable[[Sequence[Server], Plan, Results], Awaitable[None]]] = {
    "start": latency.measure_start,
    "spread": spread.measure_spread,
    "ready": latency.measure_ready,
    "exec": latency.measure_exec,
    "load": load.measure_load,
    "churn": load.measure_churn,
    "rest": rest.measure_rest,
    "interpreter": interpreter.measure_interpreter,
    "contexts": contexts.measure_contexts,
    "e2b": e2b.measure_e2b,
    "transfer": transfer.measure_transfer,
    "notebook": programs.measure_notebook,
    "context": programs.measure_context,
    "idle": idle.measure_idle,
}
ALONE: Mapping[str, Callable[[Server, Plan, Results], Awaitable[None]]] = {
    "memory": memory.measure_memory,
    "scale": scale.measure_scale,
    "density": density.measure_density,
}
MEASUREMENTS = (*TOGETHER, *ALONE)
METRICS: Sequence[Metric] = (
    *latency.METRICS,
    *spread.METRICS,
    *load.METRICS,
    *rest.METRICS,
    *interpreter.METRICS,
    *contexts.METRICS,
    *e2b.METRICS,
    *transfer.METRICS,
    *programs.METRICS,
    *idle.METRICS,
    *memory.METRICS,
    *scale.METRICS,
    *density.METRICS,
)


def progress(text: str) -> None:
    """Tell who waits."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _failures(measurement: str, servers: Sequence[Server], results: Results) -> Iterator[None]:
    """A container engine that goes away ends a measurement, not the run. Servers that failed tell their logs' end."""
    try:
        yield
    except EngineError as error:
        results.fail("container engine", measurement, str(error))
    for server in servers:
        server.tell_end_of_log(results, measurement)


class Run:
    """One run; `write` gets the records of each finished measurement."""

    def __init__(
        self,
        plan: Plan,
        options: Mapping[str, Sequence[str]],
        write: Callable[[list[Record]], None],
        *,
        must_start: bool,
    ) -> None:
        """`options`: of each system's server. `must_start`: a system that does not start is an error, not left out."""
        self._plan = plan
        self._options = options
        self._write = write
        self._must_start = must_start

    async def measure(self, systems: Sequence[System], measurements: Sequence[str]) -> None:
        """Measure. Raises NotInstalledError."""
        around = Results(systems=[system.name for system in systems])
        together = [name for name in TOGETHER if name in measurements]
        wanted = [system for system in systems if any(system.takes_part(name) for name in together)]
        if wanted:
            async with AsyncExitStack() as stack:
                servers = [server for system in wanted if (server := await self._start(system, stack, around))]
                for name in together:
                    await self._together(name, servers)
        await self._alone(systems, [name for name in ALONE if name in measurements], around)
        self._write(block("stop", around, METRICS))

    async def _start(self, system: System, stack: AsyncExitStack, around: Results) -> Server | None:
        progress(f"{system.name}: starting the server")
        try:
            return await stack.enter_async_context(running(system, self._options.get(system.name, ()), around))
        except NotInstalledError as error:
            if self._must_start:
                raise
            progress(f"left out: {error}")
            around.note(system.name, f"left out: {str(error).splitlines()[0]}")
            return None

    async def _together(self, name: str, servers: Sequence[Server]) -> None:
        progress(f"measuring {name}")
        taking_part = [server for server in servers if server.system.takes_part(name)]
        results = Results(systems=[server.system.name for server in taking_part])
        begin = time.monotonic()
        if taking_part:
            with _failures(name, taking_part, results):
                await TOGETHER[name](taking_part, self._plan, results)
        self._finish(name, results, time.monotonic() - begin)

    async def _alone(self, systems: Sequence[System], names: Sequence[str], around: Results) -> None:
        """One server after the other, each for all these measurements."""
        results = {name: Results(systems=[system.name for system in systems]) for name in names}
        seconds = dict.fromkeys(names, 0.0)
        for system in systems:
            wanted = [name for name in names if system.takes_part(name)]
            if not wanted:
                continue
            async with AsyncExitStack() as stack:
                server = await self._start(system.with_small_disks(), stack, around)
                if server is None:
                    continue
                for name in wanted:
                    progress(f"measuring {name} of {system.name}")
                    begin = time.monotonic()
                    await quiet(self._plan.quiet_timeout_s)
                    with _failures(name, [server], results[name]):
                        await ALONE[name](server, self._plan, results[name])
                    seconds[name] += time.monotonic() - begin
        for name in names:
            self._finish(name, results[name], seconds[name])

    def _finish(self, name: str, results: Results, seconds: float) -> None:
        for failure in results.failures[:3]:
            progress(f"FAILED: {failure.system}, {failure.measurement}: {failure.text}")
        self._write(block(name, results, METRICS, seconds=seconds, condition=condition()))


async def until_done_or_terminated(work: Awaitable[None], signal_number: int) -> None:
    """Make a signal end the work the way Ctrl-C does: by stopping what was started."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
    await task
