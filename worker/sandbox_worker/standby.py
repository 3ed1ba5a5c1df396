"""The standby: the process of a worker's first kernel, made before anybody asks for one.

It is confined as every kernel is, ahead of its agent, and holds nothing of an owner: the application is built, its
sockets are open on listeners that nobody can reach yet, its threads wait. With an identity (key, paths, environment,
directory) it is that kernel. It runs no code of a user before. Code that runs in the worker without a kernel (a
command) can stop or kill it, but not reach into it: neither its memory nor its descriptors are open to the same user
while it waits. The agent believes nothing of it but that it took its identity, and does not wait long.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Final

from sandbox_worker import children, linux, messages
from sandbox_worker.protocol import StartKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_worker.kernel import Launcher

_TIMEOUT_S: Final = 2
_YES: Final = b"+"


class Standby:
    """The agent's side."""

    def __init__(self, process: children.Process, channel: socket.socket, user_namespace: int) -> None:
        """Use `start` instead."""
        self.process = process
        self._channel = channel
        self.user_namespace = user_namespace
        """A descriptor of the user namespace that it made for the worker; -1 after `forget`."""

    @classmethod
    def start(cls, confine: Callable[[], None], launcher: Launcher, listeners: Sequence[int]) -> Standby:
        """Fork one that serves `listeners` and wait until it is confined; raises OSError, leaving nothing behind."""
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(ours)
            with theirs:
                process = children.fork(
                    {}, "/", lambda: _stand_by(confine, launcher, listeners, theirs), [theirs.fileno(), *listeners]
                )
            undo.callback(end, process)
            namespace = _hear_namespace(ours)
            undo.pop_all()
            return cls(process, ours, namespace)

    def take_on(self, request: StartKernel) -> bool:
        """Make it the kernel of `request`; whether it is. If not, it must be ended."""
        try:
            messages.send(self._channel, request)
            _hear(self._channel)
        except (OSError, messages.MessageError):
            return False
        self._channel.close()
        return True

    def forget(self) -> None:
        """Let go of what is held for it; it has ended, or is a kernel. Quiet when done twice."""
        self._channel.close()
        if self.user_namespace != -1:
            os.close(self.user_namespace)
            self.user_namespace = -1


def end(process: children.Process) -> None:
    """Kill a standby and wait for its end: what it listened on is another's then."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)
    if process.output is not None:
        os.close(process.output)
        process.output = None


def _hear(channel: socket.socket) -> None:
    """Wait for a yes; raises OSError."""
    if not _can_be_read(channel, _TIMEOUT_S) or channel.recv(len(_YES)) != _YES:
        raise OSError("the process that was to be a kernel ended or did not answer")


def _hear_namespace(channel: socket.socket) -> int:
    """Wait until it is confined; return the descriptor of its user namespace. Raises OSError."""
    if _can_be_read(channel, _TIMEOUT_S):
        said, descriptors, _, _ = socket.recv_fds(channel, len(_YES), 1, socket.MSG_CMSG_CLOEXEC)
        if said == _YES and len(descriptors) == 1:
            return descriptors[0]
        messages.close_all(descriptors)
    raise OSError("the process that was to stand by ended or was not confined in time")


def _can_be_read(channel: socket.socket, timeout_s: float) -> bool:
    arrival = select.poll()
    arrival.register(channel, select.POLLIN)
    return bool(arrival.poll(timeout_s * 1000))


def _stand_by(
    confine: Callable[[], None], launcher: Launcher, listeners: Sequence[int], channel: socket.socket
) -> None:
    """In the forked child: be confined, get ready, wait, and be the kernel that is asked for."""
    confine()
    namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)  # or a command could open our memory: it has the same uid
    socket.send_fds(channel, [_YES], [namespace])
    os.close(namespace)
    assert launcher.stand_by is not None  # noqa: S101 - or the agent had not started us
    launcher.stand_by(listeners, _Identity(channel))


class _Identity:
    """See sandbox_worker.kernel.Identity."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def fileno(self) -> int:
        return self._channel.fileno()

    def has_come(self) -> bool:
        return _can_be_read(self._channel, 0)

    def receive(self) -> StartKernel:
        received = messages.receive(self._channel, (StartKernel,))
        if received is None:
            os._exit(0)  # the agent has ended, or has no use for us
        request = received[0]
        assert isinstance(request, StartKernel)  # noqa: S101 - tells the type
        children.settle(request.env, request.cwd)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        return request

    def confirm(self) -> None:
        self._channel.send(_YES, socket.MSG_NOSIGNAL)
        self._channel.close()
