"""A kernel's output streams: who waits for what at a flush."""

from __future__ import annotations

import os
import threading
from collections import deque
from io import StringIO

import pytest
from ipykernel.thread import CONTROL_THREAD_NAME

from sandbox_worker.output import Output


class Publisher:
    """Stands for ipykernel's thread: alive, another one than ours, and as quick as can be."""

    def __init__(self) -> None:
        self.thread = self
        self.ident = threading.get_ident() + 1
        self._events: deque[object] = deque()
        self.scheduled = 0

    def is_alive(self) -> bool:
        return True

    def schedule(self, event) -> None:
        self.scheduled += 1
        event()


class Session:
    """Stands for ipykernel's session: tells what is sent, which takes until `going`."""

    def __init__(self) -> None:
        self.sent: tuple[str, ...] = ()
        self.sending, self.going = threading.Event(), threading.Event()
        self.going.set()

    def msg(self, _kind, content, parent):
        return content["text"]

    def send(self, _thread, message, ident):
        self.sending.set()
        self.going.wait(5)
        self.sent += (message,)


@pytest.fixture
def stream():
    made = Output.__new__(Output)
    made.session, made.topic, made.name, made.echo = Session(), b"", "stdout", None
    made._local = threading.local()
    made.pub_thread = Publisher()
    made._buffers = {}
    made._should_watch = False
    made._buffer_lock = threading.RLock()
    return made


def test_a_flush_with_nothing_to_send_waits_for_nobody(stream):
    stream.flush()
    assert stream.pub_thread.scheduled == 0


def test_what_was_written_is_sent_once(stream):
    stream._buffers = {frozenset(): StringIO("some words")}
    stream.flush()
    stream.flush()
    assert stream.session.sent == ("some words",)


def test_what_another_call_gave_the_thread_before_is_waited_for(stream):
    stream.pub_thread._events.append("a plot")
    stream.flush()
    assert stream.pub_thread.scheduled == 2  # its own flush, and the sign that all before it is done


def test_what_a_timer_is_just_sending_is_waited_for(stream):
    """Once: the end of a large output came after `idle` when the machine was busy, and nobody heard it."""
    stream._buffers = {frozenset(): StringIO("some words")}
    stream.session.going.clear()
    timer = threading.Thread(target=stream._flush)
    timer.start()
    assert stream.session.sending.wait(5)
    stream.flush()
    assert stream.pub_thread.scheduled == 2
    stream.session.going.set()
    timer.join()
    stream.flush()
    assert (stream.session.sent, stream.pub_thread.scheduled) == (("some words",), 2)


def test_a_request_on_control_does_not_cut_a_line_in_two(stream):
    stream._buffers = {frozenset(): StringIO("half a ")}
    control = threading.Thread(target=stream.flush, name=CONTROL_THREAD_NAME)
    control.start()
    control.join()
    assert stream.session.sent == ()
    stream._buffers[frozenset()].seek(0, os.SEEK_END)
    stream._buffers[frozenset()].write("line\n")
    stream.flush()
    assert stream.session.sent == ("half a line\n",)
