"""Broker and workers of two versions, as after an upgrade while kernels run."""

from __future__ import annotations

import socket

import pytest

from jupyter_sandbox.host import channel
from sandbox_worker import messages, protocol
from sandbox_worker.agent import Agent, Confinement
from sandbox_worker.kernel import Launcher

pytestmark = pytest.mark.unit

LAUNCHER = Launcher(mode="plain", run=lambda *_: None, stand_by=None)
CONFINEMENT = Confinement(stand_by=lambda _: None, bind=lambda *_: None)
LATER = (
    b'{"type": "start_kernel", "kernel": "k", "argv": null, "env": {}, "cwd": "/", "prefix": "p", "key": "k", "new": 1}'
)


def test_a_request_of_a_later_version_is_refused_and_the_worker_lives(tmp_path):
    with channel.listen(tmp_path / "agent", kind=socket.SOCK_SEQPACKET, mode=0o600) as listener:
        agent = Agent(listener, LAUNCHER, CONFINEMENT)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
            broker.connect(str(tmp_path / "agent"))
            agent._accept(1)
            for request in (LATER, b'{"type": "rejuvenate"}', b'{"type": "describe"}'):
                broker.send(request)
                agent._receive(agent._connection)
            answers = [messages.receive(broker, protocol.FROM_AGENT)[0] for _ in range(3)]
        agent._disconnect()
        agent._selector.close()
    assert [type(answer) for answer in answers] == [protocol.Failed, protocol.Failed, protocol.Description]
    assert "another version" in answers[0].reason
