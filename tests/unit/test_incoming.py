"""How a connection brings a file, and what comes by it afterwards."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import pytest
from tornado.iostream import IOStream, SSLIOStream

from jupyter_sandbox import pace
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.incoming import Incoming, in_large_pieces

pytestmark = pytest.mark.unit


@pytest.fixture
def stream_of():
    """A stream of a kind."""
    pairs = []

    def make(kind):
        pairs.append(socket.socketpair())
        return kind(pairs[-1][0])

    yield make
    for pair in pairs:
        for end in pair:
            end.close()


@pytest.mark.parametrize(("kind", "is_changed"), [(IOStream, True), (SSLIOStream, False)])
async def test_a_connection_reads_as_before_when_the_file_has_come(stream_of, kind, is_changed):
    shared, stream = SimpleNamespace(chunk_size=1), stream_of(kind)
    before, connection = stream.read_chunk_size, SimpleNamespace(params=shared, stream=stream)
    as_before = in_large_pieces(connection)
    assert (connection.params.chunk_size > 1, stream.read_chunk_size > before) == (is_changed, is_changed)
    assert shared.chunk_size == 1, "which other connections have, too"
    as_before()
    assert stream.read_chunk_size == before


async def dripped(incoming):
    """A byte each 10 ms."""
    while True:
        await incoming.put(b"x")
        await asyncio.sleep(0.01)


async def test_a_file_that_drips_is_given_up_although_it_is_never_silent_for_long(monkeypatch):
    monkeypatch.setattr(pace, "SILENCE_S", 0.3)
    incoming = Incoming()
    task = asyncio.create_task(dripped(incoming))
    with pytest.raises(InvalidRequestError):
        async with asyncio.timeout(10):
            async for _ in incoming:
                pass
    await incoming.hear_out(InvalidRequestError("x"))  # the rest is waited for no more
    task.cancel()


async def test_a_file_that_nobody_wants_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(pace, "SILENCE_S", 0.3)
    incoming = Incoming()
    task = asyncio.create_task(dripped(incoming))
    async with asyncio.timeout(10):
        await incoming.hear_out(InvalidRequestError("x"))
    task.cancel()


async def test_who_is_kept_waiting_by_the_server_is_not_slow(monkeypatch):
    monkeypatch.setattr(pace, "SILENCE_S", 0.3)
    incoming, taken = Incoming(), 0

    async def sent():
        for _ in range(4):
            await incoming.put(b"x")
        incoming.end()

    task = asyncio.create_task(sent())
    async for piece in incoming:
        taken += len(piece)
        await asyncio.sleep(0.15)  # a slow disk: longer in all than the client may be silent
    await task
    assert taken == 4
