"""The agent: pid 1 of a worker. It waits to be bound to a sandbox, then starts, signals and reaps its processes.

States: *warm* (namespaces made, nothing of an owner inside, may still mount) and *bound* (mounts attached, privileges
dropped, for life). It serves one broker connection at a time, the newest, over a socket that the host bound; a
broker that died is replaced by the next one that connects. It keeps no secret: everything in the worker runs as the
same user. How a worker is confined when it is bound depends on what started the agent, a zygote or a container: that
is handed in.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn

from sandbox_worker import children, connection_files, harden, kernel, linux, messages, standby
from sandbox_worker.children import HOME, LOG_BYTES, Process
from sandbox_worker.patience import LOOK_S, Patience
from sandbox_worker.protocol import (
    LEASE_S,
    TO_AGENT,
    Bind,
    Bound,
    Describe,
    Description,
    Exited,
    Failed,
    Log,
    ReadLog,
    Renew,
    Resize,
    Signal,
    StandBy,
    StandingBy,
    StartCommand,
    Started,
    StartKernel,
)
from sandbox_worker.relay import Handler, Relay, free_ports
from sandbox_worker.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MAX_DRAINS: Final = 16
_DISK_FULL_BYTES: Final = 128 * 1024
_RELAY_POLL_S: Final = 0.02
_WARM_ORPHAN_S: Final = 8
"""How long a warm agent lives without a broker: nobody will miss it. See `Agent._patience_s`."""


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """How what is in a worker is confined: that depends on what made the worker. Both raise OSError or ValueError."""

    stand_by: Callable[[StandBy], None]
    """Confine a process ahead of its agent; called in the process itself."""
    bind: Callable[[Bind, Sequence[int], int | None], None]
    """Attach the mounts that came with Bind and take the agent's privileges, in the user namespace of a process that
    was confined ahead of it, if there is one."""


class Agent:
    """The loop of pid 1."""

    def __init__(
        self,
        listener: socket.socket,
        launcher: kernel.Launcher,
        confinement: Confinement,
    ) -> None:
        """Serve `listener`. `launcher` turns a forked child into a Python kernel."""
        self._listener = listener
        self._launcher = launcher
        self._confinement = confinement
        self._selector = selectors.DefaultSelector()
        self._connection: socket.socket | None = None
        self._processes: dict[str, Process] = {}
        self._starting: list[Relay] = []
        self._standby: standby.Standby | None = None
        self._bound = False
        self._rlimits: Mapping[str, int] = {}
        self._patience = Patience()

    def serve(self) -> NoReturn:
        """Run until the worker is killed."""
        linux.set_process_name("sandbox-agent")
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # or code in the worker could open /proc/1/mem: it has the same uid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, lambda _mask: self._reap(reader))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            wait_s = _RELAY_POLL_S if self._starting else min(LOOK_S, self._patience_s())
            for key, mask in self._selector.select(wait_s):
                if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier handler of this round
                    handler: Handler = key.data
                    handler(mask)
            self._starting = [relay for relay in self._starting if not relay.try_start()]
            if self._patience_s() == 0:
                os._exit(0)  # pid 1: everything in the worker ends with it

    def _patience_s(self) -> float:
        """Return how long to wait for a word of a broker.

        A worker that nobody knows of must not live for ever: its broker may have died before it wrote down the pid,
        none may come after it, or it may be there and do nothing. Whoever owns a kernel starts another in seconds.
        """
        is_nobodys = self._connection is None and not self._bound
        limit_s = _WARM_ORPHAN_S if is_nobodys else 2 * LEASE_S
        return self._patience.left_s(limit_s)

    def _accept(self, _mask: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        self._disconnect()
        self._connection = connection
        self._patience.renew()
        self._selector.register(connection, selectors.EVENT_READ, lambda _mask: self._receive(connection))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
            self._patience.renew()

    def _receive(self, connection: socket.socket) -> None:
        try:
            received = messages.receive(connection, TO_AGENT)
        except messages.MessageError as error:  # a broker of another version, after an upgrade
            self._send(Failed(reason=f"this worker is of another version: {error}"[:500]))
            return
        except OSError:
            received = None
        if received is None:
            self._disconnect()
            return
        request, descriptors = received
        self._patience.renew()
        try:
            answer = self._handle(request, descriptors)
        except (OSError, ValueError) as error:
            answer = Failed(
                reason=str(error)[:500],
                program_missing=isinstance(error, children.ProgramMissingError),
                directory_missing=isinstance(error, children.DirectoryMissingError),
            )
            if isinstance(request, Bind):  # half bound is no state: the worker is lost
                self._send(answer)
                os._exit(1)
        finally:
            messages.close_all(descriptors)
        if answer is not None:
            self._send(answer)

    def _send(self, message: object) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                messages.send(self._connection, message)

    def _handle(self, request: object, descriptors: list[int]) -> object | None:
        match request:
            case Bind():
                self._bind(request, descriptors)
                return Bound()
            case StandBy() if not self._bound:
                self._stand_by(request, descriptors)
                return StandingBy()
            case StartKernel() if self._bound:
                return self._start_kernel(request, descriptors)
            case StartCommand() if self._bound:
                return self._start_command(request, descriptors)
            case Signal():
                self._signal(request)
                return None
            case Resize():
                self._resize(request)
                return None
            case ReadLog():
                process = self._processes.get(request.target)
                return Log(text=process.tail(LOG_BYTES) if process else "")
            case Renew():
                return None
            case Describe():
                return Description(bound=self._bound, running=tuple(self._processes))
        return Failed(reason="the worker is not bound to a sandbox")

    def _bind(self, request: Bind, mounts: Sequence[int]) -> None:
        if self._bound:
            raise ValueError("already bound")
        if self._standby is not None:
            harden.limit(self._standby.process.pid, request.rlimits)  # it was confined before these were known
        own = replace(request, rlimits=harden.of_agent(request.rlimits))
        self._confinement.bind(own, mounts, self._standby.user_namespace if self._standby else None)
        self._rlimits = request.rlimits
        os.chdir(HOME)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        self._bound = True

    def _stand_by(self, request: StandBy, listeners: Sequence[int]) -> None:
        if self._standby is not None or len(listeners) != 5:
            raise ValueError("one standby with five listeners is all there can be")
        if self._launcher.stand_by is None:
            return
        self._standby = standby.Standby.start(lambda: self._confinement.stand_by(request), self._launcher, listeners)
        self._watch(self._standby.process)

    def _drop_standby(self, *, has_ended: bool = False) -> None:
        """What it listened on may be the next kernel's, so that must not start before it has ended."""
        waiting, self._standby = self._standby, None
        if waiting is not None:
            self._close_output(waiting.process)
            waiting.forget()
            if not has_ended:
                standby.end(waiting.process)

    def _take_standby(self, request: StartKernel) -> Process | None:
        """Return the process that stood by and is the kernel of `request` now, or None: then there is none any more."""
        waiting = self._standby
        is_for_it = request.standby and request.argv is None and request.curve is None
        if waiting is None or not is_for_it or not waiting.take_on(replace(request, standby=False)):
            self._drop_standby()
            return None
        self._standby = None
        waiting.forget()
        return waiting.process

    def _start_kernel(self, request: StartKernel, listeners: list[int]) -> object:
        if request.kernel in self._processes:
            raise ValueError(f"kernel {request.kernel} is running")
        if len(listeners) != 5:
            raise ValueError("five listeners are needed")
        children.require_directory(request.cwd)
        if process := self._take_standby(request):
            return self._started(request.kernel, process)
        if request.argv is None:
            return self._spawn(
                request.kernel, request.env, request.cwd, lambda: self._launcher.run(request, listeners), listeners
            )
        return self._execute_kernel(request, request.argv, listeners)

    def _execute_kernel(self, request: StartKernel, argv: Sequence[str], listeners: Sequence[int]) -> Started:
        """Start a kernel that is a program of its own; relays stand between its ports and the listeners."""
        connection_file = connection_files.of(request.kernel)
        command = children.kernel_command(argv, connection_file)
        children.require_program(command[0], {}, HOME)
        ports = free_ports(len(listeners))
        kernel.write_connection_file(connection_file, ports, request.key, request.curve)
        relays = [
            Relay(self._selector, socket.socket(fileno=os.dup(listener)), port)
            for listener, port in zip(listeners, ports, strict=True)
        ]
        self._starting += relays
        return self._spawn(
            request.kernel, request.env, request.cwd, lambda: os.execvpe(command[0], command, os.environ), (), relays
        )

    def _start_command(self, request: StartCommand, descriptors: list[int]) -> object:
        if request.command in self._processes or len(descriptors) != (3 if request.terminal is None else 2):
            raise ValueError("a command needs an unused id and its descriptors")
        children.require_directory(request.cwd)
        children.require_program(request.argv[0], request.env, request.cwd)
        if request.terminal is None:
            return self._spawn(
                request.command,
                request.env,
                request.cwd,
                lambda: children.execute(request.argv, descriptors),
                descriptors,
            )
        with contextlib.ExitStack() as undo:
            terminal = Terminal(self._selector, *map(os.dup, descriptors))
            undo.callback(terminal.close)
            terminal.resize(request.terminal)
            terminal.show()
            streams = (terminal.inner,) * 3
            started = self._spawn(
                request.command,
                request.env,
                request.cwd,
                lambda: children.execute(request.argv, streams, is_terminal=True),
                streams[:1],
                terminal=terminal,
            )
            undo.pop_all()
        return started

    def _spawn(
        self,
        target: str,
        env: dict[str, str],
        cwd: str,
        run: Callable[[], object],
        keep: Sequence[int],
        relays: list[Relay] | None = None,
        terminal: Terminal | None = None,
    ) -> Started:
        """Fork a process that calls `run`; its raw output goes into a ring of which Exited shows the end."""
        try:
            process = children.fork(env, cwd, run, keep, self._rlimits)
        except OSError:
            for relay in relays or []:
                self._drop(relay)
            raise
        process.relays = relays or []
        process.terminal = terminal
        self._watch(process)
        return self._started(target, process)

    def _watch(self, process: Process) -> None:
        if process.output is not None:
            self._selector.register(process.output, selectors.EVENT_READ, lambda _mask: self._drain(process))

    def _started(self, target: str, process: Process) -> Started:
        self._processes[target] = process
        return Started(pid=process.pid)

    def _drain(self, process: Process) -> None:
        if process.output is None:
            return
        try:
            data = os.read(process.output, LOG_BYTES)
        except BlockingIOError:
            return
        if data:
            process.record(data)
        else:
            self._close_output(process)

    def _close_output(self, process: Process) -> None:
        if process.output is not None:
            self._selector.unregister(process.output)
            os.close(process.output)
            process.output = None
            if process.terminal is not None:  # its command has its own streams now
                process.terminal.let_type()

    def _signal(self, request: Signal) -> None:
        process = self._processes.get(request.target)
        if process is not None:
            try:
                os.killpg(process.pid, request.number)
            except ProcessLookupError:  # it has just been forked, and leads no group yet
                os.kill(process.pid, request.number)

    def _resize(self, request: Resize) -> None:
        process = self._processes.get(request.target)
        if process is not None and process.terminal is not None:
            process.terminal.resize(request.size)

    def _reap(self, wakeups: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeups, 512)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._standby is not None and self._standby.process.pid == pid:
                self._drop_standby(has_ended=True)
            for target, process in list(self._processes.items()):
                if process.pid == pid:
                    self._ended(target, process, os.waitstatus_to_exitcode(status))

    def _drop(self, relay: Relay) -> None:
        if relay in self._starting:
            self._starting.remove(relay)
        relay.close()

    def _ended(self, target: str, process: Process, status: int) -> None:
        del self._processes[target]
        connection_files.forget(target)
        children.end_group(process.pid)  # what a kernel started goes with it
        if not self._processes:  # whatever hid in sessions of its own would hold the limits of the next kernel
            children.end_others(self._standby.process.pid if self._standby else None)
        for _ in range(_MAX_DRAINS):
            self._drain(process)
        self._close_output(process)
        for relay in process.relays:
            self._drop(relay)
        if process.terminal is not None:
            process.terminal.end()
        disk = os.statvfs(HOME)
        full = disk.f_bavail * disk.f_frsize < _DISK_FULL_BYTES or (disk.f_files > 0 and disk.f_favail == 0)
        self._send(Exited(target=target, status=status, disk_full=full, log=process.tail(LOG_BYTES // 4)))
