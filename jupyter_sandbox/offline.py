"""What a kernel says while its client is away, kept within bounds until it comes back.

Jupyter's manager keeps it, in a list without end, and hands it to the client that has the session it was kept for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_client.session import Session

from jupyter_sandbox import open_requests, websocket_words
from jupyter_sandbox.guards import kernel_messages
from jupyter_sandbox.guards.kernel_messages import RefusedMessageError
from jupyter_sandbox.outlets import Item, OfflineBuffer
from jupyter_sandbox.receipts import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.guards.kernel_messages import Channel, Judged
    from jupyter_sandbox.open_requests import Header
    from jupyter_sandbox.receipts import Receipts

_CHANNELS: Final = ("iopub", "shell", "control", "stdin")


def bound(
    multi_manager: Any,
    kernel_id: str,
    session: Session,
    streams: Iterable[Any],
    max_bytes: int,
    receipts: Receipts | None = None,
) -> None:
    """Give what is kept of a kernel for `session` an end; quiet when nothing is. `streams`: where it comes from.

    It begins with what the client may not have got, as far as there are `receipts` of that.
    """
    kept = _kept(multi_manager, kernel_id, session)
    if kept is None:
        return

    def mark(words: str, messages: int, size_bytes: int, parent: Header) -> Item:
        content = {"name": "stderr", "text": words.format(messages=messages, size_bytes=size_bytes) + "\n"}
        message = session.msg("stream", content, parent=open_requests.plain(parent))
        return "iopub", Mark(session.serialize(message, ident=b"stream"), messages, size_bytes)

    def marker(messages: int, size_bytes: int, parent: Header) -> Item:
        return mark(websocket_words.DROPPED, messages, size_bytes, parent)

    buffer = OfflineBuffer(max_bytes, marker)
    missing, ends = receipts.take() if receipts else ([], [])
    for each in missing:
        buffer.append(mark(websocket_words.CUT, each.messages, each.size_bytes, each.parent))
    for item in ends:
        buffer.append(item)
    kept["buffer"] = buffer
    for stream in streams:
        if not stream.closed():
            stream.on_refusal(lambda refusal: buffer.drop(refusal.size_bytes, refusal.parent))
            stream.resume()


def keep(multi_manager: Any, kernel_id: str, session: Session, item: Item) -> None:
    """Keep a message that came for a websocket that is closed, if its client's messages are kept."""
    kept = _kept(multi_manager, kernel_id, session)
    if kept is not None:
        kept["buffer"].append(item)


def judged(session: Session, channel: Channel, parts: list[bytes], max_bytes: int) -> Judged | None:
    """Return a message that was kept, with what was known of it when it came; None if it is none of the kernel's."""
    try:
        return kernel_messages.judge(channel, parts, session.sign, max_bytes)
    except RefusedMessageError:
        return None


def _kept(multi_manager: Any, kernel_id: str, session: Session) -> Any:
    kept = getattr(multi_manager, "_kernel_buffers", {}).get(kernel_id)
    return kept if kept and kept["session_key"] == f"{kernel_id}:{session.session}" else None


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
