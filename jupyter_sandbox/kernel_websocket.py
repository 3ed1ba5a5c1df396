"""The kernel websocket of our server: the stock one, without its stall and with an epitaph.

Stock Jupyter leaves Nagle's algorithm on, which costs every execution 40 ms. And when a kernel dies it says nothing
in the notebook; we write why, below the cell that was running.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

from jupyter_sandbox.provisioner import SandboxProvisioner

if TYPE_CHECKING:
    import asyncio

_MAX_PENDING: Final = 128
_LOOKED_AT: Final = 512
_MAX_FRAMES: Final = 1024


class Executions:
    """Which execute requests of one websocket have no reply yet. Reads headers only, of both wire formats."""

    def __init__(self) -> None:
        """Start with none."""
        self._pending: dict[str, dict[str, Any]] = {}

    def sent(self, message: str | bytes) -> None:
        """Note a message of the client."""
        if not _mentions(message, "execute_request"):
            return
        header = _part(message, 0, "header")
        if header.get("msg_type") == "execute_request":
            self._pending[str(header.get("msg_id"))] = header
            while len(self._pending) > _MAX_PENDING:
                del self._pending[next(iter(self._pending))]

    def received(self, message: str | bytes) -> None:
        """Note a message of the kernel."""
        if self._pending and _mentions(message, "execute_reply"):
            header, parent = _part(message, 0, "header"), _part(message, 1, "parent_header")
            if header.get("msg_type") == "execute_reply":
                self._pending.pop(str(parent.get("msg_id")), None)

    def take_oldest(self) -> dict[str, Any]:
        """Return the header of the request that was running, or an empty one, and forget them all."""
        oldest = next(iter(self._pending.values()), {})
        self._pending.clear()
        return oldest


def _mentions(message: str | bytes, kind: str) -> bool:
    """Whether the start of `message` names this type: cheap, and never wrong about a message that has it there."""
    return kind in message if isinstance(message, str) else kind.encode() in message[:_LOOKED_AT]


def _part(message: str | bytes, index: int, name: str) -> dict[str, Any]:
    """Return a header of a message, or nothing when the message is not of the two formats."""
    try:
        part = json.loads(message)[name] if isinstance(message, str) else json.loads(_frame(message, index))
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return part if isinstance(part, dict) else {}


def _frame(message: bytes, index: int) -> bytes:
    """Return a frame of the binary format: a count and as many offsets, 8 bytes each, then the frames."""
    count = int.from_bytes(message[:8], "little")
    if not index + 3 <= count <= _MAX_FRAMES:
        raise ValueError("not this format")
    start, end = (int.from_bytes(message[8 * (index + i) : 8 * (index + i + 1)], "little") for i in (2, 3))
    return message[start:end]


class SandboxKernelWebsocketHandler(KernelWebsocketHandler):
    """Shadows jupyter_server's handler for every kernel, native ones included."""

    _executions: Executions | None = None

    async def open(self, kernel_id: str) -> None:
        """Begin as usual; for a sandbox kernel, be told of its death before the stock handler is."""
        self.set_nodelay(True)
        if isinstance(self._provisioner(), SandboxProvisioner):
            self._executions = Executions()
            for event in ("restart", "dead"):
                self.kernel_manager.add_restart_callback(kernel_id, self._tell_why, event)
        await super().open(kernel_id)

    def on_close(self) -> None:
        """End as usual."""
        if self._executions and self.kernel_id in self.kernel_manager:
            for event in ("restart", "dead"):
                self.kernel_manager.remove_restart_callback(self.kernel_id, self._tell_why, event)
        super().on_close()

    def on_message(self, ws_message: str | bytes) -> None:
        """Pass a message to the kernel."""
        if self._executions:
            self._executions.sent(ws_message)
        super().on_message(ws_message)

    def write_message(self, message: Any, binary: bool = False) -> asyncio.Future[None]:
        """Pass a message to the client."""
        if self._executions:
            self._executions.received(message)
        written: asyncio.Future[None] = super().write_message(message, binary)
        return written

    def _provisioner(self) -> object:
        return getattr(self.kernel_manager.get_kernel(self.kernel_id), "provisioner", None)

    def _tell_why(self) -> None:
        """The kernel died: say why where the person looks."""
        provisioner = self._provisioner()
        words = provisioner.last_words() if isinstance(provisioner, SandboxProvisioner) else None
        if words and self._executions and self.connection:
            self.connection.write_stderr(words, self._executions.take_oldest())
