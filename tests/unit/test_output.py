"""A kernel's output streams: who sends what is written, in which order, and who waits for it."""

from __future__ import annotations

import os
import threading
import time

import pytest
import zmq
from ipykernel.iostream import IOPubThread
from ipykernel.thread import CONTROL_THREAD_NAME
from jupyter_client.session import Session

from sandbox_worker.output import Output
from sandbox_worker.publisher import Publisher, take_over

pytestmark = pytest.mark.timeout(30)

_PATIENCE_MS = 5_000


class Kernel:
    """A stream, the thread that publishes, and somebody who hears it."""

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        socket, self.subscriber = context.socket(zmq.XPUB), context.socket(zmq.SUB)
        for each in (socket, self.subscriber):
            each.linger = 0
        socket.bind(endpoint)
        self.session = Session(key=b"key")
        self.publisher = IOPubThread(socket, session=self.session)
        self.publisher.start()
        take_over(self.publisher)
        done = threading.Event()
        self.publisher.schedule(done.set)
        assert done.wait(5)
        self.scheduled = 0
        self.subscriber.subscribe(b"")
        self.subscriber.connect(endpoint)
        assert self.hear() == "iopub_welcome"
        assert isinstance(self.publisher, Publisher)
        self.stream = Output(self.session, self.publisher, "stdout", watchfd=False)
        self.publisher.schedule = self._schedule

    def _schedule(self, event) -> None:
        self.scheduled += 1
        Publisher.schedule(self.publisher, event)

    def hear(self, patience_ms: int = _PATIENCE_MS) -> str:
        """What is published next: the text of a stream, the name of anything else, `nothing`."""
        if not self.subscriber.poll(patience_ms):
            return "nothing"
        _, frames = self.session.feed_identities(self.subscriber.recv_multipart())
        message = Session(key=b"key").deserialize(frames)
        return message["content"].get("text", message["msg_type"])

    def publish(self, name: str) -> None:
        self.session.send(self.publisher, name, {})


@pytest.fixture
def kernel(tmp_path):
    with zmq.Context() as context:
        kernel = Kernel(context, f"ipc://{tmp_path}/iopub")
        yield kernel
        kernel.publisher.stop()
        kernel.publisher.close()
        kernel.subscriber.close()


def as_ipykernel(function: str):
    """A function of ipykernel's that flushes a stream."""
    names = {"__name__": "ipykernel.kernelbase"}
    exec(f"def {function}(stream): stream.flush()", names)
    return names[function]


@pytest.fixture
def busy(kernel):
    """The thread that publishes is kept from it until this is set."""
    going, is_busy = threading.Event(), threading.Event()

    def work() -> None:
        is_busy.set()
        going.wait(10)

    kernel.publisher.schedule(work)
    assert is_busy.wait(5)
    kernel.scheduled = 0
    yield going
    going.set()


def test_a_flush_with_nothing_to_send_waits_for_nobody(kernel):
    kernel.stream.flush()
    assert kernel.scheduled == 0


def test_what_was_written_is_sent_once(kernel):
    kernel.stream.write("some words")
    kernel.stream.flush()
    kernel.stream.flush()
    kernel.publish("the_end")
    assert [kernel.hear(), kernel.hear()] == ["some words", "the_end"]


def test_at_the_end_of_an_execution_no_other_thread_is_needed(kernel):
    for number in range(50):
        kernel.stream.write(f"{number}")
        as_ipykernel("execute_request")(kernel.stream)
        kernel.publish("idle")
    assert kernel.scheduled <= 6  # one timer for all of them, or two, and the flush that comes just then
    assert [kernel.hear() for _ in range(100)] == [word for number in range(50) for word in (f"{number}", "idle")]


def test_what_is_written_and_not_flushed_is_sent_by_the_timer(kernel):
    for word in ("soon", "and again"):
        kernel.stream.write(word)
        assert kernel.hear() == word


def test_an_interrupt_while_a_timer_is_asked_for_costs_no_later_output(kernel, monkeypatch):
    def interrupted(_event):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernel.publisher, "schedule", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kernel.stream.write("some ")
    kernel.stream.write("words")
    assert kernel.hear() == "some words"


def test_code_that_flushes_waits_until_all_is_sent(kernel, busy):
    kernel.publish("a_plot")
    kernel.stream.write("some words")
    flushing = threading.Thread(target=kernel.stream.flush)
    flushing.start()
    flushing.join(0.1)
    assert flushing.is_alive()
    busy.set()
    flushing.join()
    assert [kernel.hear(0) for _ in range(2)] == ["a_plot", "some words"]


ASKERS = ("execute_request", "_input_request", "dispatch_shell", "_flush_streams", "__call__")


@pytest.mark.parametrize("asker", ASKERS)
def test_what_is_written_after_a_flush_is_sent_after_what_follows_it(kernel, busy, asker):
    """Once: cells that clear their output kept some, since what they printed next was sent with what they had."""
    kernel.stream.write("before")
    flushing = threading.Thread(target=as_ipykernel(asker), args=(kernel.stream,))
    flushing.start()
    flushing.join(0.1)
    assert flushing.is_alive()
    busy.set()
    flushing.join()
    kernel.publish("clear_output")
    kernel.stream.write("after")
    kernel.stream.flush()
    assert [kernel.hear() for _ in range(3)] == ["before", "clear_output", "after"]


@pytest.mark.parametrize("asker", ASKERS)
def test_with_nothing_to_send_only_what_goes_by_another_channel_waits(kernel, busy, asker):
    """A reply, or a question to the person."""
    kernel.publish("a_plot")
    flushing = threading.Thread(target=as_ipykernel(asker), args=(kernel.stream,))
    flushing.start()
    flushing.join(0.1)
    assert flushing.is_alive() == (asker in {"execute_request", "_input_request"})
    busy.set()
    flushing.join()
    assert kernel.hear() == "a_plot"


def test_a_timer_that_comes_while_the_end_of_an_execution_is_sent_is_waited_for(kernel, monkeypatch):
    send = kernel.session.send

    def sent(*arguments, **settings):
        send(*arguments, **settings)
        kernel.publisher.schedule(lambda: time.sleep(0.1))

    kernel.stream.write("some words")
    monkeypatch.setattr(kernel.session, "send", sent)
    time.sleep(0.05)  # the timer has been asked for
    as_ipykernel("dispatch_shell")(kernel.stream)
    assert not kernel.publisher.has_more()


def test_what_a_timer_is_just_sending_comes_first(kernel, monkeypatch):
    """Once: the end of a large output came after `idle` when the machine was busy, and nobody heard it."""
    sending, going = threading.Event(), threading.Event()
    send = kernel.session.send

    def slow(*arguments, **settings):
        if threading.current_thread() is kernel.publisher.thread:
            sending.set()
            going.wait(5)
        return send(*arguments, **settings)

    monkeypatch.setattr(kernel.session, "send", slow)
    kernel.stream.write("some words")
    assert sending.wait(5)
    as_ipykernel("dispatch_shell")(kernel.stream)
    kernel.publish("idle")
    going.set()
    assert [kernel.hear(), kernel.hear()] == ["some words", "idle"]


def test_a_request_on_control_does_not_cut_a_line_in_two(kernel):
    kernel.stream.write("half a ")
    control = threading.Thread(target=kernel.stream.flush, name=CONTROL_THREAD_NAME)
    control.start()
    control.join()
    kernel.stream.write("line\n")
    kernel.stream.flush()
    assert kernel.hear() == "half a line\n"


def test_a_process_that_was_forked_while_others_print_can_print(kernel):
    held, going = threading.Event(), threading.Event()

    def hold() -> None:
        with kernel.stream._buffer_lock, kernel.stream._taking:
            held.set()
            going.wait(10)

    threading.Thread(target=hold).start()
    assert held.wait(5)
    child = os.fork()
    if child == 0:
        locks = (kernel.stream._buffer_lock, kernel.stream._taking)
        os._exit(0 if all(lock.acquire(blocking=False) for lock in locks) else 1)
    going.set()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("lock", ["gate", "turn"])
def test_a_handler_that_flushes_amid_a_message_does_not_wait_for_itself(kernel, lock):
    kernel.stream.write("some words")
    with getattr(kernel.publisher, lock):
        began = time.monotonic()
        kernel.stream.flush()
        assert time.monotonic() - began < kernel.stream.flush_timeout / 2
    assert kernel.hear() == "some words"


@pytest.mark.parametrize("asker", ["execute_request", "dispatch_shell"])
def test_text_that_is_none_is_told_and_costs_nobody_a_reply(kernel, caplog, asker):
    kernel.stream.write("\ud800")
    as_ipykernel(asker)(kernel.stream)
    assert "could not be sent" in caplog.text
    kernel.stream.write("some words")
    as_ipykernel(asker)(kernel.stream)
    assert kernel.hear() == "some words"


def test_what_an_object_prints_as_it_goes_does_not_hold_up_who_sends(kernel):
    """Garbage is collected anywhere: while a line is written, and while a message is sent."""
    going, is_writing = threading.Event(), threading.Event()

    def write_and_publish() -> None:
        with kernel.stream._buffer_lock:
            is_writing.set()
            going.wait(5)
            kernel.publish("a_widget_is_closed")

    kernel.stream.write("some words")
    writing = threading.Thread(target=write_and_publish)
    writing.start()
    assert is_writing.wait(5)
    ending = threading.Thread(target=as_ipykernel("dispatch_shell"), args=(kernel.stream,))
    ending.start()
    ending.join(0.1)
    going.set()
    for thread in (writing, ending):
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(kernel.hear() for _ in range(2)) == ["a_widget_is_closed", "some words"]
