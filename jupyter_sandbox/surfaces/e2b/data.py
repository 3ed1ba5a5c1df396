"""The data plane: who asks names a sandbox in a header and shows its token; nobody else reaches anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox import errors, owners
from jupyter_sandbox.surfaces import keyed
from jupyter_sandbox.surfaces.e2b import words
from jupyter_sandbox.surfaces.e2b.domain import ID_HEADER, PORT_HEADER
from jupyter_sandbox.surfaces.resources import ResourceHandler
from jupyter_sandbox.web import encoded

if TYPE_CHECKING:
    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.surfaces.e2b.held import Held, HeldSandboxes

TOKEN_HEADERS: Final = ("X-Access-Token", "E2B-Traffic-Access-Token")
_PORTS: Final = ("49983", "49999")
"""Of files and processes, and of code. All paths are served at both."""
_OPEN: Final = " and ".join(_PORTS)
_SCOPES: Final = ("sandboxes:read", "kernels", "files")


class DataHandler(ResourceHandler):
    """Base of what is asked of one sandbox."""

    surface: HeldSandboxes
    held: Held | None = None

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Find who it is by the sandbox's token, and by nothing else: neither a cookie nor another token counts."""
        self.username = self.user()
        self.forget_credentials()
        held = self.meant()
        if held is not None and self.shows_token(held):
            self.held = held
            self.surface.use(held)
        self._token_authenticated = self.held is not None
        await super().prepare()
        if self.request.method == "OPTIONS":
            return
        port = self.request.headers.get(PORT_HEADER, "") or _PORTS[0]
        if port not in _PORTS:
            self.refuse(errors.NotSupportedError(f"port {port[:5]!a} is not open; of a sandbox {_OPEN} are"))
        elif self.held is None:
            self.refuse_stranger(held)
        elif self.username not in words.USERS:
            self.refuse(errors.UnknownUserError(f"invalid username: {self.username[:40]!a}; there is {words.USER!r}"))

    def user(self) -> str:
        """Return the name of the user as whom a client asks; empty for the usual one."""
        return keyed.basic_user(self.request.headers.get("Authorization", ""))

    def check_host(self) -> bool:
        """See Jupyter: what is below the domain is ours, wherever the server listens."""
        return self.surface.is_at(self.request.host) or super().check_host()

    def find_user(self) -> None:
        """See ServiceHandler."""
        self.current_user = self._jupyter_current_user = self._bearer()  # whatever the identity provider makes of it

    def _bearer(self) -> owners.Bearer | None:
        """Return who asks: the owner of the sandbox, who may what concerns it alone."""
        if self.held is None:
            return None
        return owners.Bearer(
            f"{owners.name_of(self.held.owner)}/e2b",
            owner=self.held.owner,
            token_id="e2b",  # noqa: S106 - a name, as it is told in events
            scopes=_SCOPES,
            sandbox_id=self.held.sandbox_id,
        )

    def meant(self) -> Held | None:
        """Return the sandbox that is meant, if it lives."""
        return self.surface.find(words.our_id(self.request.headers.get(ID_HEADER, "")))

    def shows_token(self, held: Held) -> bool:
        """Whether who asks has the sandbox's token."""
        return any(held.is_token(self.request.headers.get(name, "")) for name in TOKEN_HEADERS)

    def refuse_stranger(self, held: Held | None) -> None:
        """Say that the sandbox is gone, which SDKs look for, or that the token is wrong."""
        self.set_header("Cache-Control", "no-store")
        if held is None:
            self.set_status(502)
            self.finish(encoded(words.gone(self.request.headers.get(ID_HEADER, "")[:60])))
        else:
            self.set_status(401)
            self.finish(encoded({"code": 401, "message": "the sandbox's token is missing, or it is not right"}))

    def check_xsrf_cookie(self) -> None:
        """See Jupyter: there are no cookies here."""

    def check_origin(self, origin_to_satisfy_tornado: str = "") -> bool:
        """See Jupyter: whoever has the sandbox's token may come from anywhere."""
        return True

    def set_cors_headers(self) -> None:
        """See Jupyter."""
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
        self.set_header("Access-Control-Allow-Headers", "*, Authorization")

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return {"code": self.get_status(), "message": str(error)}

    @property
    def box(self) -> Held:
        """The sandbox that is meant."""
        if self.held is None:
            raise errors.TokenError("the sandbox's token is missing")
        return self.held

    @allow_unauthenticated
    async def get(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    @allow_unauthenticated
    async def post(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)

    @allow_unauthenticated
    async def delete(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)


class NotSupportedHandler(DataHandler):
    """What E2B has in a sandbox and this server does not."""

    async def on_get(self) -> None:
        """Say so."""
        raise errors.NotSupportedError("this part of E2B's API is not supported here; see docs/e2b.md")

    on_post = on_delete = on_get


class HealthHandler(DataHandler):
    """`GET /health`."""

    async def on_get(self) -> None:
        """The sandbox lives."""
        self.set_status(204)
        self.finish()


class EnvsHandler(DataHandler):
    """`GET /envs`."""

    operation = "get_sandbox"

    async def on_get(self) -> None:
        """Tell the variables that the sandbox was made with, as whoever runs code in it reads them."""
        await self.require("kernels", "execute")
        claim = self.services.sandboxes.find_ready(self.box.owner, self.box.sandbox_id).claim
        self.answer(200, {} if claim is None else dict(claim.env))
