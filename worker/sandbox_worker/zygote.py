"""The zygote: a process with ipykernel loaded, in namespaces of its own, that forks workers.

Started by the broker with one end of a socket pair as standard input: `python -P -m sandbox_worker.zygote`. It runs
no user code ever. A worker is forked straight into new mount, pid, net, ipc and uts namespaces and becomes an
`Agent`; the zygote hands its pidfd to the broker and goes on. When the broker's end closes the zygote exits; its
workers live on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from sandbox_worker import harden, kernel, linux, messages, preload, root, sharing
from sandbox_worker.agent import Agent, Confinement
from sandbox_worker.children import HOME
from sandbox_worker.protocol import (
    IN_TO_AGENT,
    TO_AGENT,
    TO_ZYGOTE,
    Bind,
    Configure,
    Failed,
    Fork,
    Forked,
    Ready,
    StandBy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_UID_RANGE: Final = 65536
_KNOWN: Final = b"known"


def enter_namespaces(configuration: Configure) -> None:
    """Move this process into its user, mount, net and ipc namespaces, with the minimal root as `/`.

    As root the tree is built first, while directories that only root may pass are still reachable. Without root the
    broker is in a user namespace already and the zygote stays in it.
    """
    stage = root.STAGE
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    root.build(stage, configuration.read_only_paths)
    if configuration.uid_base is not None:
        _enter_user_namespace(configuration.uid_base)
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(stage, stage, None, linux.MS_BIND | linux.MS_REC)
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    os.chdir(stage)
    linux.pivot_root(".", ".")
    linux.umount(".")
    os.chdir("/")


def _enter_user_namespace(uid_base: int) -> None:
    """Become root of a user namespace that maps a range of unprivileged host ids."""
    os.setgroups([])
    ready_reader, ready_writer = os.pipe()
    done_reader, done_writer = os.pipe()
    zygote = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.read(ready_reader, 1)
        identity = f"0 {uid_base} {_UID_RANGE}"
        linux.write_id_maps(zygote, identity, identity)
        os.write(done_writer, b"!")
        os._exit(0)
    linux.unshare(linux.CLONE_NEWUSER)
    os.write(ready_writer, b"!")
    os.close(done_writer)
    mapped = os.read(done_reader, 1)
    os.waitpid(mapper, 0)
    for descriptor in (ready_reader, ready_writer, done_reader):
        os.close(descriptor)
    if not mapped:
        raise OSError("the user namespace's id map could not be written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


class Zygote:
    """Answers Fork requests."""

    def __init__(self, channel: socket.socket, configuration: Configure) -> None:
        """Serve `channel`, having entered the namespaces that `configuration` describes."""
        self._channel = channel
        self._configuration = configuration
        self._notes = preload.preload(configuration.preload)
        self._launcher = kernel.prepare_or_plain(self._notes)

    def serve(self) -> None:
        """Run until the broker's end is closed."""
        signal.signal(signal.SIGCHLD, lambda *_: _reap())
        messages.learn((*TO_AGENT, *IN_TO_AGENT))
        sharing.settle()
        messages.send(self._channel, Ready(start_mode=self._launcher.mode, notes=tuple(self._notes)))
        with contextlib.suppress(ConnectionError):  # the broker was killed
            while (received := messages.receive(self._channel, TO_ZYGOTE)) is not None:
                self._answer(*received)

    def _answer(self, request: object, descriptors: Sequence[int]) -> None:
        """Fork a worker and say so; one that nobody heard of ends by itself. Raises ConnectionError."""
        try:
            if not isinstance(request, Fork) or len(descriptors) != 1:
                raise messages.MessageError("Fork with one descriptor expected")
            pid, pidfd, waiting = self._fork(descriptors[0])
        except (OSError, messages.MessageError) as error:
            messages.send(self._channel, Failed(reason=str(error)))
            return
        finally:
            messages.close_all(descriptors)
        with waiting:
            try:
                messages.send(self._channel, Forked(worker=request.worker, pid=pid), [pidfd])
            finally:
                os.close(pidfd)
            with contextlib.suppress(OSError):  # it has ended already
                waiting.send(_KNOWN)

    def _fork(self, listener: int) -> tuple[int, int, socket.socket]:
        """Fork a worker; return its pid 1, seen from here, a pidfd of it, and where it waits to be told `_KNOWN`.

        It ends when that is closed before: whoever asks again for a fork, because this zygote was killed, must be the
        only one with an agent at that listener.

        Two forks: only the children of a process that unshared its pid namespace are inside, and the zygote itself must
        stay outside. The one in between passes the pidfd on before it ends, so the pid cannot have been reused.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            with theirs:
                between = os.fork()
                if between == 0:
                    self._fork_inside(theirs, listener)
            data, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
            if not data or not descriptors:
                raise OSError("a worker could not be forked")
            undo.pop_all()
            return int(data), descriptors[0], ours

    def _fork_inside(self, channel: socket.socket, listener: int) -> NoReturn:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            linux.unshare(linux.CLONE_NEWPID)
            pid = os.fork()
            if pid:
                socket.send_fds(channel, [str(pid).encode()], [os.pidfd_open(pid)])
                os._exit(0)
            keep = [fcntl.fcntl(each, fcntl.F_DUPFD, 5) for each in (listener, channel.fileno())]
            for target, each in enumerate(keep, start=3):
                os.dup2(each, target)
            os.closerange(5, 1 << 20)
            self._isolate()
            if os.read(4, len(_KNOWN)) == _KNOWN:
                os.close(4)
                Agent(socket.socket(fileno=3), self._launcher, CONFINEMENT).serve()
        except BaseException:  # noqa: BLE001 - the top of a process
            traceback.print_exc()
        finally:
            os._exit(1)

    def _isolate(self) -> None:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWNET)
        linux.loopback_up()
        settings = self._configuration
        root.specialize(settings.read_only_paths, tmp_mib=settings.tmp_mib, shm_mib=settings.shm_mib)


def _confine_ahead(request: StandBy) -> None:
    """Confine a process of a warm worker. What it sees is that of the worker, and is sealed with it. Raises OSError."""
    linux.unshare(linux.CLONE_NEWCGROUP)
    harden.drop_privileges(request.uid, request.rlimits)


def _confine(request: Bind, mounts: Sequence[int], user_namespace: int | None) -> None:
    """Turn a warm worker into a sandbox: attach its mounts, seal its root, take its privileges. Raises OSError."""
    linux.unshare(linux.CLONE_NEWCGROUP)
    for mount, point in zip(mounts, request.mounts, strict=True):
        if point.target != HOME:
            Path(point.target).mkdir(parents=True, exist_ok=True)
        linux.attach_mount(mount, point.target)
    root.seal()
    socket.sethostname(request.hostname)
    os.chdir(HOME)
    harden.drop_privileges(request.uid, request.rlimits, user_namespace)


CONFINEMENT: Final = Confinement(stand_by=_confine_ahead, bind=_confine)


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def main() -> None:
    """Serve the socket that is standard input."""
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    received = messages.receive(channel, TO_ZYGOTE)
    if received is None:
        return
    configuration = received[0]
    if not isinstance(configuration, Configure):
        sys.exit("Configure expected")
    try:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        enter_namespaces(configuration)
        os.environ.clear()
        os.environ.update(preload.ENVIRONMENT)
        root.prepare_zygote(configuration.read_only_paths)
        zygote = Zygote(channel, configuration)
    except OSError as error:
        messages.send(channel, Failed(reason=str(error)))
        sys.exit(1)
    linux.set_process_name("sandbox-zygote")
    zygote.serve()


if __name__ == "__main__":
    main()
