"""The server's own connections to a kernel: how often it interrupts code that nobody waits for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_sandbox import conversations
from jupyter_sandbox.conversations import Conversation

pytestmark = pytest.mark.unit


class Manager(dict):
    """Jupyter's manager of all kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupts = 0

    def get_kernel(self, kernel_id):
        return self[kernel_id]

    def add_restart_callback(self, *_):
        return

    remove_restart_callback = add_restart_callback

    async def interrupt_kernel(self, _kernel_id):
        self.interrupts += 1


async def test_a_kernel_that_says_again_and_again_that_it_begins_is_interrupted_as_often_as_another(monkeypatch):
    monkeypatch.setattr(conversations, "INTERRUPT_AGAIN_S", 0.01)
    manager = Manager()
    context = SimpleNamespace(id="k", manager=SimpleNamespace(session=SimpleNamespace(key=b"key")))
    manager["k"] = context.manager
    conversation = Conversation(context, manager)
    conversation._streams["iopub"] = SimpleNamespace(closed=lambda: True, resume=lambda: None)
    conversation._msg_id = "asked"
    conversation.end(interrupt_when_begun=True)
    before = len(asyncio.all_tasks())
    for _ in range(100):
        conversation._note_abandoned("asked", "busy")
    assert len(asyncio.all_tasks()) == before + 1
    await asyncio.sleep(0.1)
    assert 0 < manager.interrupts <= conversations._MAX_INTERRUPTS
    conversation._note_abandoned("asked", "idle")
    conversation.close()
