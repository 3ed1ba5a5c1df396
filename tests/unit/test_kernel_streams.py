"""Our end of a kernel's sockets, with libzmq or a liar at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time

import pytest
import zmq
from jupyter_client.session import Session

from jupyter_sandbox import turns, zmtp
from jupyter_sandbox.guards.kernel_messages import Reason
from jupyter_sandbox.kernel_streams import KernelStream, Refusals
from tests.conftest import eventually

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key")
MAX_BYTES = 1 << 20


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="jsbk", dir="/tmp") as directory:
        yield os.path.join(directory, "k-1")


@pytest.fixture
def connect(path, caplog):
    """Connect a stream to `path`; what it brings is in `stream.got`, what it refuses in `stream.refusals`."""
    streams = []

    def make(channel="iopub", identity=b"", listen=True, max_bytes=MAX_BYTES):
        stream = KernelStream(
            channel,
            path,
            identity=identity,
            sign=SESSION.sign,
            max_bytes=max_bytes,
            refusals=Refusals("kernel", logging.getLogger("test")),
            account=turns.Account(),
            loop=asyncio.get_running_loop(),
        )
        streams.append(stream)
        stream.got, stream.refused = [], []
        stream.on_refusal(stream.refused.append)
        if listen:
            stream.on_recv(stream.got.append)
        return stream

    yield make
    for stream in streams:
        stream.close()


@pytest.fixture
def kernel(path):
    """A socket of libzmq, bound as a kernel binds it."""
    context = zmq.Context()
    made = []

    def bind(kind):
        bound = context.socket(kind)
        bound.linger, bound.rcvtimeo, bound.sndhwm = 0, 5000, 0
        if kind == zmq.ROUTER:
            bound.router_handover = 1
        bound.bind(f"ipc://{path}")
        made.append(bound)
        return bound

    yield bind
    for bound in made:
        bound.close()
    context.term()


def wire(msg_type="status", content=None, **kwargs):
    content = {"execution_state": "idle"} if content is None else content
    return SESSION.serialize(SESSION.msg(msg_type, content, **kwargs), ident=b"topic")


async def in_thread(function, *args):
    return await asyncio.to_thread(function, *args)


async def test_libzmq_publishes_to_us_and_sees_our_subscription(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    assert await in_thread(publisher.recv) == b"\x01"
    sent = [wire(), wire("stream", {"name": "stdout", "text": "x" * 500_000}), wire()]
    for parts in sent:
        publisher.send_multipart(parts)
    await eventually(lambda: len(stream.got) == 3)
    assert stream.got == sent


async def test_libzmq_routes_by_our_identity_and_answers(kernel, connect):
    router = kernel(zmq.ROUTER)
    stream = connect("shell", identity=b"us")
    request = SESSION.serialize(SESSION.msg("kernel_info_request"))
    stream.send_multipart(request)
    stream.send_multipart([b"x" * 3_000_000, memoryview(b"y" * 300)])
    assert await in_thread(router.recv_multipart) == [b"us", *request]
    assert await in_thread(router.recv_multipart) == [b"us", b"x" * 3_000_000, b"y" * 300]
    answer = wire("kernel_info_reply", {})[1:]
    router.send_multipart([b"us", *answer])
    await eventually(lambda: stream.got == [answer])
    assert not stream.sending()


async def test_sending_before_there_is_a_kernel_waits_for_it(kernel, connect):
    stream = connect("control")
    stream.send_multipart([b"early"])
    await asyncio.sleep(0.15)
    router = kernel(zmq.ROUTER)
    assert (await in_thread(router.recv_multipart))[1:] == [b"early"]


async def test_a_kernel_that_comes_again_is_found_again(kernel, connect, path):
    router = kernel(zmq.ROUTER)
    stream = connect("shell", identity=b"us")
    stream.send_multipart([b"1"])
    assert await in_thread(router.recv_multipart) == [b"us", b"1"]
    router.close()
    await asyncio.sleep(0.05)
    stream.send_multipart([b"2"])
    router = kernel(zmq.ROUTER)
    assert await in_thread(router.recv_multipart) == [b"us", b"2"]
    answer = wire("kernel_info_reply", {})[1:]
    router.send_multipart([b"us", *answer])
    await eventually(lambda: stream.got == [answer])


async def test_what_is_too_large_is_told_and_the_connection_goes_on(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)
    parent = SESSION.msg("execute_request")
    large = wire("stream", {"name": "stdout", "text": "x" * 9_000_000}, parent=parent)
    publisher.send_multipart(large)
    publisher.send_multipart(wire())
    await eventually(lambda: stream.got)
    (refusal,) = stream.refused
    assert (refusal.reason, refusal.msg_type) == (Reason.TOO_LARGE, "stream")
    assert refusal.size_bytes == sum(map(len, large))
    assert refusal.parent["msg_id"] == parent["header"]["msg_id"]


async def test_nothing_is_read_that_nobody_wants(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect(listen=False)
    await in_thread(publisher.recv)
    sent = [wire("stream", {"name": "stdout", "text": f"{number}" + "x" * 10_000}) for number in range(100)]
    for parts in sent:
        publisher.send_multipart(parts)
    await asyncio.sleep(0.1)
    assert len(stream._decoder._buffer) < 300_000
    stream.on_recv(stream.got.append)
    await eventually(lambda: len(stream.got) == 100)
    stream.stop_on_recv()
    publisher.send_multipart(wire())
    await asyncio.sleep(0.05)
    assert stream.got == sent


async def test_a_paused_stream_goes_on_where_it_was(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)

    def stop_at_three(parts):
        stream.got.append(parts)
        if len(stream.got) == 3:
            stream.pause()

    stream.on_recv(stop_at_three)
    sent = [wire() for _ in range(10)]
    for parts in sent:
        publisher.send_multipart(parts)
    await eventually(lambda: len(stream.got) == 3)
    await asyncio.sleep(0.05)
    assert len(stream.got) == 3
    stream.resume()
    await eventually(lambda: len(stream.got) == 10)
    assert stream.got == sent


async def test_flush_hands_on_at_once_what_has_arrived(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)
    publisher.send_multipart(wire())

    def flushed():
        stream.flush()
        return stream.got

    await eventually(flushed)


async def test_a_consumer_that_raises_is_counted_and_does_not_end_the_stream(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)

    def consume(parts):
        stream.got.append(parts)
        if len(stream.got) == 1:
            raise ValueError("Duplicate Signature")

    stream.on_recv(consume)
    publisher.send_multipart(wire())
    publisher.send_multipart(wire())
    await eventually(lambda: len(stream.got) == 2)
    assert [refusal.reason for refusal in stream.refused] == [Reason.UNUSABLE]


async def test_a_consumer_may_close_its_stream(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)
    stream.on_recv(lambda _: stream.close())
    for _ in range(5):
        publisher.send_multipart(wire())
    await eventually(stream.closed)
    assert stream.socket.closed
    stream.close()
    with pytest.raises(OSError, match="closed"):
        stream.send_multipart([b"x"])


async def test_a_stream_that_is_closed_before_there_is_a_kernel_is_quiet(connect):
    stream = connect()
    stream.close()
    await asyncio.sleep(0.15)
    assert stream._connection is None


async def test_many_small_messages_leave_the_loop_its_turns(kernel, connect):
    publisher = kernel(zmq.XPUB)
    stream = connect()
    await in_thread(publisher.recv)
    longest, sent = 0.0, [wire() for _ in range(5000)]
    for parts in sent:
        publisher.send_multipart(parts)
    before = time.thread_time()
    async with asyncio.timeout(20):
        while len(stream.got) < 5000:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    assert stream.got == sent
    assert longest < 0.1


class Liar:
    """A kernel's end that sends what it likes."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.settimeout(5)
        self.accepted = []

    def accept(self, greeting: bytes = zmtp.GREETING + zmtp.ready("DEALER")) -> socket.socket:
        connection, _ = self.listener.accept()
        self.accepted.append(connection)
        connection.settimeout(5)
        connection.sendall(greeting)
        return connection

    def close(self) -> None:
        for each in [self.listener, *self.accepted]:
            each.close()


@pytest.fixture
def liar(path):
    made = Liar(path)
    yield made
    made.close()


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n" * 10, b"", zmtp.GREETING + b"\x00\x01x", b"\xff" * 64])
async def test_nonsense_ends_the_connection_and_another_is_tried(liar, connect, greeting):
    stream = connect("shell")
    connection = await in_thread(liar.accept, greeting)
    if not greeting:
        connection.close()
    again = await in_thread(liar.accept)
    answer = wire("kernel_info_reply", {})[1:]
    again.sendall(zmtp.encode(answer))
    await eventually(lambda: stream.got == [answer])


async def test_a_message_without_end_is_given_up_and_nothing_of_it_is_kept(liar, connect):
    stream = connect("shell", max_bytes=10_000)
    connection = await in_thread(liar.accept)
    part = b"\x03" + (100_000).to_bytes(8, "big") + bytes(100_000)

    def send_until_hung_up():
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(part)
            raise AssertionError("100 MB of one message were read")

    await in_thread(send_until_hung_up)
    assert [(refusal.reason, refusal.size_bytes) for refusal in stream.refused] == [(Reason.CONNECTION, 0)]
    assert len(stream._decoder._buffer) < 300_000
    again = await in_thread(liar.accept)
    again.sendall(zmtp.encode(wire("kernel_info_reply", {})[1:]))
    await eventually(lambda: stream.got)


async def test_a_ping_is_answered(liar, connect):
    connect("shell")
    connection = await in_thread(liar.accept)
    hello = zmtp.GREETING + zmtp.ready("DEALER")
    connection.sendall(b"\x04\x0e\x04PING\x00\x00context")
    received = b""
    while len(received) < len(hello) + 14:
        received += await in_thread(connection.recv, 1000)
    assert received == hello + zmtp.pong(b"context")


async def test_a_kernel_that_does_not_read_fills_no_memory(liar, connect):
    stream = connect("shell")
    await in_thread(liar.accept)
    for _ in range(100):
        stream.send_multipart([bytes(1_000_000)])
    assert stream._queued_bytes <= 64 << 20


async def test_refusals_are_logged_once_in_ten_seconds_and_without_content(liar, connect, caplog):
    stream = connect("shell")
    connection = await in_thread(liar.accept)
    messages = [zmtp.encode(wire("s3cret", {"s3cret": number})[1:]) for number in range(50)]
    await in_thread(connection.sendall, b"".join(messages))
    await eventually(lambda: len(stream.refused) == 50)
    lines = [record.getMessage() for record in caplog.records if "Refused" in record.getMessage()]
    assert len(lines) == 1
    assert "kernel kernel on shell (unknown_type, " in lines[0]
    assert "s3cret" not in caplog.text
