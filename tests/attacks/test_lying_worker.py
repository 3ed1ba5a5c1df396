"""The worker lies: whatever an agent sends, it is given up, the broker lives and nothing of the host is touched."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import threading
from types import SimpleNamespace

import pytest

from jupyter_sandbox import agents
from jupyter_sandbox.agents import AgentClient
from jupyter_sandbox.broker.registry import Registry
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host.channel import Channel
from jupyter_sandbox.host.places import Places, make
from jupyter_sandbox.ledger import Ledger, Record
from jupyter_sandbox.specs import Limits
from jupyter_sandbox.templates import BUILT_IN
from sandbox_worker import protocol

EXITED = {"type": "exited", "target": "x", "status": 0, "disk_full": False, "log": ""}
REQUEST = protocol.Describe()


class Heard:
    """What a client of a fake agent was told."""

    def __init__(self):
        self.exits, self.losses = [], 0
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client = AgentClient(
            Channel(ours, protocol.FROM_AGENT), "sbx_liar", on_exited=self.exits.append, on_lost=self.lost
        )

    def lost(self):
        self.losses += 1

    async def given_up(self):
        async with asyncio.timeout(5):
            while not self.losses:  # noqa: ASYNC110 - what is tested has a callback, no event
                await asyncio.sleep(0.005)
        with pytest.raises(StartError):
            await self.client.ask(REQUEST, protocol.Description)
        self.theirs.close()
        assert self.losses == 1
        assert self.exits == []


def message(**changes):
    return json.dumps(EXITED | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00garbage",
        b"null",
        b"[]",
        b"{}",
        b'"exited"',
        b"[" * 60000,
        b'{"a":' * 10000,
        b"1" * 60000,
        b'{"type": "no_such_thing"}',
        b'{"type": "bind"}',
        b'{"type": {"a": 1}}',
        b'{"type": "exited"}',
        message(status="0"),
        message(status=1.5),
        message(status=True),
        message(status=None),
        message(target=["x"]),
        message(disk_full=1),
        message(extra="x"),
        message(log=None),
        json.dumps({"x" * 5000 + str(n): n for n in range(10)} | {"type": "exited"}).encode(),
        message(log="x" * 70000),
        b'{"type": "bound"}',
        b'{"type": "started", "pid": 1}',
        b'{"type": "description", "bound": true, "running": ["a"]}',
        b'{"type": "failed", "reason": "x"}',
    ],
    ids=range(26),
)
def test_nonsense_oversized_and_unasked_answers_end_the_worker(data):
    async def attack():
        heard = Heard()
        heard.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        heard.theirs.send(data)
        await heard.given_up()
        heard.theirs.close()

    asyncio.run(attack())


def test_an_answer_that_comes_after_its_asker_left_costs_nobody_his_sandbox():
    """A broker that ends leaves what it asks; the next one finds the sandboxes."""

    async def ask_and_leave():
        heard, described = Heard(), {"type": "description", "bound": True, "running": []}
        loop = asyncio.get_running_loop()
        heard.theirs.setblocking(False)
        asking = asyncio.create_task(heard.client.ask(REQUEST, protocol.Description))
        await loop.sock_recv(heard.theirs, 1 << 16)
        asking.cancel()
        await asyncio.sleep(0.01)
        assert not asking.done()
        heard.theirs.send(json.dumps(described).encode())
        with pytest.raises(asyncio.CancelledError):
            await asking
        again = asyncio.create_task(heard.client.ask(REQUEST, protocol.Description))
        await loop.sock_recv(heard.theirs, 1 << 16)
        heard.theirs.send(json.dumps(described).encode())
        assert (await again).bound
        assert heard.losses == 0
        await heard.client.close()
        heard.theirs.close()

    asyncio.run(ask_and_leave())


def test_an_agent_that_says_nothing_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(agents, "ANSWER_TIMEOUT_S", 0.2)

    async def attack():
        heard = Heard()
        with pytest.raises(StartError):
            await asyncio.wait_for(heard.client.ask(REQUEST, protocol.Description), 3)
        await heard.given_up()

    asyncio.run(attack())


def test_an_agent_that_reads_nothing_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(agents, "ANSWER_TIMEOUT_S", 0.2)

    async def attack():
        heard = Heard()
        for _ in range(400):  # signals have no answer: they fill the socket
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.client.signal("x" * 50000, 2), 0.05)
                continue
            break
        with pytest.raises(StartError):
            await asyncio.wait_for(heard.client.ask(REQUEST, protocol.Description), 3)
        await heard.client.close()
        heard.theirs.close()

    asyncio.run(attack())


@pytest.mark.parametrize("answer", [b'{"type": "bound"}', b'{"type": "started", "pid": 7}'])
def test_a_wrong_answer_ends_the_worker(answer):
    async def attack():
        heard = Heard()
        asking = asyncio.ensure_future(heard.client.ask(REQUEST, protocol.Description))
        await asyncio.sleep(0.05)
        heard.theirs.send(answer)
        with pytest.raises(StartError):
            await asyncio.wait_for(asking, 3)
        await heard.given_up()

    asyncio.run(attack())


def test_two_answers_to_one_question_end_the_worker():
    async def attack():
        heard = Heard()
        asking = asyncio.ensure_future(heard.client.ask(protocol.Describe(), protocol.Description))
        await asyncio.sleep(0.05)
        good = b'{"type": "description", "bound": true, "running": []}'
        heard.theirs.send(good)
        heard.theirs.send(good)
        with contextlib.suppress(StartError):
            await asyncio.wait_for(asking, 3)
        await heard.given_up()

    asyncio.run(attack())


def test_descriptors_from_an_agent_are_closed():
    async def attack():
        heard = Heard()
        null = os.open(os.devnull, os.O_RDONLY)
        await asyncio.sleep(0)  # until it is listened to
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            socket.send_fds(heard.theirs, [message()], [null] * 24)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert len(heard.exits) == 100
        assert len(os.listdir("/proc/self/fd")) == before
        heard.exits.clear()
        socket.send_fds(heard.theirs, [message()], [null] * 60)  # more than may come: the worker is given up
        await heard.given_up()
        assert len(os.listdir("/proc/self/fd")) <= before
        os.close(null)

    asyncio.run(attack())


def test_an_agent_that_never_pauses_does_not_stop_the_broker():
    """Messages that are always there already must not keep the loop from everybody else."""

    async def attack():
        heard = Heard()
        turns = []

        async def everybody_else():
            while True:
                turns.append(len(heard.exits))
                await asyncio.sleep(0)

        for _ in range(200):
            heard.theirs.send(message(), socket.MSG_DONTWAIT)
        others = asyncio.ensure_future(everybody_else())
        async with asyncio.timeout(5):
            while len(heard.exits) < 200:  # noqa: ASYNC110 - each turn is counted
                await asyncio.sleep(0)
        others.cancel()
        await heard.client.close()
        heard.theirs.close()
        assert [count for count in turns if 0 < count < 200], (
            "200 messages were taken in before anybody else had a turn"
        )

    asyncio.run(attack())


# -- a recovered worker


class FakeWorker:
    slot, uid, inner_uid, pid, disk = 1, 1, 1, 1, None
    limits = Limits()

    def __init__(self, sandbox):
        self.id = sandbox

    def out_of_memory_kills(self):
        return 0


class FakeEngine:
    """Finds every recorded worker alive."""

    async def recover(self, record, template):
        return FakeWorker(record.id)

    async def destroy(self, worker):
        return None

    async def remains(self):
        return []


def lying_agent(places, sandbox, running):
    """Listen as the agent of `sandbox` and describe it with `running`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(places.agent_socket(sandbox)))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536):
                    connection.send(json.dumps({"type": "description", "bound": True, "running": running}).encode())

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.fixture
def recovered(tmp_path_factory):
    """Recover sandboxes whose agents claim that these kernels run, then destroy them all."""
    import tempfile
    from pathlib import Path

    top = Path(tempfile.mkdtemp(prefix="jsbr", dir="/tmp"))
    places = Places(run=top / "r", images=top / "i", socket=top / "r" / "broker")
    make(places)

    def play(claims, during=lambda registry: None, first_owners_kernels=()):
        async def recover():
            ledger = Ledger(places.ledger)
            registry = Registry(
                engine=FakeEngine(), ledger=ledger, places=places, mounter=None, known_templates=BUILT_IN
            )
            listeners = []
            for number, running in enumerate(claims):
                sandbox = ids.SandboxId(f"sbx_{number:020x}")
                record = Record(id=sandbox, template="python", slot=number, pid=1, started=1, owner=number)
                ledger.write(dataclasses.replace(record, seats=first_owners_kernels) if number == 0 else record)
                listeners.append(lying_agent(places, sandbox, running))
            await registry.recover(60)
            result = during(registry)
            if asyncio.iscoroutine(result):
                await result
            await registry.stop(everything=True)
            for listener in listeners:
                listener.close()

        asyncio.run(recover())

    yield SimpleNamespace(places=places, top=top, play=play)
    import shutil

    shutil.rmtree(top, ignore_errors=True)


@pytest.mark.parametrize("way", ["relative", "absolute"])
def test_a_lie_about_running_kernels_removes_no_file_of_the_host(recovered, way):
    victim = recovered.top / "victim-1"
    victim.write_text("precious")
    name = "../../victim" if way == "relative" else str(recovered.top / "victim")
    with contextlib.suppress(Exception):
        recovered.play([[name]])
    assert victim.exists(), "a worker chose a path that the broker, as root, unlinked"


def test_a_lie_about_running_kernels_takes_no_socket_of_another_owner(recovered):
    seat = "0123456789ab"
    path = recovered.places.kernel_sockets(seat).with_name(f"{seat}-1")
    path.write_text("")
    still_there = []

    def look(registry):
        still_there.append(([sandbox.owner for sandbox in registry.claimed()], path.exists()))

    recovered.play([[seat], [seat]], look, first_owners_kernels=(seat,))
    assert still_there == [([0], True)]


def test_a_lie_of_a_thousand_kernels_is_not_believed(recovered):
    counts = []
    with contextlib.suppress(Exception):
        recovered.play(
            [[f"{n:012x}" for n in range(3000)]],
            lambda registry: counts.append(sum(len(sandbox.kernels) for sandbox in registry.claimed())),
        )
    assert sum(counts) < 300
