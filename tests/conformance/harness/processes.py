"""Child processes: bounded in time, and nothing of them left afterwards.

A suite that is cut off leaves children behind, so each one leads a process group of its own, which is killed whole.
Kernels lead their own groups: ipykernel ends by itself when its parent is gone.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConformanceError

TAIL_CHARACTERS = 3000


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a child ended. `exit_code` is None when it was cut off; `output` is both of its streams."""

    exit_code: int | None
    output: str

    @property
    def tail(self) -> str:
        """The end of the output: where the reason usually is."""
        return self.output[-TAIL_CHARACTERS:].strip()


def run_bounded(
    command: Sequence[str | Path], *, directory: Path, environment: Mapping[str, str], timeout_s: float, log: Path
) -> Finished:
    """Run `command` to its end or to `timeout_s`, its output in the file `log`.

    The output goes to a file, not to a pipe: a kernel that outlives its parent would hold a pipe open.
    """
    with log.open("w+b") as sink:
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        exit_code: int | None
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            _kill_group(process)
        sink.seek(0)
        return Finished(exit_code=exit_code, output=sink.read().decode(errors="replace"))


def run_or_raise(
    command: Sequence[str | Path],
    *,
    directory: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    log: Path,
    purpose: str,
) -> str:
    """`run_bounded` for a step that must succeed; returns its output."""
    finished = run_bounded(command, directory=directory, environment=environment, timeout_s=timeout_s, log=log)
    if finished.exit_code is None:
        raise ConformanceError(f"{purpose}: not done after {timeout_s:.0f} s\n{finished.tail}")
    if finished.exit_code != 0:
        raise ConformanceError(f"{purpose}: exit code {finished.exit_code}\n{finished.tail}")
    return finished.output


def stop(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """SIGINT: it destroys all that it owns and ends; what does not end in time is killed."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of the group, then reap its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
