"""The shell channel of a kernel: read by the thread that executes, until somebody wants subshells.

ipykernel reads it in a thread of its own, since a subshell must get its requests while the main thread executes. That
costs each execution two changes between threads. Few kernels ever have a subshell: here the main thread reads requests
and sends replies itself, and hands the channel over for good when the first request on subshells comes, or when
another event loop (`%gui`) is to watch the channel that ipykernel gives it, or other code sends by its stream. From
then on all is as upstream.

What comes while the main thread is at work is read by the other one at once, and kept for it: ZeroMQ gives what several
clients have sent in turns, not as it came, and drops what nobody has read when its sender comes anew.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import zmq
from jupyter_client.session import DELIM
from tornado.ioloop import IOLoop

from sandbox_worker import main_signals, whole_messages
from sandbox_worker.arrivals import Arrivals
from sandbox_worker.busy_watch import BusyWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ipykernel.shellchannel import ShellChannelThread
    from zmq.eventloop.zmqstream import ZMQStream

_REQUESTS: Final = ("create_subshell_request", "delete_subshell_request", "list_subshell_request")
_STOP_ABORTING: Final = b"stop aborting"
"""What ipykernel puts behind the requests that an error aborts."""
_READABLE: Final = int(zmq.POLLIN)
_PREDECESSORS_S: Final = 0.002
"""How long who is there for the first time waits for what others sent before: ZeroMQ reads one connection after the
other."""


class ShellChannel:
    """The channel, and who reads it."""

    def __init__(self, socket: zmq.Socket[bytes], thread: ShellChannelThread, stream: ZMQStream) -> None:
        """Keep the `thread`, which has not begun, from reading the `socket` by its `stream`."""
        self._socket, self._thread = socket, thread
        self._stream: Any = stream
        self._lock = threading.Lock()
        self._is_handed_over = False
        self._arrived = Arrivals()
        self._watch: BusyWatch | None = None
        self._loop = IOLoop.current()
        thread.io_loop.remove_handler(socket)
        instead = {"_handle_events": _nothing, "send_multipart": self._send_by_stream}
        vars(stream).update(instead)  # it looks by itself, too, when it is told whom to call

    def begin(self, kernel: Any) -> None:
        """Read from now on, in the thread of this loop; the `kernel` listens to its shell channel thread already.

        One whose internals are others has all as upstream.
        """
        self._kernel = kernel
        if not whole_messages.is_possible() or getattr(kernel, "eventloop", None) is not None:
            self.hand_over()
            return
        try:
            manager: Any = self._thread.manager
            main, replies = manager._shell_channel_to_main.to_stream, manager._main_to_shell_channel  # noqa: SLF001
            self._abort_as_upstream = kernel._abort_queues  # noqa: SLF001
            self._hear = main._recv_callback, main._run_callback  # noqa: SLF001
            handlers = {name: kernel.control_handlers[name] for name in _REQUESTS}
            self._watch = BusyWatch(int(self._socket.fd), self._loop)
            replies.from_socket = _Replies(self, replies.from_socket)
        except (AttributeError, KeyError):
            self.hand_over()
            return
        kernel._abort_queues = self._abort  # noqa: SLF001
        kernel.control_handlers.update({name: self._before(handler) for name, handler in handlers.items()})
        kernel.observe(lambda _: self.hand_over(), "eventloop")
        self._loop.add_handler(self._socket, self._on_readable, self._loop.READ)
        loop = self._thread.io_loop
        loop.add_callback(loop.add_handler, self._watch.fileno(), self._keep, loop.READ)
        self._look()

    def hand_over(self, request: list[zmq.Frame] | None = None) -> None:
        """Let the shell channel thread read from now on, whatever the main thread does; from any thread.

        `request`: what it is to handle before.
        """
        with self._lock:
            is_first, self._is_handed_over = not self._is_handed_over, True
        do = self._thread.io_loop.add_callback
        if request is not None:
            do(self._stream._run_callback, self._kernel.shell_channel_thread_main, request)  # noqa: SLF001
        if is_first:
            self._loop.add_callback(self._end)
            do(self._read_in_thread)

    def send(self, frames: Sequence[Any]) -> bool:
        """Send a reply of the main thread; whether that is ours to do."""
        has_more = False
        try:
            with self._lock:
                if self._is_handed_over:
                    return False
                has_more = True  # to send takes the sign that a request has come, also when an interrupt ends it
                whole_messages.send(self._socket, frames)
                has_more = self._has_more()
        finally:
            if has_more:
                self._thread.io_loop.add_callback(self._keep)
        return True

    def _send_by_stream(self, *arguments: Any, **settings: Any) -> None:
        """Somebody uses the stream: what the main thread sends comes after that, so it has to go by it, too."""
        self.hand_over()
        type(self._stream).send_multipart(self._stream, *arguments, **settings)

    def _end(self) -> None:
        """Read no more."""
        self._loop.remove_handler(self._socket)
        if self._watch:
            self._watch.end()

    def _read_in_thread(self) -> None:
        main_signals.shared()
        loop, stream = self._thread.io_loop, self._stream
        del vars(stream)["_handle_events"], vars(stream)["send_multipart"]
        if self._watch:
            loop.remove_handler(self._watch.fileno())
        while self._arrived:
            stream._run_callback(self._kernel.shell_channel_thread_main, self._arrived.next())  # noqa: SLF001
        loop.add_handler(self._socket, stream._handle_events, loop.READ)  # noqa: SLF001 - as the stream itself does
        stream._handle_events(self._socket, 0)  # noqa: SLF001 - what came before

    def _on_readable(self, _descriptor: object = None, _events: int = 0) -> None:
        has_more = True
        try:
            frames, has_more = self._take()
        finally:  # also when a signal's handler raised in the middle
            if has_more:
                self._look()
        if self._watch:
            self._watch.begin()
        if frames is not None:
            self._pass_on(frames)

    def _look(self) -> None:
        """Have the main thread look for what has arrived."""
        self._loop.add_callback(self._on_readable)

    def _keep(self, _descriptor: object = None, _events: int = 0) -> None:
        """Read for the main thread, in the other one."""
        with self._lock:
            self._read()
            has_some = bool(self._arrived)
        if has_some:
            self._look()

    def _take(self) -> tuple[list[zmq.Frame] | None, bool]:
        """Return a request if there is one, and whether there are more."""
        with self._lock:
            self._read()
            if self._is_handed_over or not self._arrived:
                return None, False
            return self._arrived.next(), bool(self._arrived)

    def _read(self) -> None:
        """Read all that has come, since the socket tells but once that there is something; by who has the lock."""
        first, has_waited = len(self._arrived), False
        while not self._is_handed_over and not self._socket.closed and self._has_more():
            is_new = self._arrived.add(self._socket.recv_multipart(zmq.NOBLOCK, copy=False), first)
            if is_new and not has_waited:
                has_waited = True
                time.sleep(_PREDECESSORS_S)

    def _is_here(self) -> bool:
        """Whether the main thread reads."""
        return not self._is_handed_over

    def _has_more(self) -> bool:
        events: Any = self._socket.get(zmq.EVENTS)
        return bool(events & _READABLE)

    def _pass_on(self, frames: list[zmq.Frame]) -> None:
        """Handle a request in the main thread, or give it to the other one if it is for a subshell."""
        if _is_for_subshell(frames):
            self.hand_over(frames)
        else:
            self._handle(frames)

    def _handle(self, frames: list[zmq.Frame]) -> None:
        callback, run = self._hear
        run(callback, frames)

    def _abort(self, subshell_id: str | None = None) -> None:
        """Abort the requests that have come by now."""
        if subshell_id is not None or not self._is_here():
            self._abort_as_upstream(subshell_id)
            return
        has_more = True
        listener = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the code is over that it could be for
        try:
            self._kernel._aborting = True  # noqa: SLF001
            while has_more:
                frames, has_more = self._take()
                if frames is not None:
                    self._pass_on(frames)
            if self._is_here():
                self._handle([zmq.Frame(_STOP_ABORTING)])
            else:
                self._abort_as_upstream(None)
        finally:
            signal.signal(signal.SIGINT, listener)

    def _before(self, handler: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def handle(*arguments: Any) -> None:
            self.hand_over()
            await handler(*arguments)

        return handle


def _nothing(*_: object) -> None:
    """Do nothing."""


class _Replies:
    """In place of the socket by which the main thread gives its replies to the shell channel thread."""

    def __init__(self, channel: ShellChannel, upstream: zmq.Socket[bytes]) -> None:
        self._channel, self._upstream = channel, upstream

    def send_multipart(self, frames: Sequence[Any], *arguments: Any, **settings: Any) -> None:
        """Send a reply."""
        if not self._channel.send(frames):
            self._upstream.send_multipart(frames, *arguments, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)


def _is_for_subshell(frames: list[zmq.Frame]) -> bool:
    """Whether a request names a subshell. One that cannot be read is for nobody else than the main thread."""
    with contextlib.suppress(ValueError, IndexError, AttributeError, StopIteration):
        at = next(index for index, frame in enumerate(frames) if frame.bytes == DELIM)
        header = frames[at + 2].bytes
        return b"subshell_id" in header and json.loads(header).get("subshell_id") is not None
    return False
