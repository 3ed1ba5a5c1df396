"""Gives events to jupyter_events: to the handlers that an operator configured, and to whoever subscribed.

A handler may write to a slow disk or a dead host. So each does its work in a thread of its own, behind a queue with an
end: what does not fit is dropped and counted, and neither the event loop nor a request waits.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_events import EventLogger

    from jupyter_sandbox.events import Event

SCHEMAS: Final = Path(__file__).with_name("event_schemas")
_MAX_WAITING: Final = 10_000
_FLUSH_S: Final = 3.0

log = logging.getLogger(__name__)


class Aside(logging.Handler):
    """Does another handler's work in a thread."""

    def __init__(self, handler: logging.Handler, on_drop: Callable[[], None]) -> None:
        """`on_drop` is called for each record that `handler` will never get."""
        super().__init__(handler.level)
        self._handler, self._on_drop = handler, on_drop
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING)
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        handler.setFormatter(logging.Formatter("%(message)s"))  # what comes is text already
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, as the text that its formatter makes of it."""
        try:
            fields = {"levelno": record.levelno, "levelname": record.levelname, "name": record.name}
            self._waiting.put_nowait(logging.makeLogRecord(fields | {"msg": self.format(record)}))
        except queue.Full:
            self._on_drop()
        except Exception:  # noqa: BLE001 - as every handler: what cannot be formatted is nobody's failure
            self.handleError(record)

    def finish(self, timeout_s: float) -> None:
        """Wait until all has been handled, but not for ever. Blocks."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._handler.handle(record)
                self._is_failing = False
            except Exception as error:  # noqa: BLE001 - it is an operator's; the next record may come through
                self._on_drop()
                if not self._is_failing:
                    log.warning("a handler of events fails, what it does not get is counted (%s)", type(error).__name__)
                self._is_failing = True


class EventLog:
    """Reads events for the server's event logger."""

    def __init__(self, logger: EventLogger, on_drop: Callable[[], None]) -> None:
        """Register our schemas, and move every handler that is there into a thread."""
        self._logger, self._on_drop = logger, on_drop
        self._asides = []
        self._complained_of: set[str] = set()
        for path in sorted(SCHEMAS.glob("*.yaml")):
            logger.register_event_schema(path)
        for handler in list(logger.handlers or ()):
            logger.remove_handler(handler)
            aside = Aside(handler, on_drop)
            logger.register_handler(aside)
            self._asides.append(aside)

    def __call__(self, event: Event, /) -> None:
        """See Emit. Judged against its schema and handed on when the event loop has done what it is at."""
        asyncio.get_running_loop().call_soon(self._hand_on, event, datetime.now(UTC))

    def _hand_on(self, event: Event, at: datetime) -> None:
        try:
            self._logger.emit(schema_id=event.schema_id(), data=encoded(event), timestamp_override=at)
        except Exception as error:  # noqa: BLE001 - a modifier or a listener of somebody else's may raise anything
            self._on_drop()
            if event.name not in self._complained_of:
                self._complained_of.add(event.name)
                log.warning("events %s are not emitted, and counted (%s)", event.name, type(error).__name__)

    async def stop(self) -> None:
        """Wait until what was told is handled, but not for ever."""
        await asyncio.sleep(0)  # what was told last is handed on
        for aside in self._asides:
            await asyncio.to_thread(aside.finish, _FLUSH_S)


def encoded(event: Event) -> dict[str, Any]:
    """Return an event as its schema says."""
    return {name: str(value) if isinstance(value, str) else value for name, value in vars(event).items()}
