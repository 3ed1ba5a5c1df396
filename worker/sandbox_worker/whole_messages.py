"""Send a message of several frames by a ZMQ socket so that no signal cuts it in two.

A handler of a signal may raise between two frames, as an interrupt does: the rest would be missing, and the next
message would be taken for it. pyzmq lets handlers run before a frame as well as after it, so who catches what it raised
does not know whether that frame is out. libzmq itself runs none: what is raised is raised after a frame, and the rest
goes out first.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

_MORE: Final = int(zmq.SNDMORE)
_LIBRARY: Final = re.compile(r"(/\S*libzmq\S*\.so\S*)$", re.MULTILINE)


def _find() -> Any:
    """Return `zmq_send` of the library that pyzmq has loaded, None if it cannot be found."""
    with contextlib.suppress(OSError, AttributeError):
        if loaded := _LIBRARY.search(Path("/proc/self/maps").read_text()):
            function = ctypes.CDLL(loaded[1], use_errno=True).zmq_send
            function.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
            return function
    return None


_send: Any = _find()


def is_possible() -> bool:
    """Whether `send` can be used."""
    return _send is not None


def send(socket: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
    """Send all `frames`, which are bytes or buffers.

    Raises TypeError for what is none, having sent nothing, and ZMQError; what a handler raised comes after the message.
    """
    if socket.closed:
        raise zmq.ZMQError(zmq.ENOTSOCK)
    handle, parts = socket.underlying, []
    for frame in frames:
        data = frame if isinstance(frame, bytes) else bytes(memoryview(frame))
        parts.append((data, len(data)))
    raised: BaseException | None = None
    at, last, error = 0, len(parts) - 1, 0
    while at <= last and not error:
        try:
            while at <= last:
                data, size = parts[at]
                flags = _MORE if at < last else 0
                at += 1  # nothing can be raised from here until the frame is out
                if _send(handle, data, size, flags) < 0:
                    error = ctypes.get_errno()
                    break
        except BaseException as caught:  # noqa: BLE001 - of a handler; it is raised below
            raised = caught
    if raised is not None:
        raise raised
    if error:
        raise zmq.ZMQError(error)
