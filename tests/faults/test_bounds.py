"""What is bounded in time or size, though nobody misbehaves: waiting, ages, logs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, starting, verbs
from jupyter_sandbox.broker.app import BrokerApp
from jupyter_sandbox.engines import zygotes
from jupyter_sandbox.engines.embedded import EmbeddedEngine
from jupyter_sandbox.errors import BrokerUnavailableError, StartError
from jupyter_sandbox.guards.ids import new_sandbox_id
from jupyter_sandbox.host import channel, places
from jupyter_sandbox.ledger import Ledger, Record
from jupyter_sandbox.specs import Template
from sandbox_worker import messages, protocol
from sandbox_worker.agent import Agent, Confinement
from sandbox_worker.kernel import Launcher
from tests.conftest import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

TEMPLATE = Template(name="python")
LAUNCHER = Launcher(mode="plain", run=lambda *_: None, stand_by=None)
CONFINEMENT = Confinement(stand_by=lambda _: None, bind=lambda *_: None)


@pytest.fixture
def agent(tmp_path):
    with channel.listen(tmp_path / "agent", kind=socket.SOCK_SEQPACKET, mode=0o600) as listener:
        made = Agent(listener, LAUNCHER, CONFINEMENT)
        yield made
        made._selector.close()


@pytest.mark.parametrize(("bound", "limit_s"), [(False, 8), (True, 900)])
def test_an_agent_waits_for_a_broker_so_long_and_no_longer(agent, bound, limit_s):
    agent._bound = bound
    assert limit_s - 5 < agent._patience_s() <= limit_s
    agent._patience._waited_s = limit_s
    assert agent._patience_s() == 0


def test_an_agent_whose_broker_is_there_and_silent_gives_it_up_after_twice_its_lease(agent, tmp_path):
    assert protocol.LEASE_S == 450
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
        broker.connect(str(tmp_path / "agent"))
        agent._accept(1)
        for bound in (False, True):
            agent._bound = bound
            agent._patience._waited_s = 2 * protocol.LEASE_S
            assert agent._patience_s() == 0
            messages.send(broker, protocol.Renew())
            agent._receive(agent._connection)
            assert 2 * protocol.LEASE_S - 5 < agent._patience_s() <= 2 * protocol.LEASE_S
    agent._disconnect()


ALONE = """
import socket, sys
from sandbox_worker import agent, patience
agent.LEASE_S, agent.LOOK_S, patience.LOOK_S = 2, 0.1, 0.1
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    alone = agent.Agent(listener, None, None)
    alone._bound = True
    print("waits", flush=True)
    alone.serve()
"""


def test_an_agent_that_was_frozen_for_longer_than_it_waits_goes_on_when_it_is_thawed(tmp_path):
    path = str(tmp_path / "agent")
    with subprocess.Popen([sys.executable, "-c", ALONE, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.read(6) == b"waits\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2 * 2 + 0.5)
        process.send_signal(signal.SIGCONT)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
            broker.settimeout(20)
            broker.connect(path)
            messages.send(broker, protocol.Describe())
            answer, _ = messages.receive(broker, protocol.FROM_AGENT)
        assert answer == protocol.Description(bound=True, running=())
        assert process.wait(30) == 0, "nobody speaks to it any more"


class OldZygote:
    """A zygote that is due, as `EmbeddedEngine` sees it."""

    def __init__(self) -> None:
        self.stopped = False
        self.stale = False

    def is_stale(self) -> bool:
        return self.stale

    def take_for_current(self) -> None:
        self.stale = False

    def is_alive(self) -> bool:
        return not self.stopped

    def is_old(self) -> bool:
        return True

    def serves(self, _template) -> bool:
        return True

    async def stop(self) -> None:
        self.stopped = True


async def test_an_old_zygote_is_replaced_and_nobody_waits_for_it(monkeypatch):
    engine = EmbeddedEngine(places=None, ledger=None, disks=None, hierarchy=None, uid_base=None, default=TEMPLATE)
    old, fresh, ready = OldZygote(), OldZygote(), asyncio.Event()

    async def start(_template, _uid_base):
        await ready.wait()
        return fresh

    monkeypatch.setattr(zygotes.Zygote, "start", start)
    engine._zygotes[TEMPLATE.name] = old
    assert await engine._zygote(TEMPLATE) is old, "the next one is still starting"
    assert await engine._zygote(TEMPLATE) is old
    ready.set()
    await eventually(lambda: old.stopped)
    assert await engine._zygote(TEMPLATE) is fresh
    for task in engine._tasks:
        task.cancel()
    await asyncio.gather(*engine._tasks, return_exceptions=True)


@pytest.mark.parametrize("owner", [None, 1000])
async def test_what_a_dead_broker_left_waits_for_no_zygote(owner, monkeypatch, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(Record(id=new_sandbox_id(), template=TEMPLATE.name, slot=1, owner=owner))
    engine = EmbeddedEngine(places=None, ledger=ledger, disks=None, hierarchy=None, uid_base=None, default=TEMPLATE)
    fresh, ready = OldZygote(), asyncio.Event()
    fresh.is_old = lambda: False

    async def start(_template, _uid_base):
        await ready.wait()
        return fresh

    monkeypatch.setattr(zygotes.Zygote, "start", start)
    starting = asyncio.create_task(engine.start())
    await asyncio.wait([starting], timeout=0.1)
    assert starting.done() is (owner is not None)
    claiming = asyncio.create_task(engine._zygote(TEMPLATE))
    ready.set()
    assert await claiming is fresh, "who claims waits for it"
    await starting
    await engine.stop()
    assert fresh.stopped


async def test_a_zygote_ends_with_its_template_and_with_one_of_the_same_name_that_it_does_not_serve(monkeypatch):
    engine = EmbeddedEngine(places=None, ledger=None, disks=None, hierarchy=None, uid_base=None, default=TEMPLATE)
    started = []

    async def start(template, _uid_base):
        started.append(template)
        zygote = OldZygote()
        zygote.is_old = lambda: False
        zygote.serves = lambda asked: asked.preload == template.preload
        return zygote

    monkeypatch.setattr(zygotes.Zygote, "start", start)
    other = replace(TEMPLATE, preload=("numpy",))
    first = await engine._zygote(TEMPLATE)
    assert await engine._zygote(replace(TEMPLATE, min_idle=5)) is first, "that makes no difference to a zygote"
    second = await engine._zygote(other)
    assert (first.stopped, second.stopped, started) == (True, False, [TEMPLATE, other])
    await engine.forget(TEMPLATE)
    assert not second.stopped, "it is another template's by now"
    await engine.forget(other)
    assert second.stopped
    assert engine._zygotes == {}


FORKS = """
import os, signal, socket, sys
from sandbox_worker import zygote

class Agent:
    def __init__(self, *_): pass
    def serve(self): os.write(1, b"serves")

def send(_channel, answer, *_):
    assert isinstance(answer, zygote.Forked), answer
    if sys.argv[1] == "killed": os.kill(os.getpid(), signal.SIGKILL)

zygote.Agent, zygote.messages.send = Agent, send
one = zygote.Zygote.__new__(zygote.Zygote)
one._channel = one._launcher = None
one._isolate = lambda: None
one._answer(zygote.Fork(worker="sbx_1"), [socket.socket().detach()])
"""


@pytest.mark.needs_root
@pytest.mark.parametrize(("fate", "said"), [("killed", b""), ("lives", b"serves")])
def test_a_worker_that_nobody_heard_of_since_its_zygote_was_killed_never_serves(fate, said):
    """The next zygote makes another for the same listener: two agents would be at it."""
    ended = subprocess.run([sys.executable, "-c", FORKS, fate], stdout=subprocess.PIPE, timeout=20)
    assert (ended.stdout, ended.returncode) == (said, -signal.SIGKILL if fate == "killed" else 0)


AGES = {
    "an hour": lambda zygote: setattr(zygote, "_born", time.monotonic() - 3601),
    "2000 forks": lambda zygote: setattr(zygote, "_forks", 2000),
}


@pytest.mark.parametrize("reason", AGES)
def test_a_zygote_grows_old_by_time_and_by_forks(reason):
    zygote = zygotes.Zygote(None, None, None, TEMPLATE)
    assert not zygote.is_old()
    AGES[reason](zygote)
    assert zygote.is_old()


def test_packages_that_were_changed_make_a_zygote_stale_when_nobody_is_at_it_any_more(tmp_path, monkeypatch):
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(sys, "path", [str(packages)])
    os.utime(packages, (1, 1))
    zygote = zygotes.Zygote(None, None, None, TEMPLATE)
    assert not zygote.is_stale()
    (packages / "new").touch()
    assert not zygote.is_stale(), "somebody is at it"
    os.utime(packages, (time.time() - 6,) * 2)
    assert zygote.is_stale()
    zygote.take_for_current()
    assert not zygote.is_stale()


@pytest.mark.parametrize("step_s", [0, -3600])
def test_a_clock_that_was_set_back_keeps_nobody_from_seeing_that_packages_were_changed(step_s):
    # once: they counted as being installed until the clock was past that time again
    now, changed_at = [100.0], 1_000_000.0
    sight = zygotes.Sight(lambda: now[0])
    assert not sight.is_over((changed_at,), changed_at + step_s + 1), "somebody is at it"
    now[0] += 4
    assert not sight.is_over((changed_at + 4,), changed_at + step_s + 5), "and still"
    now[0] += 4
    assert not sight.is_over((changed_at + 4,), changed_at + step_s + 9)
    now[0] += 2
    assert sight.is_over((changed_at + 4,), changed_at + step_s + 11)


def test_a_change_that_nobody_saw_is_over_when_it_was_long_ago():
    assert zygotes.Sight().is_over((1_000_000.0,), 1_000_006.0)


async def test_a_stale_zygote_is_replaced_before_it_forks_again(monkeypatch):
    engine = EmbeddedEngine(places=None, ledger=None, disks=None, hierarchy=None, uid_base=None, default=TEMPLATE)
    fails = True
    fresh = OldZygote()

    async def start(_template, _uid_base):
        if fails:
            raise StartError("ipykernel is half installed")
        return fresh

    monkeypatch.setattr(zygotes.Zygote, "start", start)
    stale = engine._zygotes[TEMPLATE.name] = OldZygote()
    stale.stale = True
    assert await engine._zygote(TEMPLATE) is stale, "one that cannot be replaced goes on"
    assert not stale.stopped and not stale.is_stale(), "and is not tried again for the same change"
    stale.stale, fails = True, False
    assert await engine._zygote(TEMPLATE) is fresh
    assert stale.stopped


async def test_a_broker_that_does_not_answer_is_given_up_in_time(tree, monkeypatch, tmp_path):
    assert client._ANSWER_TIMEOUT_S == 60
    monkeypatch.setattr(client, "_ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(tmp_path / "s"))
    with (
        channel.listen(tmp_path / "s", kind=socket.SOCK_SEQPACKET, mode=0o600),
        pytest.raises(BrokerUnavailableError, match="did not answer"),
    ):
        await client.call(verbs.Status(), verbs.StatusReport)


async def test_a_broker_that_does_not_start_is_given_up_in_time(tree, monkeypatch, tmp_path):
    assert client._START_TIMEOUT_S == 90
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    monkeypatch.setattr(client, "_START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(starting.sys, "executable", str(silent))
    with pytest.raises(BrokerUnavailableError, match="did not start in time"):
        await client.call(verbs.Status(), verbs.StatusReport)


def test_the_brokers_log_is_two_files_of_a_mebibyte(tmp_path):
    app, root = BrokerApp(), logging.getLogger("jupyter_sandbox")
    before = list(root.handlers)
    app._log_to(tmp_path / "broker.log")
    try:
        for _ in range(4096):
            root.info("x" * 1000)
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
    sizes = {path.name: path.stat().st_size for path in Path(tmp_path).iterdir()}
    assert sorted(sizes) == ["broker.log", "broker.log.1"]
    assert all(size <= 1 << 20 for size in sizes.values())
    assert os.stat(tmp_path / "broker.log").st_mode & 0o777 == 0o600
