"""Keeper: runs one command and, when told to stop, ends everything that came from it.

It is the child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) of what it starts, so that also a daemon which detaches
itself stays among its descendants: memory can be attributed, and no process is left even if the benchmark is killed.

Protocol: started as `python -m benchmarks.keeper COMMAND...`; stops at end of file on standard input, or when the
command ends by itself. It then writes one line of JSON (`StopReport`) and exits. Order of ending: the command gets
SIGTERM; whoever still lives `GRACE_S` after it gets SIGTERM, then SIGKILL.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.processes import Process, all_processes, descendants

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36
STOP_TIMEOUT_S = 30.0
GRACE_S = 5.0
TERMINATE_TIMEOUT_S = 15.0
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class StopReport:
    """What stopping took: was SIGKILL needed for the command, and which processes outlived it by `GRACE_S`."""

    killed: bool
    outlived: list[str]


def reap() -> set[int]:
    """Collect children that ended, adopted ones too, and return their ids."""
    ended: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.add(pid)


def living() -> dict[int, Process]:
    """Reap what ended and return what is left of the descendants."""
    reap()
    return descendants(os.getpid(), all_processes())


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until `condition` or until the time is over; return whether it came true."""
    end = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(POLL_S)
    return met


def send(signal_number: signal.Signals, pids: list[int]) -> None:
    """Signal processes that may have ended meanwhile."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            continue


def stop(command_pid: int) -> StopReport:
    """End the command and all its descendants."""
    send(signal.SIGTERM, [command_pid] if command_pid in living() else [])
    killed = not wait_until(lambda: command_pid not in living(), STOP_TIMEOUT_S)
    if killed:
        send(signal.SIGKILL, [command_pid])
    wait_until(lambda: not living(), GRACE_S)
    outlived = sorted(process.command[:80] for process in living().values())
    send(signal.SIGTERM, list(living()))
    if not wait_until(lambda: not living(), TERMINATE_TIMEOUT_S):
        while left := living():
            send(signal.SIGKILL, list(left))
            time.sleep(POLL_S)
    return StopReport(killed=killed, outlived=outlived)


def main() -> None:
    """Start the command, keep it until end of file, report."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    while command.pid not in reap() and not (select.select([0], [], [], POLL_S)[0] and os.read(0, 4096) == b""):
        pass  # reading /proc here would take CPU from what is measured
    print(json.dumps(asdict(stop(command.pid))), flush=True)
    os._exit(0)  # Popen must not wait for a child that was reaped here


if __name__ == "__main__":
    main()
