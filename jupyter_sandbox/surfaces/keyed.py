"""Handlers for programs that bring the server's token, or one of ours, in a header of their own, and never a cookie.

So pages of other origins may be let in: nothing that a browser sends by itself opens anything here.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from tornado import web

from jupyter_sandbox import errors, owners
from jupyter_sandbox.errors import SandboxError, ScopeError
from jupyter_sandbox.surfaces.resources import ResourceHandler
from jupyter_sandbox.web import http_error

if TYPE_CHECKING:
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services

_CORS_MAX_AGE_S: Final = 600
_FORMS: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page may send to any server without asking it first."""


class KeyedHandler(ResourceHandler):
    """Base of one resource: a subclass says how its clients bring their token, and what they may ask."""

    open_to_pages = False
    """Whether pages of other origins may ask, when they bring a token."""
    key_header = "Authorization"
    """In which header the token comes."""
    page_headers = "Content-Type"
    """Which others pages may send; "*" is all but Authorization."""

    def initialize(self, services: Services, surface: Any = None) -> None:
        """Say at once who may read the answers: everybody, because nobody gets one without a token."""
        super().initialize(services, surface)
        if self._is_open():
            self.tell(
                {
                    "Access-Control-Allow-Origin": "*",
                    "Access-Control-Allow-Methods": ", ".join((*self.methods, "OPTIONS")),
                    "Access-Control-Allow-Headers": f"{self.page_headers}, {self.key_header}",
                    "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
                }
            )

    def authorization(self) -> str | None:
        """Return the header Authorization as Jupyter is to see it; None: the client brings no token."""
        given = self.request.headers.get("Authorization")
        password = basic_password(given or "")
        return given if password is None else f"token {password}"

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Put the token where Jupyter looks for it, and forget cookies before anybody sees them."""
        authorization = self.authorization()
        self.forget_credentials()
        if authorization is not None:
            self.request.headers["Authorization"] = authorization
        await super().prepare()

    def check_xsrf_cookie(self) -> None:
        """See Jupyter. Cookies are forgotten, so a server without authentication asks where the page is from.

        Raises HTTPError for pages of other origins, and for what their forms could send.
        """
        if self.identity_provider.auth_enabled or not hasattr(self, "_jupyter_current_user"):
            super().check_xsrf_cookie()
            return
        if not self.check_origin():
            raise web.HTTPError(403)
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() in _FORMS:
            raise http_error(errors.InvalidRequestError("send the body as application/json"))

    def check_origin(self, origin_to_satisfy_tornado: str = "") -> bool:
        """See Jupyter: whoever brings a token may come from anywhere, if the surface is open."""
        return self._is_open() or super().check_origin(origin_to_satisfy_tornado)

    def set_cors_headers(self) -> None:
        """See Jupyter: what an open surface says was said before."""
        if not self._is_open():
            super().set_cors_headers()

    def _is_open(self) -> bool:
        return self.open_to_pages and bool(self.identity_provider.auth_enabled)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Who is not known is told what to bring."""
        cause = getattr(kwargs.get("exc_info", (None, None))[1], "__cause__", None)
        if status_code == 403 and self.current_user is None and self.check_host():
            known = cause if isinstance(cause, errors.TokenError) else None
            self.refuse_stranger(known or errors.TokenError("the token is missing, or it is not right"))
            return
        super().write_error(status_code, **kwargs)

    def refuse_stranger(self, error: SandboxError) -> None:
        """Refuse who brings no good token."""
        self.tell({"WWW-Authenticate": 'Basic realm="jupyter-sandbox", charset="UTF-8"'})
        self.refuse(error, 401)

    # -- methods

    @web.authenticated
    async def get(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    @web.authenticated
    async def post(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    @web.authenticated
    async def put(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    @web.authenticated
    async def delete(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    # -- what subclasses use

    async def owner(self, resource: str, action: str) -> Owner:
        """Return who asks, if it may do that; raises SandboxError and HTTPError.

        A token that is bound to one sandbox is for nothing here: these surfaces make and end sandboxes.
        """
        user = self.current_user
        if isinstance(user, owners.Bearer) and user.sandbox_id is not None:
            raise ScopeError(f"token {user.token_id} reaches sandbox {user.sandbox_id} and nothing else")
        await self.require(resource, action)
        return owners.of(self)


def basic_password(header: str) -> str | None:
    """Return the password of HTTP's Basic authentication; None when the header is none, or has none."""
    password = _basic(header)[1]
    return password if password and password.isascii() and password.isprintable() else None


def basic_user(header: str) -> str:
    """Return the name of HTTP's Basic authentication; empty when the header is none, or has none."""
    return _basic(header)[0]


def _basic(header: str) -> tuple[str, str]:
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password
