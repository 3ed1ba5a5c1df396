"""The terminal of a command, and the way of its bytes from and to two pipes of the host.

The terminal is the worker's own, so that programs find it by its name, and the host holds pipes only: no descriptor
that something in the worker made ever comes to it. Runs in the agent's loop; each direction holds one block at most,
then its source waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandbox_worker.protocol import TerminalSize

_BLOCK: Final = 1 << 16


class Terminal:
    """A pseudo-terminal; `inner` is the end that becomes a command's."""

    def __init__(self, selector: selectors.BaseSelector, source: int, sink: int) -> None:
        """Own `source`, which gives what is typed, and `sink`, which takes what is shown; both are closed if it fails.

        Nothing moves before `show` and `let_type`.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, source)
            undo.callback(os.close, sink)
            self._outer, self.inner = os.openpty()
            undo.callback(os.close, self._outer)
            undo.callback(os.close, self.inner)
            typed = os.dup(self._outer)  # the loop watches each descriptor for one thing
            undo.pop_all()
        self._typed = _Flow(selector, source, typed)
        self._shown = _Flow(selector, self._outer, sink)

    def show(self) -> None:
        """Pass on what is shown; raises OSError when `sink` is no pipe."""
        self._shown.watch()

    def let_type(self) -> None:
        """Pass on what is typed. Before it is a command's controlling terminal, a Ctrl-C would be for nobody."""
        try:
            self._typed.watch()
        except OSError:  # `source` is no pipe
            self._typed.close()

    def resize(self, size: TerminalSize) -> None:
        """Set its size; the command gets SIGWINCH. Quiet when it has ended."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def end(self) -> None:
        """Its command has ended: what was shown before still goes its way, then everything is closed."""
        os.close(self.inner)  # held till now: a command may close its streams and open its terminal again
        self.inner = -1
        self._typed.close()

    def close(self) -> None:
        """Drop everything."""
        self.end()
        self._shown.close()


class _Flow:
    """Bytes on their way from one descriptor to another; it owns both, and closes them at the end of either."""

    def __init__(self, selector: selectors.BaseSelector, source: int, sink: int) -> None:
        self._selector, self._source, self._sink = selector, source, sink
        self._pending = b""
        self._watched: int | None = None
        self._is_closed = False
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def close(self) -> None:
        """Drop what is on its way; quiet when done twice."""
        if not self._is_closed:
            self._is_closed = True
            if self._watched is not None:
                self._selector.unregister(self._watched)
            os.close(self._source)
            os.close(self._sink)

    def _step(self, _mask: int) -> None:
        try:
            if not self._pending:
                self._pending = os.read(self._source, _BLOCK)
                if not self._pending:
                    self.close()
                    return
            self._pending = self._pending[os.write(self._sink, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody is at the other end: EPIPE of a pipe, EIO of a terminal
            self.close()
            return
        self.watch()

    def watch(self) -> None:
        """Wait for what is to be done next: to read, or to write what was read."""
        wanted = self._sink if self._pending else self._source
        if wanted != self._watched:
            if self._watched is not None:
                self._selector.unregister(self._watched)
                self._watched = None
            self._selector.register(
                wanted, selectors.EVENT_WRITE if self._pending else selectors.EVENT_READ, self._step
            )
            self._watched = wanted
