"""The output streams of a kernel: ipykernel's, but what other programs wrote is part of a flush.

What reaches our file descriptors 1 and 2 without Python (a subprocess, a C library) goes through a pipe that a thread
reads. ipykernel flushes at the end of each execution what that thread happens to have read by then: the rest comes
after `idle`, when a client such as nbclient does not listen any more. Here whoever flushes reads the pipe first.

ipykernel also flushes after each request on the control channel, in a thread of its own: a line that code prints
meanwhile came in two pieces whenever somebody asked, as our server does before a kernel's first code. Such a flush does
nothing here; what is there goes with the next one, after ipykernel's 0.2 s at the latest.
"""

from __future__ import annotations

import contextvars
import os
import select
import threading
from typing import Any, Final

from ipykernel.iostream import OutStream
from ipykernel.thread import CONTROL_THREAD_NAME

_PIPE_BYTES: Final = 1 << 16
"""Capacity of a pipe, see pipe(7): one read takes all there is."""


class Output(OutStream):
    """A kernel's stdout or stderr."""

    _is_sending = False

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As upstream, which starts the thread."""
        self._taking = threading.Lock()
        super().__init__(*arguments, **settings)

    def flush(self) -> None:
        """Send what was written before, by whatever program, and wait until it has left this thread.

        Nobody is waited for when there is nothing: each execution makes four flushes and more.
        """
        if threading.current_thread().name == CONTROL_THREAD_NAME:
            return
        if self._should_watch and self._is_master_process():
            self._take()
        unsent = getattr(self, "_buffers", True)  # an ipykernel that keeps them elsewhere: flush as it does
        if unsent or self._is_sending or getattr(self.pub_thread, "_events", True):
            super().flush()

    def _flush(self) -> None:
        """Send what is in the buffers: of a flush, or by a timer of the thread that publishes.

        What the timer has taken out of them is not in its queue yet: `idle` would come before it, and who waits for
        that would miss the rest.
        """
        self._is_sending = True
        try:
            super()._flush()
        finally:
            self._is_sending = False

    def _watch_pipe_fd(self) -> None:
        """Run in the thread: take what comes, as it comes."""
        arrival = select.poll()
        arrival.register(self._pipe(), select.POLLIN)
        while self._should_watch:
            arrival.poll()
            self._take()

    def _take(self) -> None:
        """Write what is in the pipe, for ipykernel and for the log of the agent; returns at once when nothing is."""
        with self._taking:
            here = select.poll()
            here.register(self._pipe(), select.POLLIN)
            if not here.poll(0):
                return
            data = os.read(self._pipe(), _PIPE_BYTES)
            if not data or not self._should_watch:  # closed
                self._should_watch = False
                return
            text = data.decode(errors="replace")
            contextvars.Context().run(self.write, text)  # of the latest request, not of whoever flushes
            os.write(self._original_stdstream_copy, data)

    def _pipe(self) -> int:
        """Return the reading end of the pipe; there is one when `_should_watch`."""
        if self._fid is None:
            raise ValueError("this stream watches no descriptor")
        return int(self._fid)
