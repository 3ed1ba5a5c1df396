"""Run a kernel that calls itself idle before it has said all, and let that word wait for the rest.

Deno's kernel writes outputs and states from tasks that do not wait for each other: what code printed and its result can
follow the `idle` that ends an execution, and clients no longer listen then. `python -m sandbox_worker.idle_last COMMAND
... CONNECTION_FILE` starts such a kernel and stands between its iopub socket and its clients. An `idle` is held back
until the kernel has answered on its control channel twice: what it had to send before, it has sent by then. The other
sockets are the kernel's own. It judges nothing, and ends as the kernel does.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import zmq

from sandbox_worker import connection_files
from sandbox_worker.relay import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

_DELIMITER: Final = b"<IDS|MSG>"
_ROUNDS: Final = 2
"""The first answer may overtake what was sent before it, since that comes by another connection."""
_LIMIT_S: Final = 1.0
"""A kernel that does not answer for so long is taken at its word."""
_MOST_WAITING: Final = 100_000
_RECONNECT_MS: Final = 5


class IdleLast:
    """Passes on what a kernel publishes, each `idle` of an execution after all that belongs to it."""

    def __init__(
        self, published: zmq.Socket[bytes], clients: zmq.Socket[bytes], control: zmq.Socket[bytes], key: bytes
    ) -> None:
        """`published`: what the kernel says; `clients`: where it is passed on; `control`: its control channel."""
        self._published, self._clients, self._control, self._key = published, clients, control, key
        self._session = uuid.uuid4().hex
        self._ended: str | None = None
        self._idle: list[bytes] = []
        self._rounds_left = 0
        self._deadline = 0.0
        self._later: collections.deque[list[bytes]] = collections.deque()

    def wait_ms(self) -> int | None:
        """Return how long nothing needs to be done, None for ever."""
        return None if self._ended is None else max(0, round((self._deadline - time.monotonic()) * 1000))

    def published(self) -> None:
        """The kernel has said something."""
        self._take(self._published.recv_multipart())

    def answered(self) -> None:
        """The kernel has answered on its control channel."""
        self._control.recv_multipart()
        if self._ended is None:
            return
        self._rounds_left -= 1
        if self._rounds_left:
            self._ask()
        else:
            self.settle()

    def settle(self) -> None:
        """Pass the `idle` on that is held back, and then what came meanwhile."""
        while self._published.poll(0):
            self._take(self._published.recv_multipart())
        self._ended = None
        self._clients.send_multipart(self._idle)
        later, self._later = self._later, collections.deque()
        for frames in later:
            self._take(frames)

    def _take(self, frames: list[bytes]) -> None:
        header, parent, content = _read(frames)
        if parent.get("session") == self._session:
            return
        if self._ended is not None and parent.get("msg_id") != self._ended:
            self._later.append(frames)
        elif (
            self._ended is None
            and header.get("msg_type") == "status"
            and parent.get("msg_type") == "execute_request"
            and content.get("execution_state") == "idle"
        ):
            self._ended, self._idle = str(parent.get("msg_id")), frames
            self._rounds_left, self._deadline = _ROUNDS, time.monotonic() + _LIMIT_S
            self._ask()
        else:
            self._clients.send_multipart(frames)

    def _ask(self) -> None:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "kernel_info_request",
            "session": self._session,
            "username": "idle-last",
            "date": "2000-01-01T00:00:00Z",
            "version": "5.3",
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, {})]
        signature = hmac.new(self._key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        self._control.send_multipart([_DELIMITER, signature, *parts])


def _read(frames: list[bytes]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return header, parent header and content, the last of a `status` only; empty where there is none."""
    try:
        _, header, parent, _, content = frames[(at := frames.index(_DELIMITER) + 1) : at + 5]
        decoded = [json.loads(part) for part in (header, parent)]
        decoded.append(json.loads(content) if decoded[0].get("msg_type") == "status" else {})
    except (ValueError, AttributeError):
        return {}, {}, {}
    first, second, third = (part if isinstance(part, dict) else {} for part in decoded)
    return first, second, third


def run(command: Sequence[str], connection_file: str) -> NoReturn:
    """Start the kernel `command` and serve until it ends; the end of this process is the same."""
    info = json.loads(Path(connection_file).read_text())
    (port,) = free_ports(1)
    own_file = connection_files.behind(connection_file)
    Path(own_file).touch(mode=0o600)
    Path(own_file).write_text(json.dumps(info | {"iopub_port": port}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the kernel, too: such a kernel is interrupted by a message
    process = subprocess.Popen([*command, own_file])
    ended = os.pidfd_open(process.pid)
    context = zmq.Context()
    published, clients, control = (context.socket(kind) for kind in (zmq.SUB, zmq.PUB, zmq.DEALER))
    for socket in (published, control):
        socket.reconnect_ivl = _RECONNECT_MS
    published.rcvhwm = clients.sndhwm = _MOST_WAITING
    published.subscribe(b"")
    published.connect(f"tcp://{info['ip']}:{port}")
    control.connect(f"tcp://{info['ip']}:{info['control_port']}")
    clients.bind(f"tcp://{info['ip']}:{info['iopub_port']}")
    idle_last = IdleLast(published, clients, control, str(info["key"]).encode())
    poller = zmq.Poller()
    for readable in (published, control, ended):
        poller.register(readable, zmq.POLLIN)
    while True:
        ready = dict(poller.poll(idle_last.wait_ms()))
        if published in ready:
            idle_last.published()
        if control in ready:
            idle_last.answered()
        if ended in ready:
            break
        if idle_last.wait_ms() == 0:
            idle_last.settle()
    context.destroy(linger=200)
    status = process.wait()
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other meaning
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    run(sys.argv[1:-1], sys.argv[-1])
