"""Channels: who waits on one, and what ends that."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from jupyter_sandbox.host.channel import Channel
from sandbox_worker import protocol

pytestmark = pytest.mark.unit

RENEW = protocol.Renew()


@pytest.fixture
def ends():
    ours, theirs = (
        Channel(each, [protocol.Renew]) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    )
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_who_waits_on_a_channel_that_is_closed_is_told_and_nothing_waits_on_its_number(ends):
    ours, _ = ends
    number = ours._socket.fileno()
    waiting = [asyncio.create_task(wait) for wait in (ours.receive(), ours.arrival())]
    await asyncio.sleep(0.01)
    ours.close()
    for each in waiting:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(each, 5)
    one, other = socket.socketpair()
    try:  # who has the number now is heard
        assert number in (one.fileno(), other.fileno())
        heard, said = (one, other) if one.fileno() == number else (other, one)
        heard.setblocking(False)
        hearing = asyncio.create_task(asyncio.get_running_loop().sock_recv(heard, 10))
        await asyncio.sleep(0.01)
        said.send(b"x")
        assert await asyncio.wait_for(hearing, 5) == b"x"
    finally:
        one.close()
        other.close()


async def test_several_may_wait_for_the_same(ends):
    ours, theirs = ends
    waiting = [asyncio.create_task(ours.arrival()) for _ in range(3)]
    await asyncio.sleep(0.01)
    await theirs.send(RENEW)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert await ours.receive() == (RENEW, [])


async def test_who_waits_while_no_descriptor_is_left_goes_on(ends, monkeypatch):
    def none_left(_):
        raise OSError(errno.EMFILE, "none is left")

    ours, theirs = ends
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", none_left)
        waiting = asyncio.create_task(ours.receive())
        await asyncio.sleep(0.05)
    await theirs.send(RENEW)
    assert await asyncio.wait_for(waiting, 5) == (RENEW, [])


async def test_who_is_cancelled_leaves_the_others_waiting(ends):
    ours, theirs = ends
    leaving, staying = asyncio.create_task(ours.arrival()), asyncio.create_task(ours.receive())
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.wait([leaving])
    await theirs.send(RENEW)
    assert await asyncio.wait_for(staying, 5) == (RENEW, [])
