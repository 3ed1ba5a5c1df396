"""The five listening sockets of a kernel. The host binds them and passes the listeners into the worker.

So a client connects to paths that only the broker writes, and it may connect before the kernel exists: the
connection waits in the listener's queue.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from jupyter_sandbox.host import channel
from sandbox_worker.protocol import PORTS

if TYPE_CHECKING:
    from pathlib import Path


def paths(prefix: Path) -> list[Path]:
    """Return the socket paths of a kernel, in the order of PORTS."""
    return [prefix.with_name(f"{prefix.name}-{port}") for port in range(1, len(PORTS) + 1)]


def bind(prefix: Path, owner: int | None) -> list[socket.socket]:
    """Bind all five for clients of uid `owner`, None for our own; raises OSError, leaving none behind."""
    with contextlib.ExitStack() as undo:
        listeners = []
        undo.callback(remove, prefix)
        for path in paths(prefix):
            listener = channel.listen(path, kind=socket.SOCK_STREAM, mode=0o600, owner=owner)
            listeners.append(undo.enter_context(listener))
        undo.pop_all()
    return listeners


def remove(prefix: Path) -> None:
    """Remove the paths; quiet when they are gone."""
    for path in paths(prefix):
        path.unlink(missing_ok=True)
