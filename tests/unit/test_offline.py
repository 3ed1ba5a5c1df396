"""What is kept for a client that is away: for its session only, with an end, and as sound as when it came."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from jupyter_client.session import Session

from jupyter_sandbox import offline
from jupyter_sandbox.guards import kernel_messages

pytestmark = pytest.mark.unit

KEY = b"key"
KERNEL_ID = "k"
SESSION_ID = "0123"


class Stream:
    """A connection of a kernel manager."""

    def __init__(self) -> None:
        self.refuse = self.receive = None
        self.is_paused = True

    def on_refusal(self, callback) -> None:
        self.refuse = callback

    def on_recv(self, callback) -> None:
        self.receive = callback

    def closed(self) -> bool:
        return False

    def resume(self) -> None:
        self.is_paused = False


class Manager:
    """Jupyter's manager of all kernels, as far as it keeps what they say."""

    def __init__(self) -> None:
        self._kernel_buffers: dict = {}
        self.made: dict[str, Stream] = {}
        self.kernel = SimpleNamespace(session=Session(key=KEY))
        for name in ("iopub", "shell", "control", "stdin"):
            setattr(self.kernel, f"connect_{name}", self._connector(name))

    def _connector(self, name):
        def connect(identity):
            assert identity == SESSION_ID.encode()
            self.made[name] = Stream()
            return self.made[name]

        return connect

    def get_kernel(self, kernel_id):
        assert kernel_id == KERNEL_ID
        return self.kernel

    def start_buffering(self, kernel_id, session_key, channels):
        kept = self._kernel_buffers[kernel_id] = {"session_key": session_key, "buffer": [], "channels": channels}
        for name, stream in channels.items():
            stream.on_recv(lambda parts, name=name: kept["buffer"].append((name, parts)))


@pytest.fixture
def manager():
    return Manager()


def output(text: str) -> list[bytes]:
    session = Session(key=KEY)
    request = session.msg("execute_request", {"code": "1"})
    return session.serialize(session.msg("stream", {"name": "stdout", "text": text}, parent=request), ident=b"topic")


def judged(item):
    channel, parts = item
    return kernel_messages.judge(channel, parts, Session(key=KEY).sign, 1 << 20)


def test_what_comes_for_a_client_that_is_expected_is_kept_in_order(manager):
    offline.expect(manager, KERNEL_ID, SESSION_ID, 1 << 20)
    for text in ("a", "b"):
        manager.made["iopub"].receive(output(text))
    kept = list(manager._kernel_buffers[KERNEL_ID]["buffer"])
    assert [judged(item).content["text"] for item in kept] == ["a", "b"]
    assert manager._kernel_buffers[KERNEL_ID]["session_key"] == f"{KERNEL_ID}:{SESSION_ID}"
    assert not any(stream.is_paused for stream in manager.made.values())


def test_what_is_more_than_may_be_is_counted_and_told(manager):
    offline.expect(manager, KERNEL_ID, SESSION_ID, 10_000)
    for _ in range(10):
        manager.made["iopub"].receive(output("x" * 3000))
    manager.made["shell"].refuse(SimpleNamespace(size_bytes=7, parent=None))
    *kept, marker = manager._kernel_buffers[KERNEL_ID]["buffer"]
    assert 0 < len(kept) < 10
    dropped = 10 - len(kept)
    told = judged(marker)
    assert told.content["text"].startswith(f"{dropped + 1} messages with ")
    assert told.parent["msg_type"] == "execute_request", "it stands below the cell whose output is missing"


@pytest.mark.parametrize("kept", [{}, {KERNEL_ID: {"session_key": f"{KERNEL_ID}:other", "buffer": []}}])
def test_what_is_kept_for_nobody_or_another_is_left_alone(manager, kept):
    manager._kernel_buffers = kept
    before = repr(kept)
    offline.bound(manager, KERNEL_ID, Session(key=KEY, session=SESSION_ID), [Stream()], 1)
    assert repr(manager._kernel_buffers) == before
