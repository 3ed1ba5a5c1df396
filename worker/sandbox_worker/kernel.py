"""The Python kernel of a worker: ipykernel's application, built before a fork and finished after it.

Building the application, the shell and their many objects costs ten times as much as what truly needs a new process
(sockets, threads, keys). `prepare` does the first in the zygote, where no socket, thread or event loop may exist;
`run_prepared` does the second in the kernel's own process. `run_plain` is the slower way that relies on no internals:
import early, initialize after the fork. Sockets are not bound here: the host bound them and passed the listeners
(ZMQ_USE_FD), so a worker has no say in where its clients connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.kernelapp import IPKernelApp
from IPython.core.application import BaseIPythonApplication
from tornado.ioloop import IOLoop
from zmq.eventloop.zmqstream import ZMQStream

from sandbox_worker import connection_files, e2b_results, main_signals
from sandbox_worker.output import Output
from sandbox_worker.protocol import PORTS, CurveKeys, StartKernel
from sandbox_worker.publisher import take_over
from sandbox_worker.rehearsal import end_of_output, rehearse
from sandbox_worker.relay import LOOPBACK
from sandbox_worker.shell_channel import ShellChannel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ARGUMENTS = (
    "--HistoryManager.hist_file=:memory:",
    "--IPythonKernel._execute_sleep=0",
    f"--IPKernelApp.outstream_class={Output.__module__}.{Output.__qualname__}",
)
"""History in memory: a shared file makes kernels wait for each other's locks. No sleep before replies: clients wait for
`idle` as well."""

_WARM_UP = ("_=1", "def _(x):\n    return x + 1\n", "import sys as _", "_=[i for i in range(3)]")
_MOST_WAITING = 100_000
"""Messages that wait for a slow client, or for code that runs. ZMQ drops the rest, at 1 000 by default, and a unix
socket's buffer is small. They lie in the sandbox's own memory."""

_RECONNECT_MS = 100
"""ZMQ's own default."""

_DEBUG_SHELL_ENDPOINT = "inproc://shell"


class _PassedHeartbeat(Heartbeat):
    """ipykernel's heartbeat on a listener that somebody else bound."""

    descriptor: int

    def _try_bind_socket(self) -> None:
        self.socket.setsockopt(zmq.USE_FD, self.descriptor)
        self.socket.bind(f"ipc://{self.ip}-{self.port}")


class SandboxKernelApp(IPKernelApp):
    """IPKernelApp whose sockets use passed listeners, and whose initialization may be split around a fork."""

    name = "ipython-kernel"

    def attach(self, request: StartKernel, listeners: Sequence[int]) -> None:
        """Take the identity of one kernel: its key, its socket paths and the listeners in the order of PORTS."""
        self._listeners = dict(enumerate(listeners, start=1))
        self.parent_handle = 1  # nobody to watch, and no banner on the raw output
        self.connection_file = connection_files.of(request.kernel)
        info: Any = _connection_info("ipc", request.prefix, range(1, 6), request.key, request.curve)
        self.load_connection_info(info)

    def _try_bind_socket(self, s: Any, port: int) -> int:
        s.setsockopt(zmq.USE_FD, self._listeners[port])
        s.set(zmq.SNDHWM, _MOST_WAITING)
        if s.socket_type == zmq.XPUB:
            s.set(zmq.XPUB_VERBOSE, 1)  # or ipykernel would welcome the first subscriber only
        if s.socket_type == zmq.ROUTER:
            s.set(zmq.RCVHWM, _MOST_WAITING)
        s.bind(f"ipc://{self.ip}-{port}")
        return port

    def init_control(self, context: Any) -> None:
        """Bind as usual, but let the debugger reach the shell inside the process: the path exists on the host only."""
        endpoint = self.shell_socket.getsockopt(zmq.LAST_ENDPOINT)
        context.sockopts[zmq.RECONNECT_IVL] = -1  # or ZMQ would look for that path ten times a second, for ever
        super().init_control(context)
        del context.sockopts[zmq.RECONNECT_IVL]
        self.debugpy_socket.reconnect_ivl = _RECONNECT_MS
        self.debug_shell_socket.disconnect(endpoint)
        self.shell_socket.bind(_DEBUG_SHELL_ENDPOINT)
        self.debug_shell_socket.connect(_DEBUG_SHELL_ENDPOINT)

    def init_iopub(self, context: Any) -> None:
        """Publish as usual, but without a thread where that can be."""
        super().init_iopub(context)
        take_over(self.iopub_thread)

    def init_heartbeat(self) -> None:
        """Beat on the passed listener, in a context of its own as upstream does."""
        heartbeat = _PassedHeartbeat(
            zmq.Context(),
            (self.transport, self.ip, self.hb_port),
            curve_publickey=self.curve_publickey,
            curve_secretkey=self.curve_secretkey,
        )
        heartbeat.descriptor = self._listeners[self.hb_port]
        self.heartbeat = heartbeat
        heartbeat.start()

    def init_connection_file(self) -> None:
        """Load none: the key came over the agent's socket."""

    def prepare(self, *, completer: bool) -> None:
        """Build application, kernel and shell without sockets, threads or a running loop, and warm the `completer`."""
        BaseIPythonApplication.initialize(self, list(_ARGUMENTS))
        self.log.setLevel(self.log_level)  # traitlets makes a record of each debug line, for a handler that drops it
        self.init_pdb()
        self.displayhook = None
        kernel_class: Any = self.kernel_class
        self.kernel = kernel_class.instance(
            parent=self,
            session=self.session,
            log=self.log,
            profile_dir=self.profile_dir,
            user_ns=self.user_ns,
            control_stream=None,
            debugpy_stream=None,
            debug_shell_socket=None,
            shell_stream=None,
            control_thread=None,
            shell_channel_thread=None,
            iopub_thread=None,
            iopub_socket=None,
            stdin_socket=None,
        )
        self.init_path()
        if "" not in sys.path:
            sys.path.insert(0, "")  # modules beside the notebook; the zygote itself runs without (-P)
        self.init_shell()
        self.init_gui_pylab()
        self.init_extensions()
        self.init_code()
        self._warm_up(completer=completer)

    def _warm_up(self, *, completer: bool) -> None:
        """Run the paths of a first execution once, so that every fork finds their pages and caches ready."""
        session = self.session
        shell: Any = self.shell
        for code in _WARM_UP:
            loop = asyncio.new_event_loop()
            try:
                cell = shell.transform_cell(code)
                loop.run_until_complete(
                    shell.run_cell_async(code, store_history=False, silent=True, transformed_cell=cell)
                )
            finally:
                loop.close()
        shell.user_ns.pop("_", None)
        _ = self.kernel.kernel_info, self.kernel.banner
        message = session.msg("execute_reply", {"status": "ok", "values": [1, 2.5, None, True]})
        _, frames = session.feed_identities(session.serialize(message, b"warm-up"))
        session.deserialize(frames)
        session.digest_history.clear()
        if completer:
            shell.complete("imp")
        logging.LogRecord("", logging.INFO, "", 0, "%i", (1,), None)  # asks all mappings once whether a number is one
        renew_randomness()  # OpenSSL sets up its generator: 3 MiB, which each fork would write again
        asyncio.set_event_loop(None)

    @main_signals.kept()
    def open(self) -> None:
        """Give the prepared application what only this process may have: sockets and threads.

        Together with `settle` it is what follows a fork, in the order of IPKernelApp.initialize as far as that matters.
        """
        session, kernel = self.session, self.kernel
        shell: Any = self.shell
        session.pid = os.getpid()
        session.session = uuid.uuid4().hex
        self.init_sockets()
        self.init_heartbeat()
        self.init_io()
        self.init_signal()
        shell_stream = ZMQStream(self.shell_socket, self.shell_channel_thread.io_loop)
        self.shell_channel_thread.shell_stream = shell_stream
        control_stream = ZMQStream(self.control_socket, self.control_thread.io_loop)
        debugpy_stream = ZMQStream(self.debugpy_socket, self.control_thread.io_loop)
        shell_channel = ShellChannel(self.shell_socket, self.shell_channel_thread, shell_stream)
        self.control_thread.start()
        self.shell_channel_thread.start()
        for name, value in {
            "control_stream": control_stream,
            "debugpy_stream": debugpy_stream,
            "debug_shell_socket": self.debug_shell_socket,
            "shell_stream": shell_stream,
            "control_thread": self.control_thread,
            "shell_channel_thread": self.shell_channel_thread,
            "iopub_thread": self.iopub_thread,
            "iopub_socket": self.iopub_socket,
            "stdin_socket": self.stdin_socket,
            "_stdout": sys.stdout,
            "_stderr": sys.stderr,
            "ident": str(uuid.uuid4()),
        }.items():
            setattr(kernel, name, value)
        debugger = getattr(kernel, "debugger", None)
        if debugger is not None:
            debugger.debugpy_client.debugpy_stream = debugpy_stream
            debugger.debugpy_stream = debugpy_stream
            debugger.shell_socket = self.debug_shell_socket
        for publisher in (shell.displayhook, shell.display_pub):
            publisher.session = session
            publisher.pub_socket = self.iopub_socket
        shell.displayhook.topic = kernel._topic("execute_result")  # noqa: SLF001 - as IPythonKernel.__init__ does
        for name in ("stdout", "stderr"):
            shell._orig_sys_module_state[name] = getattr(sys, name)  # noqa: SLF001 - else `exit` restores the zygote's
        self.displayhook.get_execution_count = lambda: kernel.execution_count
        IOLoop.current().add_callback(shell_channel.begin, kernel)  # when `start` has told the kernel to listen

    def settle(self) -> None:
        """Tell the open application who it is; `attach` was called with that and the environment is the kernel's."""
        kernel, shell = self.kernel, cast("Any", self.shell)
        self.write_connection_file()
        self.log_connection_info()
        shell.init_environment()  # the zygote's environment is gone
        e2b_results.load_ipython_extension(shell)
        session_name = os.environ.get("JPY_SESSION_NAME")
        if session_name:
            shell.user_ns["__session__"] = session_name
        kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        sys.stdout.flush()
        sys.stderr.flush()


def prepare(*, completer: bool = True) -> SandboxKernelApp:
    """Return an application ready to be forked. Raises whatever ipykernel raises when its internals have changed.

    A warm `completer` holds some 25 MiB: shared by the workers of a zygote, but each container's own.
    """
    app = SandboxKernelApp.instance()
    app.prepare(completer=completer)
    return app


class Identity(Protocol):
    """Who a kernel that stands by is to be."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when it has come."""

    def has_come(self) -> bool:
        """Whether it has."""

    def receive(self) -> StartKernel:
        """Return it; the environment and the working directory are the kernel's then."""

    def confirm(self) -> None:
        """Tell that it was taken on: from now on clients may connect."""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """How a forked child becomes a kernel. `run` and `stand_by` serve until the kernel ends."""

    mode: str
    """What Ready calls it: `prebuilt` or `plain`."""
    run: Callable[[StartKernel, Sequence[int]], None]
    stand_by: Callable[[Sequence[int], Identity], None] | None
    """Get ready on listeners and take on the identity when it comes. None: it cannot be done."""


def run_prepared(app: SandboxKernelApp, request: StartKernel, listeners: Sequence[int]) -> None:
    """Finish a prepared application in this new process and serve until the kernel ends."""
    _as_python_starts()
    renew_randomness()
    app.attach(request, listeners)
    app.open()
    app.settle()
    app.start()


def stand_by(app: SandboxKernelApp, listeners: Sequence[int], identity: Identity) -> None:
    """Like `run_prepared`, but wait in the middle. Until it has its key, nobody can say anything to this process."""
    _as_python_starts()
    renew_randomness()
    nobody = StartKernel(
        kernel="", argv=None, env={}, cwd="", prefix=connection_files.DIRECTORY, key=os.urandom(32).hex()
    )
    app.attach(nobody, listeners)
    app.open()
    loop = IOLoop.current()

    def take_on(descriptor: int, _events: int) -> None:
        loop.remove_handler(descriptor)
        app.attach(identity.receive(), listeners)
        end_of_output(app)
        identity.confirm()
        app.settle()

    def wait() -> None:
        loop.add_handler(identity.fileno(), take_on, loop.READ)

    if identity.has_come():
        wait()
    else:
        loop.add_callback(rehearse, app, _DEBUG_SHELL_ENDPOINT, loop, wait)
    app.start()


def run_plain(request: StartKernel, listeners: Sequence[int]) -> None:
    """Initialize an application in this new process and serve until the kernel ends."""
    _as_python_starts()
    renew_randomness()
    app = SandboxKernelApp.instance()
    app.attach(request, listeners)
    app.initialize(list(_ARGUMENTS))
    e2b_results.load_ipython_extension(app.shell)
    app.start()


def prepare_or_plain(notes: list[str], *, completer: bool = True) -> Launcher:
    """Return how to turn a forked child into a kernel: the fast way, or the plain one with a note why."""
    try:
        app = prepare(completer=completer)
    except Exception as error:  # noqa: BLE001 - ipykernel's internals changed: then the plain way
        notes.append(f"kernels start the slower way: {type(error).__name__}: {error}")
        SandboxKernelApp.clear_instance()
        return Launcher(mode="plain", run=run_plain, stand_by=None)
    return Launcher(mode="prebuilt", run=partial(run_prepared, app), stand_by=partial(stand_by, app))


def _as_python_starts() -> None:
    """An interrupt raises KeyboardInterrupt, writing to nobody or too much OSError; none of them ends the kernel."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _connection_info(
    transport: str, ip: str, ports: Sequence[int], key: str, curve: CurveKeys | None
) -> dict[str, str | int]:
    """Return what a connection file says of a kernel; `ports` in the order of PORTS."""
    info: dict[str, str | int] = {"transport": transport, "ip": ip, "key": key, "signature_scheme": "hmac-sha256"}
    if curve is not None:
        info |= {"curve_publickey": curve.public, "curve_secretkey": curve.secret}
    return info | {f"{name}_port": number for name, number in zip(PORTS, ports, strict=True)}


def write_connection_file(path: str, ports: Sequence[int], key: str, curve: CurveKeys | None) -> None:
    """Write the connection file of a kernel that binds its own sockets, on the worker's loopback."""
    info = _connection_info("tcp", LOOPBACK, ports, key, curve)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(info, file)


def renew_randomness() -> None:
    """Draw again what a fork copied: two kernels of one zygote must not share random state.

    The hash seed and the address layout cannot be renewed; rotating zygotes limits that.
    """
    random.seed()
    uuid._node = None  # type: ignore[attr-defined]  # noqa: SLF001 - no public way to forget them
    uuid._last_timestamp = None  # type: ignore[attr-defined]  # noqa: SLF001
    if numpy_random := _loaded("numpy.random"):
        numpy_random.seed()
    if process := _loaded("multiprocessing.process"):
        process.current_process().authkey = os.urandom(32)
    if ssl := _loaded("ssl"):
        ssl.RAND_add(os.urandom(32), 32.0)
    if tempfile := _loaded("tempfile"):
        tempfile._name_sequence = None  # noqa: SLF001


def _loaded(name: str) -> Any:
    """Return a module or None. A copy of `sys.modules` would count a reference to each module, and so copy its page."""
    return sys.modules.get(name)


logging.getLogger("asyncio").setLevel(logging.WARNING)
