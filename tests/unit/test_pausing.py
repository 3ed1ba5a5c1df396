"""What a pause does in which order, and what a failure or a cancellation of it leaves."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from jupyter_sandbox.broker import pausing
from jupyter_sandbox.broker.sandbox import Sandbox
from jupyter_sandbox.errors import DiskSpaceError, SandboxPausedError, StartError, UnknownSandboxError
from jupyter_sandbox.lifecycle import WorkerState

pytestmark = pytest.mark.unit


class World:
    """A claimed sandbox, its engine, agent and ledger; `done` is what they were asked, in order."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.done: list[object] = []
        self.failure, self.is_full = failure, False
        self.frozen = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        worker = SimpleNamespace(id="sbx_" + "1" * 20)
        self.box = Sandbox(worker=worker, template=None, state=WorkerState.CLAIMED, agent=self)

    async def pause(self, worker):
        assert worker is self.box.worker
        self.done.append("freeze")
        self.frozen.set()
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure

    async def resume(self, worker):
        assert worker is self.box.worker
        self.done.append("thaw")

    @contextlib.asynccontextmanager
    async def silence(self):
        self.done.append("silence")
        yield

    async def signal(self, target, number):
        self.done.append((target, int(number)))

    def write(self, box):
        self.done.append({"paused": box.is_paused})
        if self.is_full:
            raise DiskSpaceError("the record cannot be written")

    async def change(self, how):
        await how(self.box, self, self.write)


async def test_the_ledger_is_told_before_the_worker_is_frozen_and_when_it_is_thawed(jp_asyncio_loop):
    world = World()
    await world.change(pausing.pause)
    await world.change(pausing.pause)
    assert world.done == [{"paused": True}, "silence", "freeze"]
    with pytest.raises(SandboxPausedError):
        world.box.reach()
    world.done.clear()
    await world.change(pausing.resume)
    await world.change(pausing.resume)
    assert world.done == ["thaw", {"paused": False}]
    assert world.box.reach() is world


async def test_a_pause_that_fails_leaves_a_sandbox_that_runs(jp_asyncio_loop):
    world = World(StartError("no"))
    with pytest.raises(StartError):
        await world.change(pausing.pause)
    assert world.done == [{"paused": True}, "silence", "freeze", "thaw", {"paused": False}]
    assert world.box.reach() is world


async def test_what_was_to_be_killed_while_a_pause_failed_is_killed(jp_asyncio_loop):
    world = World(StartError("no"))
    world.may_go_on.clear()
    pause = asyncio.create_task(world.change(pausing.pause))
    await world.frozen.wait()
    await world.box.kill("cmd")
    world.may_go_on.set()
    with pytest.raises(StartError):
        await pause
    assert ("cmd", 9) in world.done
    assert not world.box.kills


async def test_a_sandbox_that_cannot_be_paused_again_goes_on_and_that_is_told(jp_asyncio_loop, caplog):
    world = World(StartError("no"))
    await world.change(pausing.pause_again)
    assert "was paused, and goes on: no" in caplog.text


async def test_a_full_disk_of_the_ledger_ends_no_recovery_and_keeps_nothing_from_its_end(jp_asyncio_loop, caplog):
    world = World()
    world.is_full = True
    world.box.kills.add("cmd")
    await world.change(pausing.pause_again)
    assert "was paused, and goes on: the record cannot be written" in caplog.text
    assert world.box.reach() is world
    assert ("cmd", 9) in world.done


async def test_a_pause_whose_client_has_gone_is_a_whole_one(jp_asyncio_loop):
    world = World()
    world.may_go_on.clear()
    task = asyncio.create_task(world.change(pausing.pause))
    await world.frozen.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(world.may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.box.is_paused
    assert world.done[-1] == "freeze"


async def test_what_is_killed_meanwhile_is_killed_once_when_it_goes_on(jp_asyncio_loop):
    world = World()
    await world.change(pausing.pause)
    world.done.clear()
    for target in ("a", "b", "a", "a"):
        await world.box.kill(target)
    assert world.done == []
    await world.change(pausing.resume)
    assert world.done[:2] == ["thaw", {"paused": False}]
    assert sorted(world.done[2:]) == [("a", 9), ("b", 9)]
    await world.box.kill("a")
    assert world.done[-1] == ("a", 9)


@pytest.mark.parametrize("how", [pausing.pause, pausing.resume])
async def test_a_sandbox_that_ended_while_others_changed_it_is_unknown(jp_asyncio_loop, how):
    world = World()
    async with world.box.changing:
        task = asyncio.create_task(world.change(how))
        await asyncio.sleep(0)
        world.box.state = WorkerState.DOOMED
    with pytest.raises(UnknownSandboxError):
        await task
    assert world.done == []
