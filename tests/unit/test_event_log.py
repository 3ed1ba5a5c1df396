"""The journal and the event log: whoever reads events may be slow, full or broken, and nobody else notices."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from jupyter_events import EventLogger

from jupyter_sandbox import events
from jupyter_sandbox.event_log import EventLog
from jupyter_sandbox.journal import Journal
from tests.conftest import eventually
from tests.unit.test_events import example

pytestmark = pytest.mark.unit

REFUSED = example(events.RequestRefused)


class Collecting(logging.Handler):
    """Keeps lines; waits for `gate` before each, or fails at all."""

    def __init__(self, gate: threading.Event | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._gate, self._error = gate, error

    def emit(self, record):
        if self._gate is not None:
            self._gate.wait(10)
        if self._error is not None:
            raise self._error
        self.lines.append(self.format(record))


@pytest.fixture
def event_log(jp_asyncio_loop):
    """Make an event log with handlers; it is stopped at the end."""
    made = []

    def make(*handlers, on_drop=lambda: None):
        logger = EventLogger(handlers=list(handlers))
        log = EventLog(logger, on_drop)
        made.append(log)
        return log, logger

    yield make
    for log in made:
        jp_asyncio_loop.run_until_complete(log.stop())


async def test_a_handler_gets_each_event_as_one_line(event_log):
    handler = Collecting()
    log, _ = event_log(handler)
    for kind in events.ALL:
        log(example(kind))
    await eventually(lambda: len(handler.lines) == len(events.ALL))
    told = [json.loads(line) for line in handler.lines]
    assert [each["__schema__"] for each in told] == [kind.schema_id() for kind in events.ALL]
    assert all(line.isascii() and "\n" not in line for line in handler.lines)
    assert told[0]["owner"] == "user alice"


async def test_a_handler_that_hangs_holds_up_nobody_and_what_it_misses_is_counted(event_log, monkeypatch):
    monkeypatch.setattr("jupyter_sandbox.event_log._MAX_WAITING", 5)
    gate, dropped = threading.Event(), []
    slow, quick = Collecting(gate), Collecting()
    log, _ = event_log(slow, quick, on_drop=lambda: dropped.append(1))
    began = time.monotonic()
    for number in range(20):
        log(REFUSED)
        await eventually(lambda: len(quick.lines) == number + 1)  # noqa: B023 - waited for at once
    assert time.monotonic() - began < 5
    assert slow.lines == []
    gate.set()
    await eventually(lambda: len(slow.lines) + len(dropped) == 20)
    assert len(slow.lines) in {5, 6}  # those in the queue, and one that was on its way


async def test_a_handler_that_fails_is_asked_again_and_its_failures_are_counted(event_log):
    dropped = []
    broken, sound = Collecting(error=OSError("no such host")), Collecting()
    log, _ = event_log(broken, sound, on_drop=lambda: dropped.append(1))
    log(REFUSED)
    log(REFUSED)
    await eventually(lambda: len(dropped) == 2 and len(sound.lines) == 2)


async def test_a_modifier_that_fails_fails_nobody_who_told(event_log):
    dropped = []
    log, logger = event_log(Collecting(), on_drop=lambda: dropped.append(1))

    def modify(schema_id, data):
        raise ValueError(data)

    logger.add_modifier(schema_id=events.RequestRefused.schema_id(), modifier=modify)
    log(REFUSED)
    await eventually(lambda: dropped == [1])


async def test_a_stop_waits_for_what_was_told_but_not_for_ever(event_log, monkeypatch):
    handler = Collecting()
    log, _ = event_log(handler)
    log(REFUSED)
    await log.stop()
    assert len(handler.lines) == 1
    monkeypatch.setattr("jupyter_sandbox.event_log._FLUSH_S", 0.05)
    gate = threading.Event()
    stuck, _ = event_log(Collecting(gate))
    stuck(REFUSED)
    began = time.monotonic()
    await stuck.stop()
    assert time.monotonic() - began < 5
    gate.set()


def test_a_reader_that_fails_is_noticed_by_nobody_else(caplog):
    read = []

    def broken(event):
        raise ValueError("x")

    Journal(broken, read.append)(REFUSED)
    assert read == [REFUSED]
    assert "was not read" in caplog.text


def test_outside_a_request_nothing_is_filled_in():
    read = []
    Journal(read.append)(events.RequestRefused(code="conflict"))
    assert (read[0].owner, read[0].request_id) == (None, None)
