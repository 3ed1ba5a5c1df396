"""What a kernel says after it called itself idle comes before that word, and nothing else changes its place."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
import zmq

from sandbox_worker.idle_last import IdleLast

pytestmark = pytest.mark.unit

KEY = b"key"


def message(msg_type, parent="exe-1", state=None, parent_type="execute_request", session="client"):
    content = {"execution_state": state} if state else {"text": msg_type}
    parts = [{"msg_type": msg_type}, {"msg_id": parent, "msg_type": parent_type, "session": session}, {}, content]
    return [b"topic", b"<IDS|MSG>", b"signature", *(json.dumps(part).encode() for part in parts), b"buffer"]


class World:
    """A kernel and its clients."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.kernel, published = self._pair("kernel", zmq.PAIR, zmq.PAIR)
        self.control, control = self._pair("control", zmq.ROUTER, zmq.DEALER)
        self.clients, clients = self._pair("clients", zmq.PAIR, zmq.PAIR)
        self.subject = IdleLast(published, clients, control, KEY)
        self.published = published

    def _pair(self, name, *kinds):
        outer, inner = (self.context.socket(kind) for kind in kinds)
        outer.bind(f"inproc://{name}")
        inner.connect(f"inproc://{name}")
        return outer, inner

    def say(self, *arguments, **named):
        self.kernel.send_multipart(message(*arguments, **named))
        self.published.poll(1000)
        self.subject.published()

    def answer(self):
        """Answer a request on the control channel; return its parts."""
        assert self.control.poll(1000)
        identity, *parts = self.control.recv_multipart()
        self.control.send_multipart([identity, b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", b"{}"])
        self.subject.answered()
        return parts

    def heard(self):
        said = []
        while self.clients.poll(0):
            frames = self.clients.recv_multipart()
            content = json.loads(frames[6])
            said.append((json.loads(frames[4])["msg_id"], content.get("execution_state") or content["text"]))
        return said


@pytest.fixture
def world():
    made = World()
    yield made
    made.context.destroy(linger=0)


def test_what_comes_after_idle_is_passed_on_before_it(world):
    world.say("status", state="busy")
    world.say("stream")
    world.say("status", state="idle")
    assert world.heard() == [("exe-1", "busy"), ("exe-1", "stream")]
    world.say("execute_result")
    assert world.heard() == [("exe-1", "execute_result")]
    world.answer()
    assert world.heard() == []
    world.answer()
    assert world.heard() == [("exe-1", "idle")]
    assert world.subject.wait_ms() is None


def test_what_lies_there_when_the_last_answer_comes_is_not_forgotten(world):
    world.say("status", state="idle")
    world.answer()
    world.kernel.send_multipart(message("execute_result"))
    world.published.poll(1000)
    world.answer()
    assert world.heard() == [("exe-1", "execute_result"), ("exe-1", "idle")]


def test_the_next_execution_waits_until_the_last_one_is_told(world):
    world.say("status", state="idle")
    for msg_type, state in (("status", "busy"), ("stream", None), ("status", "idle")):
        world.say(msg_type, "exe-2", state=state)
    world.say("execute_result")
    world.answer()
    world.answer()
    assert world.heard() == [
        ("exe-1", "execute_result"),
        ("exe-1", "idle"),
        ("exe-2", "busy"),
        ("exe-2", "stream"),
    ]
    world.answer()
    world.answer()
    assert world.heard() == [("exe-2", "idle")]


def test_a_kernel_that_does_not_answer_is_taken_at_its_word(world):
    world.say("status", state="idle")
    assert 0 < world.subject.wait_ms() <= 1000
    world.subject.settle()
    assert world.heard() == [("exe-1", "idle")]
    world.answer()  # too late, and of no consequence
    assert world.heard() == []


def test_other_messages_pass_at_once(world):
    world.say("status", state="idle", parent_type="kernel_info_request")
    world.kernel.send_multipart([b"no", b"message"])
    world.published.poll(1000)
    world.subject.published()
    assert world.clients.recv_multipart()[-1] == b"buffer"
    assert world.clients.recv_multipart() == [b"no", b"message"]


def test_its_own_requests_are_signed_and_nobody_hears_of_them(world):
    world.say("status", state="idle")
    delimiter, signature, *parts = world.answer()
    header = json.loads(parts[0])
    assert (delimiter, header["msg_type"]) == (b"<IDS|MSG>", "kernel_info_request")
    assert signature.decode() == hmac.new(KEY, b"".join(parts), hashlib.sha256).hexdigest()
    world.say("status", state="busy", parent_type="kernel_info_request", session=header["session"])
    world.answer()
    assert world.heard() == [("exe-1", "idle")]
