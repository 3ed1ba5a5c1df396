"""Messages over a unix socket without blocking the event loop, and without belonging to one.

The codec is `sandbox_worker.messages`. A channel may be used from different loops one after the other
(jupyter_client runs provisioners on several).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import ProtocolError
from jupyter_sandbox.host import processes
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_SOCKET_PATH: Final = 107
"""Bytes of a unix socket's path, unix(7)."""
_QUEUE_FULL_S: Final = 0.01
_NO_DESCRIPTOR_S: Final = 0.01


class Channel:
    """A connected SOCK_SEQPACKET socket."""

    def __init__(self, connected: socket.socket, kinds: Sequence[type]) -> None:
        """Own `connected`; `kinds` are the message types that may arrive."""
        connected.setblocking(False)
        self._socket = connected
        self._kinds = kinds
        self._waiting: set[asyncio.Future[None]] = set()

    @classmethod
    async def connect(cls, path: Path, kinds: Sequence[type]) -> Channel:
        """Connect to the listener at `path`, waiting while its queue is full; raises OSError."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        connected.setblocking(False)
        try:
            while True:
                try:
                    connected.connect(str(path))
                except BlockingIOError:  # the listener's queue is full, and connect(2) does not wait in it
                    await asyncio.sleep(_QUEUE_FULL_S)
                else:
                    break
        except BaseException:
            connected.close()
            raise
        return cls(connected, kinds)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._socket.fileno() == -1

    def peer_uid(self) -> int:
        """Return the uid of the process at the other end, as the kernel recorded it when it connected."""
        return self._peer()[1]

    def peer_gid(self) -> int:
        """Return its group, likewise."""
        return self._peer()[2]

    def peer_pid(self) -> int:
        """Return the pid of the process at the other end, likewise; it may have ended since."""
        return self._peer()[0]

    def _peer(self) -> tuple[int, int, int]:
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, gid = struct.unpack("3i", credentials)
        return pid, uid, gid

    async def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send one message; raises OSError when the other end is gone."""
        while True:
            try:
                messages.send(self._socket, message, descriptors)
            except BlockingIOError:
                await self._ready(write=True)
            else:
                return

    async def receive(self) -> tuple[object, list[int]] | None:
        """Return the next message and its descriptors, the caller's to close, or None at the end.

        Raises ProtocolError for what is no message of the agreed kinds.
        """
        while True:
            try:
                return self.receive_now()
            except BlockingIOError:
                await self._ready(write=False)

    def receive_now(self) -> tuple[object, list[int]] | None:
        """Like `receive`, but raises BlockingIOError when nothing has arrived."""
        try:
            return messages.receive(self._socket, self._kinds)
        except messages.MessageError as error:
            raise ProtocolError(f"unusable message: {error}") from error
        except ConnectionError:
            return None

    async def arrival(self) -> None:
        """Wait until there is something to receive, be it the end, or a little shorter. Takes nothing.

        Raises OSError when closed here.
        """
        await self._ready(write=False)

    def watch(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Let the running loop call `notify` whenever there is something to receive; return what ends that."""
        loop, descriptor = asyncio.get_running_loop(), os.dup(self._socket.fileno())
        loop.add_reader(descriptor, notify)

        def end() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)

        return end

    def hang_up(self) -> None:
        """End the connection in both directions; whoever waits to receive on it sees its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close; quiet when done twice. Who waits on it gets ConnectionResetError."""
        self._socket.close()
        for ready in self._waiting:
            processes.resolve(ready)

    async def _ready(self, *, write: bool) -> None:
        """Wait, on a descriptor of one's own: a loop knows one waiter of each, and must let go before it is closed."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        if self.closed:
            raise ConnectionResetError("the channel is closed")
        try:
            descriptor = os.dup(self._socket.fileno())
        except OSError:  # there is none left; who is connected goes on
            await asyncio.sleep(_NO_DESCRIPTOR_S)
            return
        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        add(descriptor, processes.resolve, ready)
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            remove(descriptor)
            os.close(descriptor)
        if self.closed:
            raise ConnectionResetError("the channel is closed")


def listen(path: Path, *, kind: socket.SocketKind, mode: int, owner: int | None = None) -> socket.socket:
    """Return a non-blocking listener bound at `path`, replacing what a dead process left there.

    `owner` is the uid that may connect. `path` must lie in a directory that only we may write. Raises OSError.
    """
    if len(bytes(path)) > MAX_SOCKET_PATH:
        raise OSError(f"socket path longer than {MAX_SOCKET_PATH} bytes: {path}")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        if owner is not None:
            os.chown(path, owner, -1, follow_symlinks=False)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
