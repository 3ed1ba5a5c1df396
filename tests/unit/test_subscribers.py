"""A kernel welcomes who subscribes, also while it publishes something else."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import zmq
from ipykernel.iostream import IOPubThread
from jupyter_client.session import Session

from sandbox_worker.subscribers import notice_subscribers

pytestmark = pytest.mark.timeout(30)

_PATIENCE_MS = 5_000
_UNDER_WAY_S = 0.05
"""The subscription follows the handshake. Where this is too short the test proves less, but does not fail."""


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/iopub"


@pytest.fixture
def publisher(endpoint):
    with zmq.Context() as context:
        socket = context.socket(zmq.XPUB)
        socket.linger = 0
        socket.bind(endpoint)
        publisher = IOPubThread(socket, session=Session(key=b"key"))
        publisher.start()
        yield publisher
        publisher.stop()
        publisher.close()


def test_who_subscribes_while_a_message_is_sent_is_welcomed(publisher, endpoint):
    """ipykernel alone welcomed it when something else happened: a start in forty waited 20 ms and asked."""
    notice_subscribers(publisher)
    begun, has_subscribed = threading.Event(), threading.Event()

    def publish() -> None:
        publisher.socket.send(b"topic", zmq.SNDMORE)
        begun.set()
        has_subscribed.wait()
        publisher.socket.send(b"sent to nobody: nobody had subscribed when it began")

    publisher.schedule(publish)
    assert begun.wait(_PATIENCE_MS / 1e3)
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.subscribe(b"")
        with subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
            subscriber.connect(endpoint)
            assert monitor.poll(_PATIENCE_MS)
            subscriber.disable_monitor()
        time.sleep(_UNDER_WAY_S)
        has_subscribed.set()
        assert subscriber.poll(_PATIENCE_MS), "nothing was said"
        _, frames = Session(key=b"key").feed_identities(subscriber.recv_multipart())
        assert Session(key=b"key").deserialize(frames)["msg_type"] == "iopub_welcome"


def test_another_ipykernel_publishes_as_it_does_by_itself():
    """One that has all but one of what is needed."""
    needed = dict.fromkeys(("_event_puller", "_xpub_stream", "_handle_event"), object())
    for name in needed:
        notice_subscribers(SimpleNamespace(**{other: needed[other] for other in needed if other != name}))
