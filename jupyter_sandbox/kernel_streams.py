"""One connection of the server to one channel of a sandbox kernel, in place of a ZMQ socket and its stream.

To Jupyter's code it looks like a `zmq.eventloop.zmqstream.ZMQStream`, as far as jupyter_server and jupyter_client use
one. What arrives is bounded while it is read, and judged before anybody gets it; nothing is read that nobody wants yet,
so what waits, waits in the sandbox. Reconnects for ever, as libzmq does. Belongs to one event loop.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import turns, zmtp
from jupyter_sandbox.errors import ProtocolError
from jupyter_sandbox.guards import kernel_messages
from jupyter_sandbox.guards.kernel_messages import Channel, Judged, Reason, RefusedMessageError

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Callable, Sequence

_READ_BYTES: Final = 64 * 1024
_FLUSH_S: Final = 0.05
_RECONNECT_S: Final = {"iopub": 0.03, "shell": 0.1, "control": 0.1, "stdin": 0.1}
"""iopub first: what a kernel says in answer to a request must find a listener."""
_AFTER_NONSENSE: Final = 10
"""How many times as long after a kernel sent what is no message."""
_GIVE_UP_FACTOR: Final = 128
"""How many times the limit a message may have before even skipping it ends: 1 GiB with the default."""
_MAX_QUEUED_BYTES: Final = 64 << 20
"""What the server's clients may have sent to a kernel that does not read."""
_LOG_EVERY_S: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A message of a kernel that was not passed on, or (`size_bytes` 0) a connection that was given up.

    `parent` and `msg_type` are what the message claims, as far as it could be read.
    """

    channel: Channel
    reason: Reason
    size_bytes: int
    parent: dict[str, Any] | None = None
    msg_type: str | None = None


class Refusals:
    """How many messages of one kernel were refused, and why; tells the log at most every ten seconds."""

    def __init__(self, kernel_id: str, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        """Start with none."""
        self._kernel_id, self.log = kernel_id, log
        self.counts: collections.Counter[Reason] = collections.Counter()
        self._logged_at = -_LOG_EVERY_S

    def add(self, refusal: Refusal) -> None:
        """Count, and log unless it was logged just now. Nothing that the kernel wrote is logged."""
        self.counts[refusal.reason] += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            so_far = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.counts.items()))
            self.log.warning(
                "Refused a message of kernel %s on %s (%s, %d bytes); so far %s",
                self._kernel_id,
                refusal.channel,
                refusal.reason,
                refusal.size_bytes,
                so_far,
            )


class KernelStream:
    """A connection to one channel. Made by `jupyter_sandbox.kernel_channels`."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        *,
        identity: bytes,
        sign: Callable[[list[bytes]], bytes],
        max_bytes: int,
        refusals: Refusals,
        account: turns.Account,
        loop: asyncio.AbstractEventLoop,
        heads_only: bool = False,
    ) -> None:
        """Begin to connect to the unix socket at `path`.

        `max_bytes`: the largest message that is passed on. `heads_only`: pass on content only where a kernel tells its
        state; who follows a kernel's activity needs no more, and large messages cost it nothing.
        """
        self.channel: Channel = channel
        self.socket = SimpleNamespace(closed=False)  # jupyter_server asks it
        self.linger = 0  # jupyter_client sets it; what was sent is with the kernel's machine or waits for the kernel
        self.judged: Judged | None = None
        """The message that is being handed on right now."""
        self._path, self._identity, self._sign, self._max_bytes = path, identity, sign, max_bytes
        self._refusals, self._account, self._loop = refusals, account, loop
        self._judge_parts = kernel_messages.judge_head if heads_only else kernel_messages.judge
        self._on_message: Callable[[list[bytes]], object] | None = None
        self._on_refusal: Callable[[Refusal], None] | None = None
        self._is_paused = False
        self._connection: socket.socket | None = None
        self._decoder = self._new_decoder()
        self._is_ready = False
        self._is_reading = self._is_writing = False
        self._outgoing: collections.deque[bytes] = collections.deque()
        self._queued_bytes = 0
        self._unsent: memoryview | None = None  # of a message that was sent in part
        self._handshake = b""
        self._turns = turns.of(loop)
        self._has_joined = False
        self._is_drained = False
        self._retry: asyncio.Handle | None = None
        self._connect()

    # -- what Jupyter calls

    def on_recv(self, callback: Callable[[list[bytes]], object] | None, copy: bool = True) -> None:
        """Hand messages to `callback` from now on; None: stop reading."""
        self._check_open()
        self._on_message = callback
        self._resume()

    def on_recv_stream(self, callback: Callable[[KernelStream, list[bytes]], object] | None, copy: bool = True) -> None:
        """Like `on_recv`, with this stream as first argument."""
        self.on_recv(None if callback is None else lambda parts: callback(self, parts))

    def stop_on_recv(self) -> None:
        """Stop reading."""
        self.on_recv(None)

    def send_multipart(self, parts: Sequence[bytes | memoryview], *_: object, **__: object) -> None:
        """Send a message, or keep it until the kernel can be reached."""
        self._check_open()
        data = zmtp.encode(parts)
        if self._queued_bytes + len(data) > _MAX_QUEUED_BYTES:
            self._refusals.log.warning("A message of %d bytes to a kernel that does not read was dropped", len(data))
            return
        self._outgoing.append(data)
        self._queued_bytes += len(data)
        self._write()

    def flush(self, *_: object, **__: object) -> int:
        """Hand on what has arrived; return 0. Bounded by time, not by what a kernel sends."""
        self._check_open()
        deadline = time.monotonic() + _FLUSH_S
        while time.monotonic() < deadline and self._step():
            pass
        return 0

    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self.socket.closed)

    def receiving(self) -> bool:
        """Whether somebody wants messages."""
        return self._on_message is not None

    def sending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def close(self, linger: int | None = None) -> None:
        """Hang up; what was not sent is dropped. Quiet when done twice."""
        self.socket.closed = True
        self._on_message = self._on_refusal = None
        self._hang_up()
        if self._retry is not None:
            self._retry.cancel()
        self._outgoing.clear()

    # -- what our own code calls

    def on_refusal(self, callback: Callable[[Refusal], None] | None) -> None:
        """Tell `callback` of every message that is not handed on."""
        self._on_refusal = callback

    def pause(self) -> None:
        """Read nothing until `resume`: the client is slow. What the kernel sends meanwhile waits in its sandbox."""
        self._is_paused = True
        self._watch()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._is_paused = False
        if not self.socket.closed:
            self._resume()

    # -- the connection

    def _new_decoder(self) -> zmtp.Decoder:
        return zmtp.Decoder(
            max_bytes=self._max_bytes,
            max_parts=kernel_messages.MAX_PARTS,
            give_up_bytes=self._max_bytes * _GIVE_UP_FACTOR,
        )

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._path)
        except OSError:  # no kernel yet, or its queue is full
            connection.close()
            self._reconnect()
            return
        self._connection = connection
        self._decoder = self._new_decoder()
        kind = zmtp.ready("SUB") if self.channel == "iopub" else zmtp.ready("DEALER", self._identity)
        self._handshake = zmtp.GREETING + kind
        with contextlib.suppress(
            OSError
        ):  # a new connection's buffer has room for 100 bytes; if it is lost we read that
            connection.send(self._handshake)
        self._watch()

    def _reconnect(self, times: int = 1) -> None:
        if not self.socket.closed:
            self._retry = self._loop.call_later(_RECONNECT_S[self.channel] * times, self._connect)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._is_reading:
                self._loop.remove_reader(connection)
            if self._is_writing:
                self._loop.remove_writer(connection)
            connection.close()
        self._is_reading = self._is_writing = self._is_ready = False
        self._unsent = None  # the other end saw a part of it only: it is sent again, whole

    def _lose(self, times: int = 1) -> None:
        self._hang_up()
        self._reconnect(times)

    def _watch(self) -> None:
        """Read while somebody wants it (or the handshake needs it); write while something waits."""
        if self._connection is None:
            return
        wants = self._wants_to_read() and not self._has_joined
        if wants != self._is_reading:
            if wants:
                self._loop.add_reader(self._connection, self._on_readable)
            else:
                self._loop.remove_reader(self._connection)
            self._is_reading = wants
        wants = self._is_ready and bool(self._outgoing)
        if wants != self._is_writing:
            if wants:
                self._loop.add_writer(self._connection, self._write)
            else:
                self._loop.remove_writer(self._connection)
            self._is_writing = wants

    def _write(self) -> None:
        while self._is_ready and self._outgoing and self._connection is not None:
            if self._unsent is None:
                self._unsent = memoryview(self._outgoing[0])
            try:
                sent = self._connection.send(self._unsent, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self._lose()
                return
            self._unsent = self._unsent[sent:]
            if not self._unsent.nbytes:
                self._queued_bytes -= len(self._outgoing.popleft())
                self._unsent = None
        self._watch()

    def _on_readable(self) -> None:
        self._is_drained = False
        self._join()

    def _read_some(self) -> bool:
        """Read once; whether there was something."""
        if self._connection is None or self._is_drained:
            return False
        try:
            data = self._connection.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._lose()
            return False
        self._is_drained = len(data) < _READ_BYTES
        self._decoder.feed(data)
        return True

    def _resume(self) -> None:
        """Hand on what was read already; not from within the caller, who may be about to change its mind."""
        self._loop.call_soon(self._join)

    def _join(self) -> None:
        """Ask for our turn to read and to hand on."""
        if not self._has_joined and not self.socket.closed:
            self._has_joined = True
            self._turns.join(self._loop, self._account, self._step)
            self._watch()

    # -- messages

    def _step(self) -> bool:
        """Read once, or hand one message on; whether there may be more to do."""
        has_more = False
        try:
            has_more = self._wants_to_read() and self._do_something()
        except ProtocolError:
            self._refuse(Refusal(channel=self.channel, reason=Reason.CONNECTION, size_bytes=0))
            self._lose(_AFTER_NONSENSE)
        except Exception as error:  # noqa: BLE001 - the top of a callback: the other connections must have their turn
            self._refusals.log.error("A connection to a kernel is made anew (%s)", type(error).__name__)
            self._lose(_AFTER_NONSENSE)
        if not has_more:
            self._has_joined = False
            self._watch()
        return has_more

    def _wants_to_read(self) -> bool:
        return self._connection is not None and (
            not self._is_ready or (self._on_message is not None and not self._is_paused)
        )

    def _do_something(self) -> bool:
        event = self._decoder.next_event()
        if event is None:
            return self._read_some()
        self._take(event)
        return True

    def _take(self, event: zmtp.Event) -> None:
        match event:
            case zmtp.Message(parts):
                self._judge(parts)
            case zmtp.Oversized(size_bytes, head):
                parent, msg_type = kernel_messages.peek(head)
                self._refuse(
                    Refusal(
                        channel=self.channel,
                        reason=Reason.TOO_LARGE,
                        size_bytes=size_bytes,
                        parent=parent,
                        msg_type=msg_type,
                    )
                )
            case zmtp.Ready():
                self._is_ready = True
                if self.channel == "iopub" and self._connection is not None:
                    with contextlib.suppress(OSError):  # a connection that is lost is noticed by reading
                        self._connection.send(zmtp.SUBSCRIBE_ALL)
                self._write()
            case zmtp.Ping(context):
                if self._connection is not None and self._unsent is None:
                    with contextlib.suppress(OSError):
                        self._connection.send(zmtp.pong(context))

    def _judge(self, parts: list[bytes]) -> None:
        size_bytes, judged = sum(map(len, parts)), None
        try:
            judged = self.judged = self._judge_parts(self.channel, parts, self._sign, self._max_bytes)
            if self._on_message is not None:
                self._on_message(judged.parts)
        except RefusedMessageError as refused:
            reason, parent, msg_type = refused.reason, refused.parent, refused.msg_type
        except Exception as error:
            self._refusals.log.debug(
                "A message of a kernel could not be used (%s)", type(error).__name__, exc_info=True
            )
            reason = Reason.UNUSABLE
            parent, msg_type = (judged.parent, judged.msg_type) if judged else (None, None)
        else:
            return
        finally:
            self.judged = None
        self._refuse(
            Refusal(channel=self.channel, reason=reason, size_bytes=size_bytes, parent=parent, msg_type=msg_type)
        )

    def _refuse(self, refusal: Refusal) -> None:
        self._refusals.add(refusal)
        if self._on_refusal is not None:
            self._on_refusal(refusal)

    def _check_open(self) -> None:
        if self.socket.closed:
            raise OSError("Stream is closed")
