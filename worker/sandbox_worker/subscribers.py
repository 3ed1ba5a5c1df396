"""Who subscribes to what a kernel publishes is noticed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from ipykernel.iostream import IOPubThread


def notice_subscribers(publisher: IOPubThread) -> None:
    """Have a thread that publishes look for new subscriptions after each message that it sent.

    To send takes the wake-up of a subscription that came meanwhile. ipykernel would find that one, and welcome its
    subscriber, when something else happens. One whose internals are others is left alone.
    """
    events: Any = getattr(publisher, "_event_puller", None)
    subscriptions: Any = getattr(publisher, "_xpub_stream", None)
    take: Any = getattr(publisher, "_handle_event", None)
    if None in (events, subscriptions, take):
        return

    def handle(message: list[bytes]) -> None:
        take(message)
        if subscriptions.socket.get(zmq.EVENTS) & zmq.POLLIN:
            subscriptions.flush(zmq.POLLIN)

    publisher.schedule(lambda: events.on_recv(handle))
