"""A judged message of a kernel in Jupyter's two wire formats for websockets. Pure.

Its frames are JSON already, so neither format needs them read or written a second time. What a stock server would
change on the way (dates that are not written as Jupyter writes them, the old protocol 4, buffers in the text format) is
left to the stock server's code.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.jsonutil import ISO8601_PAT

if TYPE_CHECKING:
    from jupyter_sandbox.guards.kernel_messages import Channel, Judged

_DATE: Final = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.(?!000000)\d{6})?Z"
)
"""A date that a stock server reads and writes as it is."""


def as_binary(channel: Channel, judged: Judged) -> bytes:
    """Return a count and as many offsets, 8 bytes each, then the channel's name and the frames."""
    pieces = [channel.encode(), *judged.body]
    offset = 8 * (len(pieces) + 2)
    numbers = [len(pieces) + 1, offset]
    for piece in pieces:
        offset += len(piece)
        numbers.append(offset)
    return b"".join([*(number.to_bytes(8, "little") for number in numbers), *pieces])


def as_text(channel: Channel, judged: Judged) -> bytes | None:
    """Return one JSON object in UTF-8, or None when a stock server would not pass the frames on as they are."""
    header = judged.header
    if len(judged.body) > 4 or not _is_current(header) or not (_is_kept(header) and _is_kept(judged.parent)):
        return None
    head, parent, metadata, content = judged.body
    msg_id = json.dumps(header["msg_id"]).encode()
    # in one expression: content may have 8 MiB, and is copied once
    return (
        b'{"header": %b, "msg_id": %b, "msg_type": "%b", "parent_header": %b, "metadata": %b, "content": %b, '
        b'"buffers": [], "channel": "%b"}'
        % (
            head,
            msg_id,
            judged.msg_type.encode(),
            parent,
            metadata,
            content,
            channel.encode(),
        )
    )


def _is_current(header: dict[str, Any]) -> bool:
    """Whether a stock server adds nothing: it dates what has no date and translates the protocol's version 4."""
    version = header.get("version")
    return "date" in header and version is not None and version.partition(".")[0].lstrip("0") != "4"


def _is_kept(header: dict[str, Any]) -> bool:
    """Whether all dates of a header, by whatever name, are written as a stock server writes them."""
    for value in header.values():
        if isinstance(value, str):
            if ISO8601_PAT.match(value) and not _DATE.fullmatch(value):
                return False
        elif isinstance(value, dict | list):
            return False
    return True
