"""Who reads a kernel's shell channel: one thread at a time, whatever comes when."""

from __future__ import annotations

import json
import signal
import threading
from types import SimpleNamespace

import pytest
import zmq
from ipykernel.shellchannel import ShellChannelThread
from tornado.ioloop import IOLoop
from zmq.eventloop.zmqstream import ZMQStream

from sandbox_worker import shell_channel, whole_messages
from sandbox_worker.shell_channel import ShellChannel, _is_for_subshell

pytestmark = pytest.mark.timeout(30)


class Shell:
    """A shell channel with its thread, and a client that has sent something before anybody reads."""

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        self.socket, self.client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for each in (self.socket, self.client):
            each.linger = 0
        self.socket.bind(endpoint)
        self.client.connect(endpoint)
        self.client.send(b"early")
        assert self.socket.poll(5000)
        self.thread = ShellChannelThread(context, daemon=True)
        self.stream = self.thread.shell_stream = ZMQStream(self.socket, self.thread.io_loop)
        self.heard: list[bytes] = []
        self.has_heard = threading.Event()

    def hear(self, frames: list[bytes]) -> None:
        self.heard.append(frames[-1])
        self.has_heard.set()

    def settle(self) -> None:
        """Wait until the thread has done what it was given."""
        done = threading.Event()
        self.thread.io_loop.add_callback(self.thread.io_loop.add_callback, done.set)
        assert done.wait(5)


@pytest.fixture
def shell(tmp_path):
    with zmq.Context() as context:
        shell = Shell(context, f"ipc://{tmp_path}/shell")
        yield shell
        shell.thread.stop()
        shell.thread.join()
        for each in (shell.socket, shell.client):
            each.close()


def test_what_came_before_anybody_listened_is_left_to_the_main_thread(shell):
    """Two threads read it once, when many kernels started at the same time, and a request was heard by nobody."""
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    shell.stream.on_recv(shell.hear)
    shell.thread.start()
    shell.settle()
    assert shell.heard == []
    channel.hand_over()
    assert shell.has_heard.wait(5)
    assert shell.heard == [b"early"]


def test_who_is_handed_the_channel_hears_what_comes_later_too(shell):
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    shell.stream.on_recv(shell.hear)
    shell.thread.start()
    channel.hand_over()
    channel.hand_over()
    for number in range(100):
        shell.client.send(b"%d" % number)
    while len(shell.heard) < 101:
        shell.has_heard.clear()
        if len(shell.heard) < 101:
            assert shell.has_heard.wait(5)
    assert shell.heard == [b"early", *(b"%d" % number for number in range(100))]
    assert not channel.send([b"nobody", b"a reply"])


def test_who_sends_by_the_stream_itself_is_heard_before_what_comes_later(shell):
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    shell.stream.on_recv(shell.hear)
    identity = shell.socket.recv_multipart()[0]
    shell.stream.send_multipart([identity, b"a reply"])
    assert not channel.send([identity, b"a later one"])
    shell.thread.start()
    assert shell.client.poll(5000)
    assert shell.client.recv() == b"a reply"


@pytest.mark.parametrize("is_possible", [True, False])
def test_a_kernel_with_other_internals_is_read_as_upstream(shell, monkeypatch, is_possible):
    monkeypatch.setattr(whole_messages, "is_possible", lambda: is_possible)
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    shell.stream.on_recv(shell.hear)
    shell.thread.start()
    channel.begin(SimpleNamespace())
    assert shell.has_heard.wait(5)


def test_replies_go_out_whole_and_requests_that_come_meanwhile_are_looked_for(shell):
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    is_told = threading.Event()
    channel._look = is_told.set
    shell.thread.start()
    identity = shell.socket.recv_multipart()[0]
    assert channel.send([identity, b"a reply"])
    assert shell.client.recv() == b"a reply"
    shell.settle()
    assert not is_told.is_set()
    shell.client.send(b"late")
    assert shell.socket.poll(5000)
    assert channel.send([identity, b"another"])
    assert is_told.wait(5)
    assert [channel._arrived.next()[-1].bytes for _ in range(len(channel._arrived))] == [b"late"]


def test_an_interrupt_of_a_reply_does_not_hide_a_request(shell, monkeypatch):
    """To send the reply takes the socket's sign, and there is no other one."""

    def interrupted(_socket, _frames):
        raise KeyboardInterrupt

    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    is_told = threading.Event()
    channel._look = is_told.set
    shell.thread.start()
    monkeypatch.setattr(whole_messages, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        channel.send([b"client", b"a reply"])
    assert is_told.wait(5)


def test_a_signal_handler_that_raises_does_not_hide_a_request(shell, monkeypatch):
    """It may do so at any time, most probably in the 2 ms for which a new client's request waits for others."""
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    shell.thread.start()
    looks = []
    monkeypatch.setattr(channel, "_look", lambda: looks.append(1))

    def alarm(_seconds):
        raise TimeoutError("the user's own")

    with zmq.Context() as context, context.socket(zmq.DEALER) as another:
        another.linger = 0
        another.connect(shell.socket.last_endpoint.decode())
        assert channel._take()[0][-1].bytes == b"early"
        another.send(b"new")
        assert shell.socket.poll(5000)
        monkeypatch.setattr(shell_channel, "time", SimpleNamespace(sleep=alarm))
        with pytest.raises(TimeoutError):
            channel._on_readable()
    assert looks
    assert channel._take()[0][-1].bytes == b"new"


def test_many_new_clients_wait_once(shell, monkeypatch):
    channel, sleeps = ShellChannel(shell.socket, shell.thread, shell.stream), []
    shell.thread.start()
    monkeypatch.setattr(shell_channel, "time", SimpleNamespace(sleep=sleeps.append))
    with zmq.Context() as context:
        clients = [context.socket(zmq.DEALER) for _ in range(20)]
        for each in clients:
            each.linger = 0
            each.connect(shell.socket.last_endpoint.decode())
            each.send(b"new")
        while len(channel._arrived) < 21:
            before = len(sleeps)
            with channel._lock:
                channel._read()
            assert len(sleeps) <= before + 1
        for each in clients:
            each.close()


def test_who_is_handed_the_channel_hears_first_what_was_kept(shell):
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    channel._kernel = SimpleNamespace(
        shell_channel_thread_main=lambda frames: shell.hear([each.bytes for each in frames])
    )
    shell.stream.on_recv(shell.hear)
    channel._keep()
    assert channel._arrived
    shell.client.send(b"late")
    assert shell.socket.poll(5000)
    channel.hand_over()
    shell.thread.start()
    while len(shell.heard) < 2:
        assert shell.has_heard.wait(5)
        shell.has_heard.clear()
    assert shell.heard == [b"early", b"late"]


def test_no_interrupt_ends_an_abort_half_way(shell):
    """Every request would be aborted from then on."""
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    channel._kernel = SimpleNamespace(_aborting=False)
    handled, listeners = [], []

    def handle(_callback, frames) -> None:
        listeners.append(signal.getsignal(signal.SIGINT))
        handled.append(frames[-1].bytes)

    channel._hear = None, handle
    before = signal.getsignal(signal.SIGINT)
    channel._abort()
    assert handled == [b"early", b"stop aborting"]
    assert channel._kernel._aborting
    assert listeners == [signal.SIG_IGN] * 2
    assert signal.getsignal(signal.SIGINT) is before
    shell.thread.start()


@pytest.mark.parametrize(
    ("header", "is_for_subshell"),
    [
        (json.dumps({"msg_type": "execute_request"}), False),
        (json.dumps({"subshell_id": None}), False),
        (json.dumps({"msg_id": "subshell_id"}), False),
        (json.dumps({"subshell_id": "x"}), True),
        ('{"subshell_id": ', False),
        ('["subshell_id"]', False),
    ],
)
def test_what_is_for_a_subshell(header, is_for_subshell):
    frames = [b"client", b"<IDS|MSG>", b"signature", header.encode(), b"{}", b"{}", b'{"subshell_id": "x"}']
    assert _is_for_subshell([zmq.Frame(frame) for frame in frames]) == is_for_subshell
    assert not _is_for_subshell([zmq.Frame(frame) for frame in frames[:3]])


def test_it_belongs_to_the_loop_of_who_made_it(shell):
    channel = ShellChannel(shell.socket, shell.thread, shell.stream)
    assert channel._loop is IOLoop.current()
    shell.thread.start()
