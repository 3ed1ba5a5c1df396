"""What a presence does when brokers do not: it goes on, and says each thing once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_sandbox import broker_presence
from jupyter_sandbox.errors import BrokerUnavailableError, ProtocolError
from tests.conftest import eventually


class Broker:
    """A channel to one that lives until `gone`."""

    def __init__(self):
        self.gone, self.is_closed = asyncio.Event(), False

    async def arrival(self):
        await self.gone.wait()

    def close(self):
        self.is_closed = True


@pytest.fixture
def world(monkeypatch):
    """What comes of each try to connect, and what the presence said."""

    world = SimpleNamespace(coming=[], starts=[], said=[])

    async def connect(*, start=True):
        world.starts.append(start)
        found = world.coming.pop(0) if world.coming else BrokerUnavailableError("none runs")
        if isinstance(found, Exception):
            raise found
        return found

    async def ask(channel, _request, _kind):
        return f"status {id(channel)}", []

    monkeypatch.setattr(broker_presence, "_LOOK_S", 0.01)
    monkeypatch.setattr(broker_presence.client, "connect", connect)
    monkeypatch.setattr(broker_presence.client, "ask", ask)
    return world


async def test_it_stays_with_the_broker_and_with_the_next_one_and_lets_go_at_the_end(world):
    first, second = Broker(), Broker()
    world.coming = [first, BrokerUnavailableError("none runs"), second]
    presence = broker_presence.BrokerPresence(world.said.append, world.said.append)
    presence.begin()
    await eventually(lambda: world.said == [f"status {id(first)}"])
    assert not first.is_closed
    first.gone.set()
    await eventually(lambda: world.said[1:] == [f"status {id(second)}"])
    assert first.is_closed and not second.is_closed
    assert world.starts == [True, False, False], "only the first is started for it"
    await presence.end()
    assert second.is_closed


@pytest.mark.parametrize(
    "error", [OSError("no processes"), ProtocolError("odd"), BrokerUnavailableError("no isolation")]
)
async def test_whatever_goes_wrong_is_told_once_and_a_later_broker_is_found(world, error):
    later = Broker()
    world.coming = [error] * 3 + [later]
    presence = broker_presence.BrokerPresence(world.said.append, world.said.append)
    presence.begin()
    await eventually(lambda: world.said == [error, f"status {id(later)}"])
    await presence.end()
    assert later.is_closed


async def test_one_that_never_began_ends_quietly():
    await broker_presence.BrokerPresence(print, print).end()
