"""Streams that say now and then that they are still there, so that nobody on the way gives them up."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


HEADER: Final = "Keepalive-Ping-Interval"
_SECONDS: Final = re.compile(r"[0-9]{1,5}")


def interval_s(asked: str | None, usual_s: float) -> float:
    """Return how long a stream may be silent: as its client asks in seconds, but from 1 s to what is usual."""
    return min(max(int(asked), 1), usual_s) if asked is not None and _SECONDS.fullmatch(asked) else usual_s


async def with_keepalives(
    events: AsyncGenerator[dict[str, Any], None], keepalive: dict[str, Any], every_s: float
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield events, and `keepalive` whenever none came for so long."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=every_s)
            if not done:
                yield keepalive
                continue
            event = coming.result()
            if event is None:
                return
            yield event
            coming = asyncio.ensure_future(anext(events, None))
    finally:
        coming.cancel()
        await asyncio.wait([coming])  # what is being closed must not be asked for more
        await events.aclose()
