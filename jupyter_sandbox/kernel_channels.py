"""Gives the server's kernel managers connections of ours to sandbox kernels, and stock ones to all others.

Every connection of jupyter_server to a kernel (websockets, the activity watcher, the requests around a start, a restart
and an interrupt) is made by a method of the kernel's manager; these methods are replaced on each manager as it is made.
Clients that other code makes with `manager.client()` are their own business.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import zmq
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_sandbox import activity, kernel_files, kernel_starts, turns
from jupyter_sandbox.guards import kernel_messages
from jupyter_sandbox.guards.kernel_messages import Channel, Judged, Reason, RefusedMessageError
from jupyter_sandbox.kernel_streams import KernelStream, Refusal, Refusals
from jupyter_sandbox.provisioner import SandboxProvisioner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHANNELS: Final[tuple[Channel, ...]] = ("shell", "iopub", "stdin", "control")
_WAITING_MESSAGES: Final = 4


class EncryptedStream(ZMQStream):
    """A stock stream for kernels with CurveZMQ, whose messages are judged as those of a `KernelStream` are."""

    judged: Judged | None = None
    _on_refusal: Callable[[Refusal], None] | None = None

    def __init__(
        self, stock: ZMQStream, channel: Channel, judge: Callable[[list[bytes]], Judged], refusals: Refusals
    ) -> None:
        """Take the socket of `stock`, which must not have been used."""
        stock.io_loop.remove_handler(stock.socket)
        super().__init__(stock.socket, stock.io_loop)
        self.channel: Channel = channel
        self._judge, self._refusals = judge, refusals

    def on_recv(self, callback: Any, copy: bool = True) -> None:
        """Hand judged messages to `callback` from now on."""
        super().on_recv(None if callback is None else lambda parts: self._hand_on(callback, parts))

    def on_refusal(self, callback: Callable[[Refusal], None] | None) -> None:
        """Tell `callback` of every message that is not handed on."""
        self._on_refusal = callback

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self._drop_io_state(zmq.POLLIN)

    def resume(self) -> None:
        """Go on after `pause`."""
        if not self.closed() and self.receiving():
            self._add_io_state(zmq.POLLIN)

    def _hand_on(self, callback: Callable[[list[bytes]], object], parts: list[bytes]) -> None:
        try:
            self.judged = self._judge(parts)
            callback(self.judged.parts)
        except RefusedMessageError as refused:
            self._refuse(parts, refused.reason, refused.parent, refused.msg_type)
        except Exception:  # noqa: BLE001 - see KernelStream
            parent, kind = (self.judged.parent, self.judged.msg_type) if self.judged else (None, None)
            self._refuse(parts, Reason.UNUSABLE, parent, kind)
        finally:
            self.judged = None

    def _refuse(self, parts: list[bytes], reason: Reason, parent: dict[str, Any] | None, kind: str | None) -> None:
        size = sum(map(len, parts))
        refusal = Refusal(channel=self.channel, reason=reason, size_bytes=size, parent=parent, msg_type=kind)
        self._refusals.add(refusal)
        if self._on_refusal is not None:
            self._on_refusal(refusal)


class KernelChannels:
    """The connections of one kernel manager. Native kernels get exactly what they would get without us."""

    def __init__(self, manager: Any, max_bytes: int) -> None:
        """Take over the manager's methods that connect. `max_bytes`: the largest message of a sandbox kernel."""
        self._manager, self._max_bytes = manager, max_bytes
        self._is_for_watcher = False
        self._account = turns.Account()
        self._stock_socket = manager._create_connected_socket  # noqa: SLF001 - where jupyter_client makes all of them
        self._stock = {channel: getattr(manager, f"connect_{channel}") for channel in _CHANNELS}
        for channel in _CHANNELS:
            setattr(manager, f"connect_{channel}", self._connector(channel))
        manager._create_connected_socket = self._socket  # noqa: SLF001

    @functools.cached_property
    def refusals(self) -> Refusals:
        """What was refused of this kernel so far."""
        return Refusals(self._manager.kernel_id, self._manager.log)

    @contextlib.contextmanager
    def for_watcher(self) -> Iterator[None]:
        """What is connected within this follows the kernel's activity only."""
        self._is_for_watcher = True
        try:
            yield
        finally:
            self._is_for_watcher = False

    def _connector(self, channel: Channel) -> Callable[..., object]:
        def connect(identity: bytes | None = None) -> object:
            if not isinstance(self._manager.provisioner, SandboxProvisioner):
                return self._stock[channel](identity=identity)
            return self._stream(channel, identity or b"")

        return connect

    def _socket(self, channel: str, identity: bytes | None = None) -> object:
        """What jupyter_client uses itself: control, to which it only writes, and the heartbeat, which nobody uses."""
        if channel != "control" or not self._is_plain():
            return self._stock_socket(channel, identity=identity)
        stream = self._stream("control", identity or b"")
        stream.on_recv(lambda _: None)
        return stream

    def _is_plain(self) -> bool:
        manager = self._manager
        is_ours = isinstance(manager.provisioner, SandboxProvisioner)
        return is_ours and manager.transport == "ipc" and not manager.curve_publickey

    def _stream(self, channel: Channel, identity: bytes) -> KernelStream | EncryptedStream:
        manager = self._manager
        if not self._is_plain():
            return self._encrypted(channel, identity)
        return KernelStream(
            channel,
            f"{manager.ip}-{getattr(manager, f'{channel}_port')}",
            identity=identity,
            sign=manager.session.sign,
            max_bytes=self._max_bytes,
            refusals=self.refusals,
            account=self._account,
            loop=asyncio.get_running_loop(),
            heads_only=self._is_for_watcher,
        )

    def _encrypted(self, channel: Channel, identity: bytes) -> EncryptedStream:
        manager = self._manager
        context = manager.context
        previous = context.sockopts.copy()
        context.sockopts[zmq.RCVHWM] = _WAITING_MESSAGES  # for the sockets that are made before this method returns
        try:
            stock = self._stock[channel](identity=identity)
        finally:
            context.sockopts.clear()
            context.sockopts.update(previous)

        def judge(parts: list[bytes]) -> Judged:
            return kernel_messages.judge(channel, parts, manager.session.sign, self._max_bytes)

        return EncryptedStream(stock, channel, judge, self.refusals)


def guard_managers(multi_manager: Any, max_bytes: int) -> None:
    """Make all kernel managers that `multi_manager` will make use our connections."""
    stock = getattr(multi_manager, "kernel_manager_factory", None)
    if stock is None:
        return
    event_loggers: dict[type, object] = {}

    def make(*args: Any, **kwargs: Any) -> Any:
        manager = stock(*args, **kwargs)
        manager.sandbox_channels = KernelChannels(manager, max_bytes)
        kernel_starts.hasten(manager)
        kernel_files.spare(manager)
        if manager.has_trait("last_activity"):  # Jupyter shows a kernel a moment before it sets these, and fails
            manager.last_activity, manager.execution_state = datetime.now(UTC), "starting"
        if manager.has_trait("event_logger"):  # each manager would read and check the events' schemas anew
            manager.event_logger = event_loggers.get(type(manager)) or manager.event_logger
            event_loggers[type(manager)] = manager.event_logger
        return manager

    def watch(kernel_id: str) -> None:
        kernel = multi_manager.get_kernel(kernel_id)
        channels = getattr(kernel, "sandbox_channels", None)
        with channels.for_watcher() if channels else contextlib.nullcontext():
            stock_watch(kernel_id)
        stream = getattr(kernel, "_activity_stream", None)
        if has_stock_rules and isinstance(stream, KernelStream | EncryptedStream):
            activity.note(kernel)
            stream.on_recv(lambda _: activity.record(multi_manager, kernel, cast("Judged", stream.judged)))

    multi_manager.kernel_manager_factory = cast("Any", make)
    stock_watch = multi_manager.start_watching_activity
    has_stock_rules = type(multi_manager).start_watching_activity is MappingKernelManager.start_watching_activity
    multi_manager.start_watching_activity = watch
    activity.cull_by_age(multi_manager)
