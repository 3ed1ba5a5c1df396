"""One request of tornado's, as an ASGI application wants to see it: scope, receive, send (ASGI 3.0, HTTP 2.3).

The application gets no credentials. It may take long to answer; when the client hangs up, or takes nothing of the
answer for a time, it is told that, and what it still sends is dropped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import StreamClosedError

from jupyter_sandbox.pace import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jupyter_sandbox.web import ServiceHandler

Message = dict[str, Any]

_CREDENTIALS: Final = frozenset({"authorization", "cookie"})
_OURS: Final = frozenset({"connection", "content-type", "transfer-encoding"})
"""What tornado decides, or is told in another way."""
_EVENTS: Final = "text/event-stream"
_LINE_ENDS: Final = {"\u0085".encode(): b"\\u0085", "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}
"""What JSON may hold as it is, and some clients take for the end of a line of events."""


class Exchange:
    """A request and its answer."""

    def __init__(
        self, handler: ServiceHandler, extra: Message, on_answer: Callable[[int, Mapping[str, str]], object]
    ) -> None:
        """`extra`: more of the scope. `on_answer` hears the answer's status and header, in lower case, before it goes.

        Raises BodyTooLargeError.
        """
        self._handler, self._extra, self._on_answer = handler, extra, on_answer
        self._body: bytes | None = handler.body()
        self._gone = asyncio.Event()
        self._content_type = "application/json"
        handler.when_gone(self._gone.set)

    @property
    def scope(self) -> Message:
        """What is asked for."""
        request = self._handler.request
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.protocol,
            "path": request.path,
            "root_path": "",
            "query_string": b"",
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in request.headers.get_all()
                if name.lower() not in _CREDENTIALS
            ],
            "client": None,
            "server": None,
            **self._extra,
        }

    async def receive(self) -> Message:
        """Return the body, and later that the client has gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a piece of the answer; who reads slowly makes the application wait."""
        handler = self._handler
        if message["type"] == "http.response.start":
            self._begin(message)  # also for who has gone: what began with it must be known, or nobody ends it
            return
        if self._gone.is_set():
            return
        handler.write(self._piece(message.get("body", b"")))
        try:
            async with asyncio.timeout(SILENCE_S):
                if message.get("more_body", False):
                    await handler.flush()
                else:
                    await handler.finish(set_content_type=self._content_type)
        except (StreamClosedError, TimeoutError):
            connection: Any = handler.request.connection
            connection.stream.close()
            self._gone.set()

    def end(self) -> None:
        """The application has ended: hang up, unless the answer is whole."""
        self._handler.hang_up()
        self._gone.set()

    def _begin(self, message: Message) -> None:
        fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message.get("headers", ())}
        self._on_answer(message["status"], fields)
        self._content_type = fields.get("content-type", self._content_type)
        self._handler.set_status(message["status"])
        self._handler.set_header("Content-Type", self._content_type)
        for name, value in fields.items():
            if name not in _OURS:
                self._handler.set_header(name, value)

    def _piece(self, body: bytes) -> bytes:
        """Return a piece of the answer; events, which are JSON, come on lines that nobody breaks."""
        if self._content_type.startswith(_EVENTS):
            for end, escaped in _LINE_ENDS.items():
                body = body.replace(end, escaped)
        return body
