"""The server's own connections to a kernel: how often it interrupts code that nobody waits for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_sandbox import conversations
from jupyter_sandbox.conversations import Conversation
from jupyter_sandbox.guards.kernel_messages import Reason
from jupyter_sandbox.kernel_streams import Refusal

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


class Stream:
    """A connection to one channel; what is sent on it is answered on iopub, if somebody listens there."""

    def __init__(self, iopub=None):
        self.iopub = iopub or self
        self.is_connected = True
        self.closed = lambda: False
        self.sent = 0

    def on_recv(self, hear):
        self.hear = hear

    def on_refusal(self, refuse):
        self.refuse = refuse

    def send_multipart(self, *_, **__):
        self.sent += 1
        if self.iopub.is_connected:
            self.iopub.judged = SimpleNamespace(parent={}, msg_type="status", content={"execution_state": "busy"})
            self.iopub.hear([])


async def test_an_iopub_that_was_given_up_is_heard_again_before_code_is_sent(monkeypatch):
    monkeypatch.setattr(conversations, "_ASK_AGAIN_S", 0.01)

    async def poll():
        return None

    iopub = Stream()
    streams = {"iopub": iopub, "shell": Stream(iopub), "control": Stream(iopub)}
    session = SimpleNamespace(key=b"key")
    manager = SimpleNamespace(session=session, autorestart=False, shutting_down=False)
    for channel, stream in streams.items():
        setattr(manager, f"connect_{channel}", lambda stream=stream, **_: stream)
    context = SimpleNamespace(id="k", manager=manager)
    context.provisioner = SimpleNamespace(launches=1, poll=poll, welcomes=True)
    kernels = Manager()
    kernels["k"] = manager
    conversation = Conversation(context, kernels)
    assert await conversation.open(lambda: False)
    asked = streams["control"].sent
    assert await conversation.open(lambda: False)
    assert streams["control"].sent == asked, "a connection that stands costs nothing"
    iopub.is_connected = False
    iopub.refuse(Refusal(channel="iopub", reason=Reason.CONNECTION, size_bytes=0))
    assert not await conversation.open(lambda: True), "who gives up leaves it cut for the next"
    opening = asyncio.create_task(conversation.open(lambda: False))
    await asyncio.sleep(0.05)
    assert not opening.done()
    assert not await conversation.is_over(), "the kernel lives"
    iopub.is_connected = True
    async with asyncio.timeout(5):
        assert await opening


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
