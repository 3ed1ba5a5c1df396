"""Request ids: what ties an answer, its log lines and its events together.

A client, or a proxy in front, may bring one in X-Request-Id if it is well-formed; else we make one. It is a name, never
an authority: two requests may have the same.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

from jupyter_server import CallContext

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler
    from tornado.httputil import HTTPServerRequest

HEADER: Final = "X-Request-Id"
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,63}")
_KEPT: Final = "sandbox_request_id"


def of(request: HTTPServerRequest) -> str:
    """Return the id of a request, the same each time it is asked for."""
    kept: str | None = getattr(request, _KEPT, None)
    if kept is None:
        given = request.headers.get_list(HEADER)
        kept = given[0] if len(given) == 1 and _WELL_FORMED.fullmatch(given[0]) else secrets.token_hex(8)
        setattr(request, _KEPT, kept)
    return kept


def served() -> JupyterHandler | None:
    """Return the handler of the request that is being served where this is called, None outside of one.

    A timer that a request has set, such as Jupyter's for restarts, still names it long after it was answered.
    """
    handler: JupyterHandler | None = CallContext.get(CallContext.JUPYTER_HANDLER)
    return None if getattr(handler, "_finished", False) else handler


def current() -> str | None:
    """Return the id of the request that is being served where this is called, None outside of one."""
    handler = served()
    return None if handler is None else of(handler.request)
