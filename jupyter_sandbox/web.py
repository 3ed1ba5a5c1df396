"""What every surface's handlers share: Jupyter's authentication, bodies, problems as JSON, streams of events, files.

Errors become answers here and nowhere else. It knows no path and no service.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.iostream import StreamClosedError

from jupyter_sandbox import errors, events, hints, owners, pace, request_ids, stock_refusals
from jupyter_sandbox.guards import ids
from jupyter_sandbox.incoming import Incoming, in_large_pieces
from jupyter_sandbox.unsent import Unsent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence

    from jupyter_sandbox.events import Emit

MAX_BODY_BYTES: Final = 2 << 20
SMALL_REST_BYTES: Final = 64 << 10
REST_PATIENCE_S: Final = 5
"""So much of a body, and so long, is waited for before a request is refused that was refused by its head."""
FILE: Final = "application/octet-stream"
LARGE_BYTES: Final = 64 << 10
"""So much of an answer counts as held for who asked, until he took it."""
EMIT: Final = "jupyter_sandbox_emit"
"""The name of the server's setting that says where handlers tell what happened."""
_UNSENT: Final = "jupyter_sandbox_unsent"
"""The same, where large answers are counted."""
_MAX_FORMS: Final = 64
"""So many of an Accept header are looked at; browsers name ten."""


class Form(StrEnum):
    """How a client wants its answer: at the end as a whole, or as it comes."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    SSE = "text/event-stream"


def form_of(accept: str) -> Form:
    """Return the first known form that an Accept header names among its first; JSON when it names none there."""
    for item in accept.split(",", _MAX_FORMS)[:_MAX_FORMS]:
        kind = item.partition(";")[0].strip().lower()
        if kind in list(Form):
            return Form(kind)
    return Form.JSON


def encoded(value: object) -> str:
    """Return JSON that every reader takes: no NaN, and half characters only as escapes."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def http_error(error: errors.SandboxError) -> web.HTTPError:
    """Return what Jupyter's own handlers can raise for an error of ours, `from` it; the code is in its reason."""
    return web.HTTPError(error.status, str(error), reason=f"Refused ({error.code})")


def no_kernel(kernel_id: object) -> web.HTTPError:
    """Return what Jupyter says of a kernel that is not there; one that is another owner's is answered the same."""
    return web.HTTPError(404, f"Kernel does not exist: {kernel_id}")


class TokenRoute(JupyterHandler):
    """Mixed into handlers that take tokens of ours; every other handler of the server refuses them."""

    takes_tokens = True
    _told: Mapping[str, str] = MappingProxyType({})
    is_answered = False
    """Whether the connection may be for other requests by now."""

    def tell(self, headers: Mapping[str, str]) -> None:
        """Put header fields into the answer, whatever it will be."""
        self._told = {**self._told, **headers}
        for name, value in headers.items():
            self.set_header(name, value)

    def set_default_headers(self) -> None:
        """Tornado forgets what was set when it begins to say that something failed."""
        super().set_default_headers()
        for name, value in self._told.items():
            self.set_header(name, value)

    def on_finish(self) -> None:
        """See tornado."""
        super().on_finish()
        self.is_answered = True

    def hang_up(self) -> None:
        """Break off: who asked is nobody any more."""
        if not self.is_answered:
            connection: Any = self.request.connection
            connection.stream.close()


@web.stream_request_body
class ServiceHandler(TokenRoute, APIHandler):
    """Base of the handlers of surfaces."""

    methods: tuple[str, ...] = ()
    """What the resource knows, for the header Allow."""
    max_body_bytes = MAX_BODY_BYTES
    """Of a body that is no file."""
    incoming: Incoming | None = None
    """The body, when it is a file."""
    is_paced = True
    """See Incoming."""
    _body_bytes = 0
    _read_as_before: Callable[[], None] | None = None
    _is_gone = False
    _when_gone: Sequence[Callable[[], object]] = ()
    _last_words: Callable[[], object] | None = None
    """The answer, while a small rest of the body is waited for."""
    _patience_bytes = 0
    """How large the body may be meanwhile."""

    def set_default_headers(self) -> None:
        """As Jupyter does it; and every answer names its request."""
        super().set_default_headers()
        self.set_header(request_ids.HEADER, request_ids.of(self.request))

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Refuse bodies that are too large before they come; then as Jupyter does it."""
        self._body: list[bytes] = []
        length = self.request.headers.get("Content-Length", "0")
        limit = self.file_limit()
        if not length.isascii() or not length.isdigit() or int(length[:20]) > (limit or self.max_body_bytes):
            raise web.HTTPError(413)
        connection: Any = self.request.connection
        connection.set_body_timeout(pace.allowed_s(int(length) or limit or self.max_body_bytes))
        await super().prepare()
        self.find_user()
        if limit is not None:
            if self.current_user is None:
                raise web.HTTPError(403)
            connection.set_max_body_size(limit + 2 * MAX_BODY_BYTES)  # who judges the file comes to its limit first
            self._read_as_before = in_large_pieces(connection)
            self.incoming = Incoming(is_paced=self.is_paced)

    def find_user(self) -> None:
        """Set `current_user` again, if it is somebody else than Jupyter makes of the request."""

    def operation_name(self) -> str | None:
        """What the request is called in events, if it is one of ours."""
        return None

    def file_limit(self) -> int | None:
        """How many bytes the body may have if it is a file, which is then `incoming`; None when it is none."""
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Keep what fits of a body; the rest of one that does not fit is read and dropped."""
        self._body_bytes += len(chunk)
        if self._last_words is not None:
            if self._body_bytes > self._patience_bytes:
                self._say_last_words()
            return None
        if self.incoming is not None:
            return self.incoming.put(chunk)
        if self._body_bytes <= self.max_body_bytes:
            self._body.append(chunk)
        else:
            self._body.clear()
        return None

    def body(self) -> bytes:
        """Return the body; raises BodyTooLargeError."""
        if self._body_bytes > self.max_body_bytes:
            raise errors.BodyTooLargeError(f"the body has more than {self.max_body_bytes} bytes")
        return b"".join(self._body)

    def finish(self, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """As Jupyter does it; and say that the connection ends, if this comes before all of the request was read.

        A small rest is waited for: tornado hangs up, and who still sends would find that out and not the answer.
        """
        whole = self._whole
        if self._finished or whole.done() or self._unread_bytes() > SMALL_REST_BYTES or self._is_uninvited():
            return self._finish_in_time(*args, **kwargs)
        self._finished = True  # tornado asks for nothing more, until it is said
        self._last_words = functools.partial(self._finish_in_time, *args, **kwargs)
        self._patience_bytes = self._body_bytes + SMALL_REST_BYTES
        timer = asyncio.get_running_loop().call_later(REST_PATIENCE_S, self._say_last_words)
        whole.add_done_callback(lambda _: timer.cancel())
        whole.add_done_callback(lambda _: self._say_last_words())
        waited: asyncio.Future[Any] = asyncio.Future()
        waited.set_result(None)  # nobody need wait: there may be no more to come
        return waited

    def _finish_in_time(self, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Finish; hang up on who does not take the answer in time."""
        if not self._whole.done():
            self.set_header("Connection", "close")
        size = sum(len(each) for each in args if isinstance(each, str | bytes))
        owner = owners.of(self) if size > LARGE_BYTES and self.current_user is not None else None
        hang_up, self._when_gone = cast("Any", self.request.connection).stream.close, ()  # which hold what ran
        sent: asyncio.Future[Any] = super().finish(*args, **kwargs)
        self._unsent.hold(sent, hang_up, size=size, owner=owner)
        return sent

    @property
    def _unsent(self) -> Unsent:
        return cast("Unsent", self.settings.setdefault(_UNSENT, Unsent()))

    @property
    def _whole(self) -> asyncio.Future[None]:
        """Done when all of the request has come."""
        return self.request._body_future  # noqa: SLF001 - what tornado itself waits for; it tells nobody else

    def _unread_bytes(self) -> int:
        """How much of the body has not come, by its length; less than it is if it comes in chunks."""
        length = self.request.headers.get("Content-Length", "0")
        return int(length[:20]) - self._body_bytes if length.isascii() and length.isdigit() else MAX_BODY_BYTES

    def _is_uninvited(self) -> bool:
        """Whether who asks sends a body only when he is told to, and was not yet."""
        prepared = cast("asyncio.Future[None] | None", self._prepared_future)
        return "Expect" in self.request.headers and prepared is not None and not prepared.done()

    def update_api_activity(self) -> None:
        """As Jupyter does it, which reads the query first; what is no text there keeps no answer from who asked."""
        with contextlib.suppress(web.HTTPError):
            super().update_api_activity()

    def _say_last_words(self) -> None:
        words, self._last_words = self._last_words, None
        if words is not None:
            self._finished = False
            words()

    def on_finish(self) -> None:
        """See tornado."""
        super().on_finish()
        if self._read_as_before is not None:
            self._read_as_before()

    def when_gone(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the client hangs up before it has its answer; at once when it did already."""
        if self._is_gone:
            callback()
        else:
            self._when_gone = (*self._when_gone, callback)

    def on_connection_close(self) -> None:
        """The client hung up."""
        super().on_connection_close()
        self._say_last_words()
        self._note_gone()

    def _note_gone(self) -> None:
        self._is_gone = True
        callbacks, self._when_gone = self._when_gone, ()
        for callback in callbacks:
            callback()

    # -- answers

    def answer(self, status: int, model: object | None, location: str | None = None) -> None:
        """Finish with a model, or with nothing."""
        self._answer(status, None if model is None else encoded(model).encode(), location)

    async def answer_in_turn(self, status: int, model: object | None, location: str | None = None) -> None:
        """The same; a large one comes when its owner's clients took enough of those before it. Raises BusyError."""
        text = None if model is None else encoded(model).encode()
        if text is not None and len(text) > LARGE_BYTES and self._unsent.is_full(owner := owners.of(self)):
            size, text = len(text), None  # it is held once while it waits
            self._when_gone = (self._unsent.look_again,)
            await self._unsent.room(owner, size, lambda: self._is_gone)
            text = encoded(model).encode()
        self._answer(status, text, location)

    def _answer(self, status: int, text: bytes | None, location: str | None) -> None:
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        if location is not None:
            self.set_header("Location", location)
        self.finish(*(() if text is None else (text,)))

    async def stream(self, form: Form, events: AsyncGenerator[dict[str, Any], None]) -> None:
        """Send events as they come; a client that reads slowly makes their source wait, and is hung up on in the end.

        Raises SandboxError of `events` before anything was sent.
        """
        self.set_header("Content-Type", str(form))
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        cast("Any", self.request.connection).stream.set_nodelay(True)
        with self._sending("A stream of events"):
            async with contextlib.aclosing(events):
                async for event in events:
                    line = encoded(event)
                    self.write(f"event: {event['type']}\ndata: {line}\n\n" if form is Form.SSE else line + "\n")
                    async with asyncio.timeout(pace.allowed_s(len(line))):
                        await self.flush()
            self.finish(set_content_type=str(form))

    async def send_file(
        self,
        content: AsyncIterable[bytes],
        *,
        name: str,
        start: int,
        size: int,
        total: int,
        is_part: bool,
        coding: str | None = None,
    ) -> None:
        """Send `size` bytes of a file, from `start`, so that no browser shows or runs what a sandbox wrote.

        `coding`: how they are packed; their number is not known then. Raises SandboxError of `content` before anything
        was sent; later a failure ends the connection too early.
        """
        self.set_status(206 if is_part else 200)
        if is_part:
            self.set_header("Content-Range", f"bytes {start}-{start + size - 1}/{total}")
        if coding is None:
            self.set_header("Accept-Ranges", "bytes")
            self.set_header("Content-Length", str(size))
        else:
            self.set_header("Content-Encoding", coding)
        self.set_header("Content-Type", FILE)
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        with self._sending("A file"):
            async for block in content:
                self.write(block)
                async with asyncio.timeout(pace.SILENCE_S):
                    await self.flush()
            self.finish(set_content_type=FILE)

    @contextlib.contextmanager
    def _sending(self, what: str) -> Iterator[None]:
        """Hang up when what is being sent comes to no end; raise SandboxError as long as nothing was sent."""
        connection: Any = self.request.connection
        try:
            yield
        except (StreamClosedError, TimeoutError):
            self.log.debug("%s was not sent to its end: the client hung up, or took nothing of it", what)
            connection.stream.close()
            self._note_gone()  # tornado does not tell who finishes before its next turn
        except errors.SandboxError as error:
            if not self._headers_written:
                self.clear()
                raise
            self.log.info("%s was not sent to its end: %s", what, error)
            connection.stream.close()

    def refuse(self, error: errors.SandboxError, status: int | None = None) -> None:
        """Finish with a problem; `status` is another than the error's own."""
        self.set_status(status or error.status)
        self.set_header("Cache-Control", "no-store")
        if error.retry_after_s is not None or error.status == 429:
            self.set_header("Retry-After", str(error.retry_after_s or 1))
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        self._tell(error)
        self.finish(encoded(self.problem(error)))

    def problem(self, error: errors.SandboxError) -> object:
        """Return the body of a refusal."""
        return {"code": error.code, "message": str(error), "hint": hints.HINTS[error.code]}

    def _tell(self, error: errors.SandboxError) -> None:
        emit: Emit = self.settings.get(EMIT, events.ignore)
        named = next((each for each in getattr(self, "path_args", ()) if each and ids.is_sandbox_id(each)), None)
        emit(events.RequestRefused(code=error.code, operation=self.operation_name(), sandbox_id=named))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What others refuse, and what we failed at, is a problem of the same form."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, web.HTTPError) and isinstance(error.__cause__, errors.SandboxError):
            error = error.__cause__
        if isinstance(error, errors.SandboxError):
            self.refuse(error)
            return
        if status_code == 413 and (limit := self.file_limit()) is not None:
            self.refuse(errors.FileTooLargeError(f"an upload may have {limit} bytes"))
            return
        request_id = request_ids.of(self.request)
        known = stock_refusals.as_error(status_code, max_body_bytes=self.max_body_bytes, request_id=request_id)
        self.refuse(known, status_code)
