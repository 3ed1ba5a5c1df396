"""The five listening sockets of a kernel. The host binds them and passes the listeners into the worker.

So a client connects to paths that only the broker writes, and it may connect before the kernel exists: the
connection waits in the listener's queue.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from jupyter_sandbox.host import channel
from sandbox_worker.protocol import PORTS

if TYPE_CHECKING:
    from pathlib import Path


def paths(prefix: Path) -> list[Path]:
    """Return the socket paths of a kernel, in the order of PORTS."""
    return [prefix.with_name(f"{prefix.name}-{port}") for port in range(1, len(PORTS) + 1)]


class Listeners:
    """Five bound sockets, at `<prefix>-1` to `<prefix>-5`."""

    def __init__(self, prefix: Path, owner: int | None) -> None:
        """Bind all five for clients of uid `owner`, None for our own; raises OSError, leaving none behind."""
        self.prefix = prefix
        self._sockets: list[socket.socket] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            for path in paths(prefix):
                self._sockets.append(channel.listen(path, kind=socket.SOCK_STREAM, mode=0o600, owner=owner))
            undo.pop_all()

    def descriptors(self) -> list[int]:
        """Return the descriptors, in the order of PORTS; they stay ours."""
        return [listener.fileno() for listener in self._sockets]

    def move(self, prefix: Path, owner: int | None) -> None:
        """Give all five to clients of `owner` at another prefix, where they find whoever has the descriptors.

        Raises OSError; `remove` removes them wherever they are then.
        """
        old, self.prefix = self.prefix, prefix
        try:
            for before, after in zip(paths(old), paths(prefix), strict=True):
                if owner is not None:
                    os.chown(before, owner, -1, follow_symlinks=False)
                before.rename(after)
        except OSError:
            remove(old)
            raise

    def close(self) -> None:
        """Close our descriptors; the paths stay. Quiet when done twice."""
        for listener in self._sockets:
            listener.close()

    def remove(self) -> None:
        """Close, and remove the paths; quiet when done twice."""
        self.close()
        remove(self.prefix)


def remove(prefix: Path) -> None:
    """Remove the paths; quiet when they are gone."""
    for path in paths(prefix):
        path.unlink(missing_ok=True)
