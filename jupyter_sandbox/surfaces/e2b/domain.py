"""The hosts by which SDKs reach a server of which they know a domain: `api.DOMAIN`, and `PORT-ID.DOMAIN` of a sandbox.

A request to such a host is made into what SDKs send to a server of one address, before its route is looked for. So it
needs the same tokens and may do no more, and nothing else of the server is at these hosts. What the host says counts,
whatever header fields say. Requests to all other hosts are left as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest

ID_HEADER: Final = "E2b-Sandbox-Id"
PORT_HEADER: Final = "E2b-Sandbox-Port"
_MAX_HOST: Final = 253 + len(":65535")
_LABEL: Final = re.compile(r"api|(?P<port>[0-9]{1,5})-(?P<sandbox>[0-9a-z]{1,57})")
_PORT: Final = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a host stands for: a port of a sandbox, by E2B's id; or the control plane, when both are empty."""

    sandbox: str = ""
    port: str = ""


def place(host: str, domain: str) -> Place | None:
    """Return what a Host header means below a judged domain; None when that is nothing of ours, as with no domain."""
    if not domain or len(host) > _MAX_HOST or not host.isascii():
        return None
    name, colon, port = host.lower().partition(":")
    label, _, rest = name.partition(".")
    found = _LABEL.fullmatch(label)
    if found is None or rest != domain or (colon and _PORT.fullmatch(port) is None):
        return None
    return Place(sandbox=found["sandbox"] or "", port=found["port"] or "")


class Entrance:
    """In front of one web application. `control` and `data`: the paths at which it has the two planes."""

    def __init__(self, application: Any, domain: str, *, control: str, data: str) -> None:
        self._find: Callable[..., HTTPMessageDelegate] = application.find_handler
        self._domain, self._control, self._data = domain, control, data
        application.find_handler = self._enter

    def _enter(self, request: HTTPServerRequest, **settings: Any) -> HTTPMessageDelegate:
        meant = place(request.host, self._domain)
        if meant is not None:
            top = self._data if meant.sandbox else self._control
            if meant.sandbox:
                request.headers[ID_HEADER], request.headers[PORT_HEADER] = meant.sandbox, meant.port
            request.path = f"{top}/{request.path.removeprefix('/')}"  # below it, whatever the path is
            request.uri = f"{request.path}?{request.query}" if request.query else request.path
        return self._find(request, **settings)
