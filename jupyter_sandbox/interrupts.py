"""What SIGINT does to a server without a terminal: it ends, whatever it is doing at that moment.

Jupyter asks the person at the terminal. Without one it leaves the signal to Python, which raises KeyboardInterrupt
wherever the program is just then: while a request's body is read Tornado logs that, as a failure of the request, and
the server goes on.
"""

from __future__ import annotations

import functools
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def listen(server: ServerApp) -> None:
    """End `server` at the signal, if nobody else answers it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, functools.partial(_end, server))


def _end(server: ServerApp, _number: int, _frame: object) -> None:
    if server._stopping:  # noqa: SLF001 - no public word for it
        raise KeyboardInterrupt
    server.log.info("Interrupted...")
    server.stop(from_signal=True)
