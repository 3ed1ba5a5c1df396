"""Logs for machines: a line of JSON for each record and each request, with the id of the request.

Every line is ASCII without control characters, so no text of a client or a sandbox can begin a line or colour a
terminal. Queries of URLs, tokens and paths of the host are taken out of messages, and requests are told without query.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from jupyter_server.prometheus.log_functions import prometheus_log_method

from jupyter_sandbox import owners, request_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_server.base.handlers import JupyterHandler
    from tornado.web import RequestHandler

_MAX_MESSAGE: Final = 4_000
_MAX_FIELD: Final = 1_000
_MAX_FRAMES: Final = 20
_FIELDS: Final = "sandbox_fields"

_requests = logging.getLogger(f"{__package__}.requests")

_QUERY: Final = re.compile(r"""(?<=[^\s?"'<>])\?[^\s"'<>]+""")
_SECRET: Final = re.compile(
    r"""(?i)\b(authorization|x-auth-token|x-access-token|cookie|set-cookie|token|password|secret|_xsrf)(["']?\s*[:=]\s*["']?)"""
    r"""(?:(?:token|bearer|basic)\s+)?[^\s"',;]+"""
)
_USER: Final = re.compile(r"(?<=://)[^/\s@]+@")
_HOST_PATH: Final = re.compile(
    r"""(?<=["'])/(?!api/|sandbox\b|workspace\b)[^"'\n]*/[^"'\n]*|"""
    r"(?<![\w.:/<-])/(?!api/|sandbox\b|workspace\b)[\w.@+~-]+(?:/[\w.@+~-]*)+"
)
"""An absolute path of at least two names that is none of our API's and none inside a sandbox; quoted, with blanks."""


def cleaned(text: str) -> str:
    """Return a message without what no log may hold."""
    text = _SECRET.sub(r"\1\2[secret]", text[: 2 * _MAX_MESSAGE])
    text = _HOST_PATH.sub("/[path]", _USER.sub("", _QUERY.sub("?[query]", text)))
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}[...]"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - logging's own formatters print such records to standard error
            message = f"a message could not be formatted ({type(error).__name__})"
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cleaned(message),
            **getattr(record, _FIELDS, {}),
        }
        line.setdefault("request_id", request_ids.current())
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _told(record.exc_info[1])
        return json.dumps(line, separators=(",", ":"))


def _told(error: BaseException) -> dict[str, Any]:
    """What may be told of an exception: where it happened, by names of modules, since files lie somewhere."""
    frames = traceback.walk_tb(error.__traceback__)
    places = [f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}:{line}" for frame, line in frames]
    return {"type": type(error).__name__, "message": cleaned(str(error)), "at": places[-_MAX_FRAMES:]}


def request_logger(*, counts: bool) -> Callable[[RequestHandler], None]:
    """Return tornado's `log_function`: a line for each request. With `counts` Jupyter's own metrics go on."""

    def tell(handler: RequestHandler) -> None:
        request, status = handler.request, handler.get_status()
        level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
        is_known = getattr(handler, "_jupyter_current_user", None)
        fields = {
            "request_id": request_ids.of(request),
            "method": str(request.method)[:_MAX_FIELD],
            "path": request.path[:_MAX_FIELD],
            "status": status,
            "duration_ms": round(1000 * request.request_time(), 2),
            "owner": owners.of(cast("JupyterHandler", handler))[:_MAX_FIELD] if is_known else None,
            "remote": str(request.remote_ip)[:_MAX_FIELD],
        }
        _requests.log(level, "request", extra={_FIELDS: fields})
        if counts:
            prometheus_log_method(handler)

    return tell


def adopt_ours(log: logging.Logger) -> None:
    """Let our loggers use the server's handlers, as Jupyter lets tornado's."""
    logging.getLogger(__package__).parent = log


def convert(log: logging.Logger) -> None:
    """Let all handlers of a logger write JSON from now on."""
    current: logging.Logger | None = log
    while current is not None:
        for handler in current.handlers:
            handler.setFormatter(JsonFormatter())
        current = current.parent if current.propagate else None
