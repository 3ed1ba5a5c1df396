"""Carry bytes between a listener that the host bound and a port that a kernel bound on the worker's loopback.

For kernels that cannot take a passed listener (everything but our own Python application): TCP is what every kernel
knows, of unix sockets many have other ideas than Jupyter. The host connects to its own path only; whoever listens at
that port, it stays inside the worker, whose loopback nobody else has. Runs in the agent's loop; one direction holds at
most BUFFER_BYTES, then its source waits.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
from typing import Final

BUFFER_BYTES: Final = 1 << 18
LOOPBACK: Final = "127.0.0.1"
_MAX_CONNECTIONS: Final = 64

Handler = Callable[[int], None]


class Relay:
    """One listener and its connections. The owner's loop calls the handler stored with each registered socket."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket, port: int) -> None:
        """Own and serve `listener`; at `port` the kernel need not listen yet: see `try_start`."""
        self._selector = selector
        self._listener = listener
        self._port = port
        self._started = False
        self._pipes: set[_Pipe] = set()
        listener.setblocking(False)

    def try_start(self) -> bool:
        """Begin to accept once the kernel listens at its port; return whether it does."""
        if not self._started and self._is_listening():
            self._started = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return self._started

    def close(self) -> None:
        """Drop every connection and the listener."""
        for pipe in list(self._pipes):
            pipe.close()
        if self._started:
            self._selector.unregister(self._listener)
        self._listener.close()

    def _is_listening(self) -> bool:
        """Whether a connection comes about at once; what takes longer is seen the next time."""
        with contextlib.suppress(OSError), self._connect() as probe:
            probe.getpeername()
            return True
        return False

    def _connect(self) -> socket.socket:
        """Return a connection to the kernel, or one that will be, or fail when it is used; raises OSError."""
        inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        inner.connect_ex((LOOPBACK, self._port))
        return inner

    def _accept(self, _mask: int) -> None:
        try:
            outer, _ = self._listener.accept()
        except OSError:
            return
        if len(self._pipes) >= _MAX_CONNECTIONS:
            outer.close()
            return
        outer.setblocking(False)
        try:
            inner = self._connect()
        except OSError:
            outer.close()
            return
        self._pipes.add(_Pipe(self._selector, outer, inner, self._pipes.discard))


class _Pipe:
    """Two connected sockets and what is on its way between them."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        outer: socket.socket,
        inner: socket.socket,
        on_close: Callable[[_Pipe], None],
    ) -> None:
        self._selector = selector
        self._other = {outer: inner, inner: outer}
        self._pending = {outer: bytearray(), inner: bytearray()}  # by destination
        self._on_close = on_close
        for end in self._other:
            selector.register(end, selectors.EVENT_READ, self._handler(end))

    def close(self) -> None:
        for end in self._other:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
        self._on_close(self)

    def _handler(self, end: socket.socket) -> Handler:
        def handle(mask: int) -> None:
            try:
                if mask & selectors.EVENT_WRITE:
                    self._flush(end)
                if mask & selectors.EVENT_READ and not self._read(end):
                    self.close()
                    return
            except OSError:
                self.close()
                return
            self._watch()

        return handle

    def _read(self, end: socket.socket) -> bool:
        other = self._other[end]
        try:
            data = end.recv(BUFFER_BYTES)
        except BlockingIOError:
            return True
        self._pending[other] += data
        self._flush(other)
        return bool(data)

    def _flush(self, end: socket.socket) -> None:
        pending = self._pending[end]
        if pending:
            with contextlib.suppress(BlockingIOError):
                del pending[: end.send(pending)]

    def _watch(self) -> None:
        for end, other in self._other.items():
            mask = selectors.EVENT_READ if len(self._pending[other]) < BUFFER_BYTES else 0
            mask |= selectors.EVENT_WRITE if self._pending[end] else 0
            handler = self._handler(end)
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            if mask:
                self._selector.register(end, mask, handler)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody has now. The worker may take one before the kernel does: its loss."""
    with contextlib.ExitStack() as held:
        bound = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for one in bound:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in bound]
