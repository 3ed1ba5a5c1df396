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
import logging
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from ipykernel.iostream import OutStream
from ipykernel.thread import CONTROL_THREAD_NAME

from sandbox_worker.publisher import Publisher

if TYPE_CHECKING:
    from types import FrameType

_log = logging.getLogger(__name__)
_PIPE_BYTES: Final = 1 << 16
"""Capacity of a pipe, see pipe(7): one read takes all there is."""
_ENDS: Final = frozenset({"execute_request", "dispatch_shell"})
"""ipykernel's functions that flush when the person's code is over: an interrupt of that code loses nothing here, but
one that comes too late for it can, with the reply."""
_WAIT: Final = frozenset({"", "_input_request", "execute_request"})
"""Who waits for what came before even with nothing to send: other code, and what is next on another channel, a question
or a reply."""


class Output(OutStream):
    """A kernel's stdout or stderr."""

    _has_timer = False

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As upstream, which starts the thread."""
        self._taking = threading.Lock()
        super().__init__(*arguments, **settings)
        os.register_at_fork(after_in_child=self._renew_locks)

    def flush(self) -> None:
        """Send what was written before, by whatever program.

        At the end of an execution, where ipykernel asks four times, it is sent here and now. Else who asks waits, if
        there is something: what is written next would be sent with it, and before what follows a flush.
        """
        if threading.current_thread().name == CONTROL_THREAD_NAME:
            return
        if self._should_watch and self._is_master_process():
            self._take()
        publisher = self.pub_thread
        if not isinstance(publisher, Publisher) or not publisher.is_elsewhere():
            super().flush()
            return
        asker = _asker(sys._getframe(1))  # noqa: SLF001 - as logging does
        if not self._buffers:
            must_wait = asker in _WAIT and publisher.has_more()
        elif asker in _ENDS and not publisher.has_more():
            self._send()
            must_wait = publisher.has_more()  # a timer came meanwhile
        else:
            publisher.schedule(self._send)
            must_wait = True
        if must_wait and not publisher.wait(self.flush_timeout):
            print("IOStream.flush timed out", file=sys.__stderr__)  # as upstream, for nothing else may work

    def _schedule_flush(self) -> None:
        """Have it sent soon. There is one timer at most, whatever was sent meanwhile."""
        if not isinstance(self.pub_thread, Publisher):
            super()._schedule_flush()
        elif not self._has_timer:
            self._has_timer = True
            try:
                self.pub_thread.schedule(lambda: self._io_loop.call_later(self.flush_interval, self._flush))
            except BaseException:  # an interrupt
                self._has_timer = False
                raise

    def _flush(self) -> None:
        """Have what is in the buffers sent in its turn: the timer wants it, or a process that was forked."""
        if isinstance(self.pub_thread, Publisher) and self._is_master_process():
            self._has_timer = False
            if self._buffers:
                self.pub_thread.schedule(self._send)
        else:
            super()._flush()

    def _send(self) -> None:
        """Send what is in the buffers. Nobody else takes anything out of them before that is sent.

        What cannot be sent, as text that is none (a lone surrogate), costs nobody a reply.
        """
        with self.pub_thread.turn:
            try:
                super()._flush()
            except Exception:  # noqa: BLE001 - the top of a flush
                _log.exception("Some output could not be sent")

    def _renew_locks(self) -> None:
        """Forget who held a lock as this process was forked: that thread is not here, and printing would never end."""
        self._taking, self._buffer_lock = threading.Lock(), threading.RLock()

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


def _asker(frame: FrameType) -> str:
    """Return the function of ipykernel that runs there, empty if it is other code."""
    return frame.f_code.co_name if str(frame.f_globals.get("__name__")).startswith("ipykernel.") else ""
