"""Attach mounts inside the mount namespace of another process, or clone one from there, from outside.

A forked child enters the namespace and makes system calls only; the caller's own namespace never changes. Blocking:
call it in a thread. Needs root. Sources: setns(2) with a pidfd (Linux 5.8), move_mount(2), mount(2).
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Final, NoReturn

from jupyter_sandbox.host import forks
from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_S: Final = 10
_MAX_REASON: Final = 500


def attach(
    pidfd: int,
    mounts: Mapping[str, int],
    *,
    away: Sequence[str],
    inodes: Mapping[str, int],
    seal: Sequence[str],
) -> None:
    """Attach each detached mount (descriptors by their target) in the namespace of `pidfd`'s process.

    Targets are made if they are missing. The mounts at `away` are taken off first; afterwards each tmpfs of `inodes`
    may hold so many files, and the mounts at `seal` become read-only, nosuid and nodev. The process must not have run
    foreign code yet: paths are followed as they are. Raises OSError; what was done by then stays.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = forks.fork()
    if child == 0:
        _attach_and_exit(pidfd, mounts, away, inodes, seal, writer)
    os.close(writer)
    try:
        reason = os.read(reader, _MAX_REASON).decode(errors="replace")
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    if reason or status:
        raise OSError(reason or f"the process that attaches mounts ended with status {status}")


def clone(pidfd: int, path: str) -> int:
    """Return a detached clone of the mount that `pidfd`'s process sees at `path`; raises OSError.

    No symlink is followed at the end of `path`. It cannot be cloned once more from here, open_tree(2).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = forks.fork()
        if child == 0:
            _clone_and_exit(pidfd, path, theirs)
        theirs.close()
        try:
            reason, descriptors, _, _ = socket.recv_fds(ours, _MAX_REASON, 1)
        finally:
            os.waitpid(child, 0)
    if len(descriptors) != 1:
        raise OSError(reason.decode(errors="replace") or "the process that clones a mount ended without one")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _clone_and_exit(pidfd: int, path: str, channel: socket.socket) -> NoReturn:
    try:
        signal.alarm(_TIMEOUT_S)
        linux.setns(pidfd, linux.CLONE_NEWNS)
        socket.send_fds(channel, [b"+"], [linux.clone_mount(linux.AT_FDCWD, path)])
    except OSError as error:
        channel.send(str(error).encode()[:_MAX_REASON])
    finally:
        os._exit(0)


def _attach_and_exit(
    pidfd: int,
    mounts: Mapping[str, int],
    away: Sequence[str],
    inodes: Mapping[str, int],
    seal: Sequence[str],
    writer: int,
) -> NoReturn:
    code = 1
    try:
        signal.alarm(_TIMEOUT_S)
        linux.setns(pidfd, linux.CLONE_NEWNS)
        os.umask(0o022)
        for path in away:
            linux.umount(path)
        for target, mount in mounts.items():
            os.makedirs(target, mode=0o755, exist_ok=True)
            linux.attach_mount(mount, target)
        for path, limit in inodes.items():
            linux.reconfigure(path, {"nr_inodes": str(limit)})
        flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
        for path in seal:
            if os.path.isdir(path):
                linux.mount(None, path, None, flags)
        code = 0
    except OSError as error:
        os.write(writer, str(error).encode()[:_MAX_REASON])
    finally:
        os._exit(code)
