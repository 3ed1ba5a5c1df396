"""Jupyter's own routes for events, for ours: nobody sees what other owners did, and nobody makes up what happened.

Stock jupyter_server sends every event to all who subscribe, and emits whatever a client posts. Both stay as they are
for events of others; the routes shadow the stock ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_server.services.events.handlers import EventHandler, SubscribeWebsocket
from tornado import web

from jupyter_sandbox import owners
from jupyter_sandbox.events import NAMESPACE

if TYPE_CHECKING:
    from jupyter_events import EventLogger


class OwnEventsWebsocket(SubscribeWebsocket):
    """Tells a subscriber of our events those that are his."""

    async def event_listener(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        """Pass an event on, or not."""
        if not schema_id.startswith(NAMESPACE) or data.get("owner") == owners.of(self):
            await super().event_listener(logger, schema_id, data)


class ForeignEventHandler(EventHandler):
    """Takes events of all schemas but ours."""

    def get_json_body(self) -> dict[str, Any] | None:
        """Return the event that is posted; the stock handler asks for it once it knows that its client may."""
        payload = super().get_json_body()
        if payload is not None and str(payload.get("schema_id")).startswith(NAMESPACE):
            raise web.HTTPError(403, "events of sandboxes are emitted by the server only")
        return payload


ROUTES: Final = ((r"/api/events", ForeignEventHandler), (r"/api/events/subscribe", OwnEventsWebsocket))
