"""What a kernel says while its client is away, kept within bounds until it comes back.

Jupyter's manager keeps it, in a list without end, and hands it to the client that has the session it was kept for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_client.session import Session

from jupyter_sandbox import open_requests
from jupyter_sandbox.outlets import Item, OfflineBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.open_requests import Header

_CHANNELS: Final = ("iopub", "shell", "control", "stdin")


def bound(multi_manager: Any, kernel_id: str, session: Session, streams: Iterable[Any], max_bytes: int) -> None:
    """Give what is kept of a kernel for `session` an end; quiet when nothing is. `streams`: where it comes from."""
    kept = getattr(multi_manager, "_kernel_buffers", {})
    if kernel_id not in kept or kept[kernel_id]["session_key"] != f"{kernel_id}:{session.session}":
        return

    def marker(count: int, size_bytes: int, parent: Header) -> Item:
        words = f"{count} messages with {size_bytes:,} bytes were dropped while this notebook was closed.\n"
        message = session.msg("stream", {"name": "stderr", "text": words}, parent=open_requests.plain(parent))
        return "iopub", session.serialize(message, ident=b"stream")

    buffer = OfflineBuffer(max_bytes, marker)
    kept[kernel_id]["buffer"] = buffer
    for stream in streams:
        if not stream.closed():
            stream.on_refusal(lambda refusal: buffer.drop(refusal.size_bytes, refusal.parent))
            stream.resume()


def expect(multi_manager: Any, kernel_id: str, session_id: str, max_bytes: int) -> None:
    """Begin to keep what a kernel says for a client that will come with that session."""
    kernel = multi_manager.get_kernel(kernel_id)
    session = Session(key=kernel.session.key, session=session_id)
    channels = {}
    for name in _CHANNELS:
        channels[name] = stream = getattr(kernel, f"connect_{name}")(identity=session.bsession)
        stream.channel = name
    multi_manager.start_buffering(kernel_id, f"{kernel_id}:{session_id}", channels)
    bound(multi_manager, kernel_id, session, channels.values(), max_bytes)
