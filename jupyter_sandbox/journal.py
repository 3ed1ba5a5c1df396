"""The journal: what services tell goes to everybody who reads events, with who asked for it.

A reader that fails is its own business: neither the other readers nor the service that told notice.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from jupyter_sandbox import owners, request_ids

if TYPE_CHECKING:
    from jupyter_sandbox.events import Emit, Event

log = logging.getLogger(__name__)


class Journal:
    """Is an `Emit`. Readers are called in the event loop, one after the other, and return at once."""

    def __init__(self, *readers: Emit) -> None:
        """`readers`: in the order in which they are told."""
        self._readers = readers

    def __call__(self, event: Event, /) -> None:
        """Tell an event. See Emit."""
        try:
            told = dataclasses.replace(
                event,
                owner=owners.current() if event.owner is None else event.owner,
                request_id=request_ids.current() if event.request_id is None else event.request_id,
            )
        except Exception:
            log.exception("nobody knows in which request an event happened")
            told = event
        for read in self._readers:
            try:
                read(told)
            except Exception:
                log.exception("an event %s was not read", event.name)
