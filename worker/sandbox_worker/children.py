"""Processes that the agent forks: what each becomes before it runs anything, and what is kept of it.

Everything in a worker runs as the same user, so a child starts from nothing of the agent's: no descriptors but those
it is given, no signal handlers, an environment of its own. After the fork nobody can be told why a program did not
start, so what can be known before is asked there.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import termios
import time
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

from sandbox_worker import harden, linux
from sandbox_worker.protocol import PREFIX, PROGRAM_PATH, PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox_worker.relay import Relay
    from sandbox_worker.terminal import Terminal

HOME: Final = "/sandbox"
LOG_BYTES: Final = 8192
_NOT_EXECUTABLE: Final = 126
"""Exit status of what cannot be executed though it is there, as shells have it."""
_ASKED_FOR: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OOM_SCORE: Final = "500"
_END_S: Final = 2
_POLL_S: Final = 0.001
_ENVIRONMENT: Final = {
    "HOME": HOME,
    "PATH": PROGRAM_PATH,
    "LANG": "C.UTF-8",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # else plots of a notebook do not show
}


class ProgramMissingError(ValueError):
    """There is no such program in the worker."""


class DirectoryMissingError(ValueError):
    """The worker does not have the directory in which something is to start."""


def kernel_command(argv: Sequence[str], connection_file: str) -> list[str]:
    """Return the command of a kernel, with what only its worker knows: its Python, where that lies, the file."""
    filled = [item.replace("{connection_file}", connection_file).replace(PREFIX, sys.prefix) for item in argv]
    return [sys.executable if argv[0] == PYTHON else filled[0], *filled[1:]]


def require_program(name: str, env: Mapping[str, str], cwd: str) -> None:
    """Raise ProgramMissingError when there is no such program for a process with this environment and directory."""
    path = env.get("PATH", _ENVIRONMENT["PATH"])
    if shutil.which(os.path.join(cwd, name) if "/" in name else name, path=path) is None:
        raise ProgramMissingError(f"the sandbox has no program {name[:200]!r}")


def require_directory(path: str) -> None:
    """Raise DirectoryMissingError when nothing can start there."""
    if not os.path.isdir(path) or not os.access(path, os.X_OK):
        raise DirectoryMissingError(f"the sandbox has no directory {path[:200]!r} to start in")


class Process:
    """A kernel or command: its pid, the end of its raw output, a kernel's relays, a command's terminal."""

    def __init__(self, pid: int, output: int | None, relays: Sequence[Relay] = ()) -> None:
        """Own `output`, the reading end of the pipe that is the child's standard output and error."""
        self.pid = pid
        self.output = output
        self.relays = relays
        self.terminal: Terminal | None = None
        self._log: collections.deque[bytes] = collections.deque()
        self._log_bytes = 0

    def record(self, data: bytes) -> None:
        """Keep the end of what was written."""
        self._log.append(data)
        self._log_bytes += len(data)
        while self._log_bytes - len(self._log[0]) >= LOG_BYTES:
            self._log_bytes -= len(self._log.popleft())

    def tail(self, size: int) -> str:
        """Return the last bytes that it wrote, as text."""
        return b"".join(self._log)[-size:].decode(errors="replace")


def fork(
    env: Mapping[str, str],
    cwd: str,
    run: Callable[[], object],
    keep: Sequence[int],
    rlimits: Mapping[str, int] = MappingProxyType({}),
) -> Process:
    """Fork a process that keeps the descriptors `keep` and calls `run`; raises OSError, leaving nothing behind.

    Of the resources in `rlimits` it may have less than we have.

    A signal that comes before the process has its own handlers waits until then: the agent's would lose it.
    """
    output, child_output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_FOR)
    try:
        pid = os.fork()
        if pid == 0:
            os.set_blocking(child_output, True)
            _become(env, cwd, run, child_output, keep, rlimits)
    except OSError:
        os.close(output)
        os.close(child_output)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(child_output)
    return Process(pid, output)


def end_group(leader: int) -> None:
    """Kill what is left of the process group of a child that has ended, and wait for its end as `end_others` does."""
    deadline = time.monotonic() + _END_S
    with contextlib.suppress(ProcessLookupError):  # nobody is left
        while time.monotonic() < deadline:
            os.killpg(leader, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-leader, os.WNOHANG)[0]:
                    pass
            time.sleep(_POLL_S)


def end_others(spared: int | None) -> None:
    """Kill every process of the worker but this one and `spared`, which goes too if somebody forks faster than that.

    Wait until they are gone, not for ever: who is dying still counts in the limits, and a kernel that started
    meanwhile would find no room for its threads.
    """
    seen = _others(spared)
    for pid in seen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not _others(spared) <= seen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all at one moment
    deadline = time.monotonic() + _END_S
    while (left := _others(spared)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # its parent is dying as well
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_S)


def _others(spared: int | None) -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid(), spared}


def settle(env: Mapping[str, str], cwd: str) -> None:
    """Give this process its environment and its working directory; raises OSError."""
    os.environ.clear()
    os.environ.update(_ENVIRONMENT | dict(env))
    time.tzset()
    sys.path[:0] = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]  # as Python starts
    os.chdir(cwd)


def _become(
    env: Mapping[str, str],
    cwd: str,
    run: Callable[[], object],
    output: int,
    keep: Sequence[int],
    rlimits: Mapping[str, int],
) -> NoReturn:
    """In the forked child: leave the agent's state behind and run."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_ASKED_FOR, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        linux.set_process_name("sandbox-kernel")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _close_all_but(keep)
        harden.limit(0, rlimits)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)  # the memory limit takes us before the agent
        settle(env, cwd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_FOR)
        run()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - the top of a process: whatever it was, say it and end
        traceback.print_exc(file=sys.__stderr__)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def execute(argv: Sequence[str], streams: Sequence[int], *, is_terminal: bool = False) -> NoReturn:
    """In the forked child: become a command with three streams, which are its controlling terminal if they are one.

    What cannot be executed is told on its own standard error, and ends with the status that shells have for it.
    """
    if is_terminal:
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    try:
        os.execvpe(argv[0], list(argv), os.environ)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
        raise SystemExit(_NOT_EXECUTABLE) from error


def _close_all_but(keep: Sequence[int]) -> None:
    previous = 2
    for descriptor in sorted(keep):
        os.closerange(previous + 1, descriptor)
        previous = descriptor
    os.closerange(previous + 1, 1 << 20)
