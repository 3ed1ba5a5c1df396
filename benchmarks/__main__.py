"""Command line: which systems, which measurements, where the figures go."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import records
from benchmarks.goals import verdicts
from benchmarks.machine import facts
from benchmarks.plan import FULL, QUICK
from benchmarks.report import print_table, print_verdicts
from benchmarks.run import MEASUREMENTS, Run, progress, until_done_or_terminated
from benchmarks.server import REPOSITORY, NotInstalledError
from benchmarks.systems import BY_NAME, SYSTEMS, System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXIT_FAILED = 1
EXIT_NOT_INSTALLED = 2
EXIT_INTERRUPTED = 130

PAGE = REPOSITORY / "docs/benchmarks.md"
FIGURES = REPOSITORY / "docs/benchmarks/figures.jsonl"

_DESCRIPTION = """\
Compare ways to get a Jupyter kernel, each through a real jupyter_server on 127.0.0.1.

All chosen systems run at the same time and take turns, repetition by repetition, so that slow and fast phases of the
machine hit all of them and the ratios are fair. Memory and growth are measured with one system at a time. Every answer
is checked.
"""


def _epilog() -> str:
    systems = "\n".join(f"  {system.name:17}{system.summary}" for system in BY_NAME.values())
    return f"""\
systems:
{systems}

measurements:
  start          one kernel at a time: POST /api/kernels -> websocket open -> first result and idle
  spread         many starts of ours: is there a second mode?
  ready          POST /api/kernels -> kernel_info_reply
  exec           one user: round trip of `x += 1; print(x)`
  load           {FULL.load_users} users x {FULL.load_requests} requests, sessions created inside the run, then existing
  churn          create, use and destroy, {FULL.churn_parallel} at a time
  rest           one execution, then the load, over REST and over websockets of the same kernels
  interpreter    the load with sessions created inside the run, over the code interpreter's API
  contexts       the contexts API: make a context, execute, end it, one user
  e2b            E2B's SDK for Python, and its requests without it
  transfer       {FULL.transfer_mib} MiB into a sandbox and out of it over HTTP
  notebook       nbclient executes a small notebook
  context        a second kernel in the same sandbox
  idle           processor time of the server and {FULL.idle_kernels} idle kernels in {FULL.idle_s:.0f} s
  memory         PSS of {FULL.memory_kernels} idle kernels, everything of the system included
  scale          the next kernel, a request and memory with {", ".join(map(str, FULL.scale_kernels))} kernels
  density        memory and idle cost of {FULL.density_kernels} kernels that each used pandas

examples:
  python -m benchmarks --quick --systems local,local-nodelay
  python -m benchmarks --docs                                      # all, and docs/benchmarks.md from it
  python -m benchmarks --only start,churn --json figures.jsonl
  python -m benchmarks --json figures.jsonl --resume               # what that file does not have yet
  python -m benchmarks --write-docs figures.jsonl                  # measure nothing
  python -m benchmarks --systems embedded-pool-0,embedded-pool-1   # load and churn with larger pools
  python -m benchmarks --only start --server-option embedded=--SomeClass.some_trait=0

exit status: 0 all right; {EXIT_FAILED} something failed or an answer was wrong;
             {EXIT_NOT_INSTALLED} a chosen system is not installed, or a file cannot be used
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
    if not separator or system not in BY_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} is not SYSTEM=OPTION with SYSTEM one of {', '.join(BY_NAME)}")
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
        "--systems",
        type=_names(list(BY_NAME)),
        metavar="A,B",
        help="systems to compare (default: all there are here, without -pool-N)",
    )
    add(
        "--only",
        type=_names(MEASUREMENTS),
        metavar="A,B",
        default=list(MEASUREMENTS),
        help="measurements (default: all)",
    )
    add("--quick", action="store_true", help="few repetitions: to see that it works, not to quote")
    add("--json", type=Path, metavar="FILE", help="write the figures and the machine's facts as lines of JSON")
    add("--resume", action="store_true", help="add to the file of --json what it does not have yet")
    add("--docs", action="store_true", help="write docs/benchmarks.md, its plots and its figures from this run")
    add("--write-docs", type=Path, metavar="FILE", help="measure nothing: write the docs from a file of --json")
    add(
        "--server-option",
        type=_server_option,
        metavar="SYSTEM=OPTION",
        action="append",
        default=[],
        help="append an option to that system's jupyter_server command; may be given more than once",
    )
    options = parser.parse_args(arguments)
    if options.docs and options.quick:
        parser.error("figures of --quick are not for the docs; if they must be: --json FILE, then --write-docs FILE")
    if options.resume and not options.json:
        parser.error("--resume needs --json FILE")
    return options


def chosen_systems(wanted: list[str] | None) -> list[System]:
    """Return the systems to run. Raises NotInstalledError if a wanted one is missing."""
    chosen = []
    for system in SYSTEMS if wanted is None else map(BY_NAME.__getitem__, wanted):
        if lack := system.lack():
            message = f"system {system.name} cannot run here: {lack}"
            if wanted is not None:
                raise NotInstalledError(message)
            progress(f"left out: {message}")
        else:
            chosen.append(system)
    return chosen


def write_docs(text: str) -> None:
    """Write page, plots and figures from the text of a file of figures. Raises ValueError."""
    from benchmarks import page, plots  # matplotlib takes a while

    figures = records.figures(records.parse(text))
    new = page.replaced(PAGE.read_text(), page.generated(figures))
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(text)
    plots.write(figures, FIGURES.parent)
    PAGE.write_text(new)
    progress(f"written: {PAGE.relative_to(REPOSITORY)} and {FIGURES.parent.relative_to(REPOSITORY)}")


def _measure(options: argparse.Namespace, file: Path) -> records.Figures:
    """Measure into `file` and return everything it then says. Raises NotInstalledError, ValueError."""
    systems = chosen_systems(options.systems)
    done = set()
    if options.resume and file.exists():
        done = set(records.figures(records.parse(file.read_text())).measured)
    else:
        file.write_text("")
    plan = QUICK if options.quick else FULL
    extra: dict[str, list[str]] = defaultdict(list)
    for name, option in options.server_option:
        extra[name].append(option)

    def write(new: list[records.Record]) -> None:
        with file.open("a") as out:
            out.write(records.dump(new))

    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    run = {"started_at": started_at, "quick": options.quick, "machine": facts()}
    write([records.header(run, {system.name: system.summary for system in systems})])
    records.figures(records.parse(file.read_text()))  # parts of two machines: say so now
    measurements = [name for name in options.only if name not in done]
    work = Run(plan, extra, write, must_start=options.systems is not None).measure(systems, measurements)
    asyncio.run(until_done_or_terminated(work, signal.SIGTERM))
    return records.figures(records.parse(file.read_text()))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks and return the exit status."""
    options = parse_arguments(arguments)
    try:
        if options.write_docs:
            write_docs(options.write_docs.read_text())
            return 0
        with tempfile.TemporaryDirectory() as directory:
            file = options.json or Path(directory, "figures.jsonl")
            figures = _measure(options, file)
            print_table(figures, sys.stdout)
            if not figures.is_quick:
                print_verdicts(verdicts(figures), sys.stdout)
            if options.docs:
                write_docs(file.read_text())
    except (NotInstalledError, ValueError) as error:
        progress(f"error: {error}")
        return EXIT_NOT_INSTALLED
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress("interrupted; everything that was started is stopped")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
