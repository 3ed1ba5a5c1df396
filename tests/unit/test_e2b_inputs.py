"""Streams of input without a server: envelopes however they are cut, room that is waited for, and streams that are silent."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox.command import Command, NewCommand, end_of
from jupyter_sandbox.commands import CommandBounds, Commands
from jupyter_sandbox.errors import BodyTooLargeError, InvalidRequestError, UnknownCommandError
from jupyter_sandbox.host import pipes
from jupyter_sandbox.surfaces.e2b import connect, inputs

pytestmark = pytest.mark.unit

JSON = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(-9, 9), max_size=4)


def taken(envelopes, *pieces):
    return [message for piece in pieces for message in envelopes.take(piece)]


@given(st.lists(JSON, max_size=4), st.lists(st.integers(1, 9), min_size=1))
def test_messages_are_whole_however_their_stream_is_cut(messages, sizes):
    body, envelopes, found = b"".join(map(connect.envelope, messages)), connect.Envelopes(1000), []
    while body:
        for size in sizes:
            found += taken(envelopes, body[:size])
            body = body[size:]
    envelopes.finish()
    assert found == messages


def test_a_message_may_be_so_large_and_no_larger():
    whole = connect.envelope({"a": 1})
    assert taken(connect.Envelopes(len(whole) - 5), whole) == [{"a": 1}]
    with pytest.raises(BodyTooLargeError):
        taken(connect.Envelopes(len(whole) - 6), whole[:5])  # before any of it came


@pytest.mark.parametrize("flags", [1, 2, 3, 0x80])
def test_messages_with_flags_are_refused(flags):
    with pytest.raises(InvalidRequestError):
        taken(connect.Envelopes(9), bytes([flags, 0, 0, 0, 0]))


@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_a_stream_that_ends_within_an_envelope_is_refused(size):
    envelopes = connect.Envelopes(9)
    assert taken(envelopes, connect.envelope({})[:size]) == []
    with pytest.raises(InvalidRequestError):
        envelopes.finish()


async def silent():
    await asyncio.Event().wait()
    yield {}


async def test_who_names_no_command_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(inputs, "SILENCE_S", 0.01)
    async with asyncio.timeout(5):
        with pytest.raises(InvalidRequestError, match="no message came"):
            await inputs._start(silent())


async def test_a_stream_lasts_as_long_as_its_command_and_a_moment_more(monkeypatch):
    monkeypatch.setattr(inputs, "SILENCE_S", 0.01)
    command = Command("cmd_1", 7, "alice", "sbx_1", NewCommand(argv=("x",), max_output_bytes=10))
    async with asyncio.timeout(5):
        async with inputs._while_it_may_read(command):
            await asyncio.sleep(0.05)  # much more than a silence
        with pytest.raises(UnknownCommandError):
            async with inputs._while_it_may_read(command):
                command.end(end_of(0, ""))
                await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def full():
    """A sink that has no room, the other end of its pipe, and somebody who waits for room."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb", buffering=0) as end:
        sink = pipes.Sink(writer, lambda: os.close(writer))
        while sink.room > 0:
            sink.put(bytes(min(sink.room, pipes.BLOCK)))
        waiting = asyncio.create_task(sink.has_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        try:
            async with asyncio.timeout(5):
                yield sink, end, waiting
        finally:
            sink.close()


async def test_who_writes_waits_until_something_is_read():
    async with full() as (sink, end, waiting):
        end.read(pipes.BLOCK)
        await waiting
        assert sink.room > 0


async def test_who_writes_hears_that_nobody_reads_any_more():
    async with full() as (sink, end, waiting):
        end.close()
        await waiting
        assert sink.is_closed
        await sink.has_room()


async def test_who_writes_hears_that_nothing_is_written_any_more():
    async with full() as (sink, _, waiting):
        sink.close()
        await waiting


async def test_a_command_is_fed_when_there_is_room_and_not_asked_again_and_again(monkeypatch):
    async with full() as (sink, end, _):
        commands, asked = Commands(None, CommandBounds()), []
        monkeypatch.setattr(commands, "_sink", lambda command: asked.append(command) or sink)
        feeding = asyncio.create_task(commands.feed("command", b"x"))
        for _ in range(9):
            await asyncio.sleep(0)
        assert asked == ["command"]
        end.read(pipes.BLOCK)
        await feeding
