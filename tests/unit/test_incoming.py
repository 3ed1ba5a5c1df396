"""How a connection brings a file, and what comes by it afterwards."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from tornado.iostream import IOStream, SSLIOStream

from jupyter_sandbox.incoming import in_large_pieces

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
