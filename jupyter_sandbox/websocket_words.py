"""What a client of a kernel websocket is told in the kernel's stead. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards.kernel_messages import Reason

if TYPE_CHECKING:
    from jupyter_sandbox.kernel_streams import Refusal

CUT: Final = "The connection was cut: {messages:,} messages with {size_bytes:,} bytes of output may be missing here."
DROPPED: Final = "{messages:,} messages with {size_bytes:,} bytes were dropped while this notebook was closed."
NO_ANSWER: Final = "The kernel became idle and did not answer."


def of_refusal(refusal: Refusal, max_bytes: int) -> str:
    """Return why a message of the kernel is not shown; one may have `max_bytes`."""
    if refusal.reason == Reason.CONNECTION:
        return "The kernel sent a message without end, or bytes that are no message. Its connection is made anew."
    if refusal.reason != Reason.TOO_LARGE:
        return f"A message of the kernel is not valid and was not shown ({refusal.reason})."
    return (
        f"Output too large: a message of {refusal.size_bytes:,} bytes was not shown. "
        f"One message may have {max_bytes >> 20} MiB (SandboxExtension.max_message_mib)."
    )


def error(words: str, name: str = "RefusedMessage") -> dict[str, Any]:
    """Return the content of the answer to an execution that ends with these words."""
    return {"status": "error", "ename": name, "evalue": words, "traceback": [words]}
