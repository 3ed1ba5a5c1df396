"""What every surface's handlers share: Jupyter's authentication, bounded bodies, problems as JSON, streams of events.

Errors become answers here and nowhere else. It knows no path and no service.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError

from jupyter_sandbox import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_BODY_BYTES: Final = 2 << 20

HINTS: Final[dict[str, str]] = {
    "invalid_request": "Mend the request, trying again does not help; /api/sandboxes/openapi.json says how.",
    "workspace_unavailable": "Ask for another workspace.",
    "unknown_template": "The message lists the templates that exist.",
    "unknown_sandbox": "It ended, or it never was yours; GET /api/sandboxes lists yours.",
    "unknown_context": "It ended; list those of the sandbox.",
    "unknown_execution": "Ask for detached executions soon after they ended.",
    "unknown_route": "/api/sandboxes/openapi.json lists what there is.",
    "method_not_allowed": "The header Allow lists the methods.",
    "forbidden": "Send the token, or the cookie with its XSRF token, of a user who may do this.",
    "conflict": "The message says what it contradicts.",
    "body_too_large": f"A body may have {MAX_BODY_BYTES} bytes.",
    "busy": "Try again after the seconds in Retry-After.",
    "no_capacity": "End what is not needed, or try again later.",
    "no_disk_space": "Tell the operator: the host has no room for another disk.",
    "isolation_unavailable": "Tell the operator: `jupyter sandbox doctor` says what to change.",
    "engine_unavailable": "Try again later; what lives goes on.",
    "broker_unavailable": "Tell the operator: `jupyter sandbox status` says more.",
    "start_failed": "Try again; if it stays, the broker's log says more.",
    "program_missing": "The kernelspec names a program that sandboxes do not have.",
    "invalid_template": "Tell the operator: a template file is wrong.",
    "protocol_error": "Restart broker and server: they are not of one version.",
    "internal_error": "This is a bug; the server's log says more.",
}
_BY_STATUS: Final[dict[int, type[errors.SandboxError]]] = {
    400: errors.InvalidRequestError,
    403: errors.ForbiddenError,
    404: errors.UnknownRouteError,
    405: errors.MethodError,
    413: errors.BodyTooLargeError,
}
"""What Jupyter and tornado refuse by themselves."""


class Form(StrEnum):
    """How a client wants its answer: at the end as a whole, or as it comes."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    SSE = "text/event-stream"


def form_of(accept: str) -> Form:
    """Return the first known form that an Accept header names; JSON when it names none."""
    for item in accept.split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in list(Form):
            return Form(kind)
    return Form.JSON


def encoded(value: object) -> str:
    """Return JSON that every reader takes: no NaN, and half characters only as escapes."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


@web.stream_request_body
class ServiceHandler(APIHandler):
    """Base of the handlers of surfaces."""

    methods: tuple[str, ...] = ()
    """What the resource knows, for the header Allow."""

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Refuse bodies that are too large before they come; then as Jupyter does it."""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._when_gone: list[Callable[[], None]] = []
        length = self.request.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES:
            raise web.HTTPError(413)
        await super().prepare()

    def data_received(self, chunk: bytes) -> None:
        """Keep what fits of a body; the rest of one that does not fit is read and dropped."""
        self._body_bytes += len(chunk)
        if self._body_bytes <= MAX_BODY_BYTES:
            self._body.append(chunk)
        else:
            self._body.clear()

    def body(self) -> bytes:
        """Return the body; raises BodyTooLargeError."""
        if self._body_bytes > MAX_BODY_BYTES:
            raise errors.BodyTooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes")
        return b"".join(self._body)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client hangs up before it has its answer."""
        self._when_gone.append(callback)

    def on_connection_close(self) -> None:
        """The client hung up."""
        super().on_connection_close()
        for callback in self._when_gone:
            callback()

    # -- answers

    def answer(self, status: int, model: object | None, location: str | None = None) -> None:
        """Finish with a model, or with nothing."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        if location is not None:
            self.set_header("Location", location)
        if model is None:
            self.finish()
        else:
            self.finish(encoded(model))

    async def stream(self, form: Form, events: AsyncIterator[dict[str, Any]]) -> None:
        """Send events as they come; a client that reads slowly makes their source wait."""
        self.set_header("Content-Type", str(form))
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        connection: Any = self.request.connection
        connection.stream.set_nodelay(True)
        try:
            async for event in events:
                line = encoded(event)
                self.write(f"event: {event['type']}\ndata: {line}\n\n" if form is Form.SSE else line + "\n")
                await self.flush()
            self.finish(set_content_type=str(form))
        except StreamClosedError:
            self.log.debug("A client hung up on a stream of events")

    def refuse(self, error: errors.SandboxError, status: int | None = None) -> None:
        """Finish with a problem; `status` is another than the error's own."""
        self.set_status(status or error.status)
        self.set_header("Cache-Control", "no-store")
        if error.retry_after_s is not None or error.status == 429:
            self.set_header("Retry-After", str(error.retry_after_s or 1))
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        self.finish(encoded({"code": error.code, "message": str(error), "hint": HINTS[error.code]}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What others refuse, and what we failed at, is a problem of the same form."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, errors.SandboxError):
            self.refuse(error)
            return
        kind = _BY_STATUS.get(status_code, errors.InvalidRequestError if status_code < 500 else errors.SandboxError)
        self.refuse(kind(self._words(status_code)), status_code)

    @staticmethod
    def _words(status_code: int) -> str:
        match status_code:
            case 400:
                return "the request cannot be read"
            case 403:
                return "who asks is not known, or may not do this"
            case 404:
                return "there is no such resource"
            case 405:
                return "the resource does not know this method"
            case 413:
                return f"the body has more than {MAX_BODY_BYTES} bytes"
        return "the server failed inside"
