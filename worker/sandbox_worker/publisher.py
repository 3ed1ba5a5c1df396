"""What a kernel publishes: ipykernel's thread for that, which is spared whatever the thread that speaks can do itself.

ipykernel hands each message to its thread. Two threads then fight for the interpreter's lock several times in every
execution, and on a loaded machine each waits for the scheduler, too. Here who has something to say says it, unless
something else waits to be said before: then it waits in the queue as upstream. One lock is held over each message.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import zmq
from ipykernel.iostream import IOPubThread

from sandbox_worker import whole_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NEEDED: Final = (
    "_events",
    "_event_pipe",
    "_event_puller",
    "_xpub_stream",
    "_handle_event",
    "_really_send",
    "_stopped",
)
_READABLE: Final = int(zmq.POLLIN)


class Publisher(IOPubThread):
    """The thread and its socket, see `take_over`."""

    gate: threading.RLock
    """Held by who uses the socket."""
    turn: threading.RLock
    """Held by who takes text out of a stream, until it is sent; the gate comes after it."""
    _is_woken = _is_at_work = _is_amid_message = False

    def is_elsewhere(self) -> bool:
        """Whether the thread runs, and is not the one that asks."""
        return self._runs() and threading.current_thread() is not self.thread

    def has_more(self) -> bool:
        """Whether something is on its way that came before what is said now."""
        return bool(self._events) or self._is_at_work or self._is_amid_message

    def wait(self, limit_s: float) -> bool:
        """Wait until all is sent that came before; False: it was not within the limit.

        The handler of a signal must not: it may have come over its own thread amid a message.
        """
        locks: Any = (self.gate, self.turn)
        if any(lock._is_owned() for lock in locks):  # noqa: SLF001 - as threading.Condition asks
            return True
        sent = threading.Lock()  # an Event that is interrupted as it waits may raise something else instead
        sent.acquire()
        self.schedule(sent.release)
        return sent.acquire(timeout=limit_s)

    def schedule(self, f: Callable[[], object]) -> None:
        """Have the thread call `f` after what it was given before; where it does not run, as in a fork, call `f` here.

        Nothing wakes it again that was woken and has not looked yet.
        """
        if not self._runs():
            f()
            return
        self._events.append(f)
        if not self._is_woken:
            self._wake()

    def send_multipart(self, msg: Sequence[Any], *_: object, copy: bool = True, **__: object) -> None:
        """Send a message: now, or after what waits to be sent. One that is too large to be copied is for the thread."""
        if threading.current_thread() is self.thread or (copy and not self.has_more()):
            self._really_send(msg, copy=copy)
        else:
            self.schedule(lambda: self._really_send(msg, copy=copy))

    def close(self) -> None:
        """Close the socket."""
        with self.gate:
            super().close()

    def _really_send(self, msg: Sequence[Any], *_: object, copy: bool = True, **__: object) -> None:
        if not self._is_master_process():
            super()._really_send(msg, copy=copy)
            return
        if not copy:
            with self.gate:
                super()._really_send(msg, copy=False)
            return
        with self.gate:
            if self.closed:
                return
            self._is_amid_message = True
            try:
                whole_messages.send(self.socket, msg)
            except zmq.ZMQError as error:
                if error.errno != zmq.ENOTSOCK:  # which is closed: the kernel ends
                    raise
            finally:
                self._is_amid_message = False
            has_come = not self._is_at_work and self._has_subscription()
        if has_come:
            self.io_loop.add_callback(self._welcome)

    def _runs(self) -> bool:
        """Whether the thread runs, in this process.

        An exception in `Thread.is_alive`, as a handler raises one, makes Python 3.11 take it for dead ever after.
        """
        return not self._stopped and self._is_master_process()

    def _wake(self) -> None:
        self._is_woken = True
        try:
            self._event_pipe.send(b"")
        except BaseException:  # an interrupt, too: nobody would ever wake it again
            self._is_woken = False
            raise

    def _handle_event(self, msg: list[bytes]) -> None:
        """Do all that waits."""
        self._is_woken, self._is_at_work = False, True
        try:
            super()._handle_event(msg)
        except BaseException:
            if self._events:
                self._wake()  # for the rest
            raise
        finally:
            self._is_at_work = False
        self._welcome()

    def _has_subscription(self) -> bool:
        """Whether somebody has subscribed: to send takes the wake-up of a subscription that came meanwhile."""
        return not self.closed and bool(self.socket.get(zmq.EVENTS) & _READABLE)

    def _welcome(self) -> None:
        """Welcome who has subscribed. ipykernel would find that one when something else happens."""
        with self.gate:
            if self._has_subscription():
                self._xpub_stream.flush(zmq.POLLIN)

    def _begin(self) -> None:
        """Take the place of ipykernel's, in the thread."""
        self._event_puller.on_recv(self._handle_event)
        stream: Any = self._xpub_stream
        loop, handle = self.io_loop, stream._handle_events  # noqa: SLF001 - what a stream does with its socket

        def handle_alone(descriptor: object, events: int) -> None:
            with self.gate:
                handle(descriptor, events)

        loop.remove_handler(stream.socket)
        stream._handle_events = handle_alone  # noqa: SLF001
        loop.add_handler(stream.socket, handle_alone, loop.READ)
        self._welcome()


def take_over(publisher: IOPubThread) -> None:
    """Make a thread that publishes a Publisher. It is left alone if its internals are others or libzmq is not found."""
    if not whole_messages.is_possible() or not all(hasattr(publisher, name) for name in _NEEDED):
        return

    def begin() -> None:
        ours: Any = publisher
        ours.gate, ours.turn = threading.RLock(), threading.RLock()
        ours.__class__ = Publisher
        ours._begin()  # noqa: SLF001 - its first act

    publisher.schedule(begin)
