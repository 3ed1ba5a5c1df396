"""Commands that the broker asks an agent for, and whose asker leaves."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_sandbox.broker import commands, verbs
from jupyter_sandbox.broker.sandbox import Sandbox
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.lifecycle import WorkerState
from sandbox_worker import protocol

pytestmark = pytest.mark.unit

REQUEST = verbs.RunCommand(sandbox="sbx", argv=("sleep", "9"), env={}, cwd="/tmp")


class Agent:
    """It answers when it may; `signals` is what it was told."""

    def __init__(self, answer) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.answer, self.signals = answer, []

    async def ask(self, *_):
        self.asked.set()
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def signal(self, target, number):
        self.signals.append((target, int(number)))


@pytest.mark.parametrize("answer", [protocol.Started(pid=7), StartError("no")], ids=["it started", "it did not start"])
async def test_a_command_whose_asker_left_is_ended_and_its_end_is_no_lie(answer):
    agent = Agent(answer)
    worker = SimpleNamespace(id="sbx", limits=None, out_of_memory_kills=lambda: 0)
    template = SimpleNamespace(environment={})
    box = Sandbox(worker=worker, template=template, state=WorkerState.CLAIMED, agent=agent)
    running = asyncio.create_task(commands.run(box, REQUEST, [0, 1, 2], lambda _: None))
    await agent.asked.wait()
    (command,) = box.commands
    running.cancel()
    await asyncio.sleep(0)
    agent.may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    has_started = isinstance(answer, protocol.Started)
    assert agent.signals == ([(command, 9)] if has_started else [])
    assert list(box.commands) == ([command] if has_started else [])
