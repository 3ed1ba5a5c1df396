"""Command line: which systems, which measurements, where the figures go."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import latency, load, memory
from benchmarks.machine import condition, facts, quiet
from benchmarks.metrics import Results
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.report import print_table, write_lines
from benchmarks.server import NotInstalledError, Server, running
from benchmarks.systems import SYSTEMS, System

Measure = Callable[[Sequence[Server], Plan, Results], Awaitable[None]]

TOGETHER: Mapping[str, Measure] = {
    "start": latency.measure_start,
    "exec": latency.measure_exec,
    "load": load.measure_load,
    "churn": load.measure_churn,
}
"""Measured with all servers up, taking turns; memory is measured with one server at a time."""
MEMORY = "memory"
METRICS = (*latency.METRICS, *load.METRICS, *memory.METRICS)

EXIT_FAILED = 1
EXIT_NOT_INSTALLED = 2
EXIT_INTERRUPTED = 130

_BY_NAME = {system.name: system for system in SYSTEMS}
_MEASUREMENTS = (*TOGETHER, MEMORY)

_DESCRIPTION = """\
Compare ways to get a Jupyter kernel, each through a real jupyter_server on 127.0.0.1.

All chosen systems run at the same time and take turns, repetition by repetition, so that slow and fast phases of the
machine hit all of them and the ratios are fair. Memory is measured with one system at a time. Every answer is checked.
"""


def _epilog() -> str:
    systems = "\n".join(f"  {system.name:15}{system.summary}" for system in SYSTEMS)
    return f"""\
systems:
{systems}

measurements:
  start          one kernel at a time: POST /api/kernels -> websocket open -> first result and idle
  exec           one user: round trip of `x += 1; print(x)`
  load           {FULL.load_users} users x {FULL.load_requests} requests, sessions created inside the run, then existing
  churn          create, use and destroy, {FULL.churn_parallel} at a time
  memory         PSS of {FULL.memory_kernels} idle kernels, everything of the system included

examples:
  python -m benchmarks --quick --systems local,local-nodelay
  python -m benchmarks --only start,churn --json figures.jsonl
  python -m benchmarks --only start --server-option sandbox=--SomeClass.some_trait=0

exit status: 0 all right; {EXIT_FAILED} something failed or an answer was wrong;
             {EXIT_NOT_INSTALLED} a chosen system is not installed
"""


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
        return list(dict.fromkeys(names))

    return parse


def _server_option(text: str) -> tuple[str, str]:
    system, separator, option = text.partition("=")
    if not separator or system not in _BY_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} is not SYSTEM=OPTION with SYSTEM one of {', '.join(_BY_NAME)}")
    return system, option


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `systems` is None when the caller left the choice to us."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=_DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--systems", type=_names(list(_BY_NAME)), metavar="A,B", help="systems to compare (default: all installed ones)"
    )
    add(
        "--only",
        type=_names(_MEASUREMENTS),
        metavar="A,B",
        default=list(_MEASUREMENTS),
        help="measurements (default: all)",
    )
    add("--json", type=Path, metavar="FILE", help="also write the figures and the machine's facts as lines of JSON")
    add("--quick", action="store_true", help="few repetitions: to see that it works, not to quote")
    add(
        "--server-option",
        type=_server_option,
        metavar="SYSTEM=OPTION",
        action="append",
        default=[],
        help="append an option to that system's jupyter_server command; may be given more than once",
    )
    return parser.parse_args(arguments)


def chosen_systems(wanted: list[str] | None) -> list[System]:
    """Return the systems to run, in the order of the table. Raises NotInstalledError if a wanted one is missing."""
    chosen = []
    for system in SYSTEMS:
        if wanted is not None and system.name not in wanted:
            continue
        if missing := system.missing_packages():
            message = f"system {system.name} is not installed here: it needs {', '.join(missing)}"
            if wanted is not None:
                raise NotInstalledError(message)
            _progress(f"left out: {message}")
        else:
            chosen.append(system)
    return chosen


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _run(options: argparse.Namespace, systems: Sequence[System], plan: Plan, results: Results) -> None:
    extra: dict[str, list[str]] = defaultdict(list)
    for name, option in options.server_option:
        extra[name].append(option)
    together = [name for name in TOGETHER if name in options.only]
    if together:
        async with AsyncExitStack() as stack:
            servers = []
            for system in systems:
                _progress(f"{system.name}: starting the server")
                servers.append(await stack.enter_async_context(running(system, extra[system.name], results)))
            for name in together:
                _progress(f"measuring {name}")
                await TOGETHER[name](servers, plan, results)
    if MEMORY in options.only:
        for system in systems:
            _progress(f"measuring {MEMORY} of {system.name}")
            async with running(system, extra[system.name], results) as server:
                await quiet()
                await memory.measure_memory(server, plan, results)


async def _run_until_done_or_terminated(
    options: argparse.Namespace, systems: Sequence[System], plan: Plan, results: Results
) -> None:
    """Make SIGTERM end the run the way Ctrl-C does: by stopping what was started."""
    task = asyncio.create_task(_run(options, systems, plan, results))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks and return the exit status."""
    options = parse_arguments(arguments)
    plan = QUICK if options.quick else FULL
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    before = condition()
    try:
        systems = chosen_systems(options.systems)
        results = Results(systems=[system.name for system in systems])
        asyncio.run(_run_until_done_or_terminated(options, systems, plan, results))
    except NotInstalledError as error:
        _progress(f"error: {error}")
        return EXIT_NOT_INSTALLED
    except (KeyboardInterrupt, asyncio.CancelledError):
        _progress("interrupted; everything that was started is stopped")
        return EXIT_INTERRUPTED
    machine = facts()
    print_table(results, METRICS, machine, sys.stdout)
    if options.json:
        conditions = {"before": before, "after": condition()}
        run = {"started_at": started_at, "quick": options.quick, "machine": machine, "condition": conditions}
        with options.json.open("w") as file:
            write_lines(results, METRICS, run, file)
    return EXIT_FAILED if results.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
