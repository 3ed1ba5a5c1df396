"""Send a message of several frames by a ZMQ socket so that no signal cuts it in two.

A handler of a signal may raise between two frames, as an interrupt does: the rest would be missing, and the next
message would be taken for it. pyzmq has Python call libzmq for each frame. libzmq itself takes them all in one call,
in which no handler runs: what one raises comes before the message or after it. A signal would end that call between
two frames (EINTR), so the main thread gets none meanwhile. Handlers run in no other thread, and one that blocked
signals for a moment could take what is meant to wake the main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

_MORE: Final = int(zmq.SNDMORE)
_LIBRARY: Final = re.compile(r"(/\S*libzmq\S*\.so\S*)$", re.MULTILINE)


_SET_BYTES: Final = 128
"""Size of a `sigset_t`, Linux's and musl's."""
_ALL: Final = b"\xff" * _SET_BYTES


class _Part(ctypes.Structure):
    """Its `struct iovec`."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


def _find() -> Any:
    """Return `zmq_sendiov` of the library that pyzmq has loaded, None if it cannot be found."""
    with contextlib.suppress(OSError, AttributeError):
        if loaded := _LIBRARY.search(Path("/proc/self/maps").read_text()):
            function = ctypes.CDLL(loaded[1], use_errno=True).zmq_sendiov
            function.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Part), ctypes.c_size_t, ctypes.c_int)
            return function
    return None


_send: Any = _find()
_mask: Any = ctypes.CDLL(None).pthread_sigmask
_mask.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)


def is_possible() -> bool:
    """Whether `send` can be used."""
    return _send is not None


def send(socket: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
    """Send all `frames`, bytes or buffers; raises TypeError for what is none, having sent nothing, and ZMQError."""
    if socket.closed:
        raise zmq.ZMQError(zmq.ENOTSOCK)
    if threading.current_thread() is not threading.main_thread():
        socket.send_multipart(frames)  # which goes on with the frame that a signal ended
        return
    parts = (_Part * len(frames))()
    for part, frame in zip(parts, frames, strict=True):
        part.data = data = frame if isinstance(frame, bytes) else bytes(memoryview(frame))
        part.size = len(data)
    handle, count = socket.underlying, len(parts)
    before = ctypes.create_string_buffer(_SET_BYTES)
    try:
        _mask(signal.SIG_BLOCK, _ALL, before)
        sent = _send(handle, parts, count, _MORE)
        error = ctypes.get_errno()
    finally:
        _mask(signal.SIG_SETMASK, before, None)
    if sent < 0:
        raise zmq.ZMQError(error)
