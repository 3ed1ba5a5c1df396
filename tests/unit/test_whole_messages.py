"""No signal cuts a message in two."""

from __future__ import annotations

import signal
import threading

import pytest
import zmq

from sandbox_worker import whole_messages

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def pair():
    with zmq.Context() as context, context.socket(zmq.PAIR) as sender, context.socket(zmq.PAIR) as receiver:
        for each in (sender, receiver):
            each.linger = 0
        receiver.rcvhwm = sender.sndhwm = 0
        receiver.bind("inproc://pair")
        sender.connect("inproc://pair")
        yield sender, receiver


class Tick(Exception):
    """What a handler raises."""


def test_what_handlers_raise_comes_when_the_message_is_out(pair):
    sender, receiver = pair
    raised = 0

    def tick(_signal, _frame):
        raise Tick

    before = signal.signal(signal.SIGALRM, tick)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        number = 0
        while number < 5000:
            try:
                frames = [b"%d" % number] * 6
                number += 1
                whole_messages.send(sender, frames)
            except Tick:
                raised += 1
    except Tick:
        pass  # between two messages
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    numbers = []
    while receiver.poll(0):
        frames = receiver.recv_multipart()
        assert frames == [frames[0]] * 6
        numbers.append(int(frames[0]))
    assert raised > 0
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("frame", ["text", None, 3])
def test_nothing_is_sent_of_what_cannot_be(pair, frame):
    sender, receiver = pair
    with pytest.raises(TypeError):
        whole_messages.send(sender, [b"a", frame])
    whole_messages.send(sender, [b"c", memoryview(b"d"), zmq.Frame(b"e")])
    assert receiver.recv_multipart() == [b"c", b"d", b"e"]


def test_other_threads_take_no_signal_by_blocking_it_for_a_moment(pair, monkeypatch):
    """A signal for the main thread that waits for a processor is anybody's who unblocks it: once an interrupt was lost."""
    monkeypatch.setattr(whole_messages, "_mask", None)
    thread = threading.Thread(target=whole_messages.send, args=(pair[0], [b"a", b"b"]))
    thread.start()
    thread.join()
    assert pair[1].recv_multipart() == [b"a", b"b"]


def test_a_closed_socket_is_told(pair):
    sender, _ = pair
    sender.close()
    with pytest.raises(zmq.ZMQError):
        whole_messages.send(sender, [b"a"])


def test_frames_of_any_size_arrive_as_they_are(pair):
    sender, receiver = pair
    frames = [b"", b"\0a\0", bytes(1 << 20), bytearray(b"b"), memoryview(b"cdef")[::2]]
    whole_messages.send(sender, frames)
    assert receiver.recv_multipart() == [bytes(frame) for frame in frames]


def test_no_signal_comes_amid_the_frames_and_all_do_afterwards(pair, monkeypatch):
    """It would end libzmq's call between two of them."""
    send, masks = whole_messages._send, []

    def seen(*arguments):
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return send(*arguments)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(whole_messages, "_send", seen)
    whole_messages.send(pair[0], [b"a", b"b"])
    assert {signal.SIGINT, signal.SIGALRM, signal.SIGTERM} <= masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
