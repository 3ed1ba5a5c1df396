"""Host processes that are not our children, named so that a reused pid is never mistaken for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence


_ID_LENGTH: Final = 64
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})
"""What pidfd_open(2) says of a number that no process has; EINVAL: it is that of a thread by now."""


def start_time(pid: int) -> int:
    """Return when `pid` started, in clock ticks since boot (proc_pid_stat(5), field 22), or 0 when it does not live.

    Raises OSError when the machine does not let us look now (descriptors, memory): it may live.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, *rest = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(rest[18])


def open_living(pid: int, started: int) -> int | None:
    """Return a pidfd of the process that has `pid` and started at `started`, or None when that one is gone.

    Raises OSError when the machine does not let us look now (descriptors, memory): it may live.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        lives = start_time(pid) == started
    except BaseException:
        os.close(descriptor)
        raise
    if not lives:
        os.close(descriptor)
        return None
    return descriptor


def run_as(uid: int) -> bool:
    """Whether any process has the real user id `uid`. By getpriority(2), which needs no descriptor."""
    try:
        os.getpriority(os.PRIO_USER, uid - (1 << 32) if uid >= 1 << 31 else uid)  # Python passes on an int of C
    except ProcessLookupError:
        return False
    return True


def network_namespace(pid: int, pidfd: int) -> int:
    """Return a descriptor of the network namespace of the process that `pidfd` holds and whose number was `pid`.

    Raises StartError when it has ended; a reused pid is never mistaken for it, since it must be alive, and so own its
    number, after the file was opened.
    """
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"the worker is gone: {error}") from error
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        os.close(namespace)
        raise StartError(f"the worker is gone: {error}") from error
    return namespace


def kill(pidfd: int) -> None:
    """Kill the process; quiet when it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return


def kill_in_group(name: str, proc: Path = Path("/proc")) -> None:
    """Kill every process whose control group has `name` in its own, which is a container's whole id.

    Quiet about those that end meanwhile or are not ours to kill. Raises ValueError for a name that others may share.
    """
    if len(name) < _ID_LENGTH:
        raise ValueError(f"{name!r} is no whole id of a container")
    for directory in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(int(directory.name))
            try:
                if name in (directory / "cgroup").read_text():  # of what was opened, or of none
                    kill(pidfd)
            finally:
                os.close(pidfd)


async def ended(pidfd: int, timeout_s: float) -> bool:
    """Wait until the process has ended, at most `timeout_s`; return whether it has."""
    try:
        async with asyncio.timeout(timeout_s):
            await readable(pidfd)
    except TimeoutError:
        return False
    return True


async def readable(descriptor: int) -> None:
    """Wait until there is something to read; of a pidfd that is the end of its process. Raises PermissionError.

    That is for a file, which epoll(7) does not know.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def resolve(future: asyncio.Future[None]) -> None:
    """Resolve a future that may be resolved or cancelled already; a callback for `add_reader`."""
    if not future.done():
        future.set_result(None)


def run(command: Sequence[str], timeout_s: float = 30, *, pass_fds: Sequence[int] = ()) -> None:
    """Run a host program, blocking; raises StartError with the end of what it said."""
    try:
        subprocess.run(
            command, check=True, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, pass_fds=pass_fds
        )
    except FileNotFoundError as error:
        raise StartError(f"{command[0]} is not installed (Debian: apt-get install e2fsprogs)") from error
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{command[0]} did not finish within {timeout_s} s") from error
    except subprocess.CalledProcessError as error:
        raise StartError(f"{command[0]}: {error.stderr.decode(errors='replace')[-300:].strip()}") from error
