"""The tornado handler of MCP: who asks, and from where, is judged before anything of MCP is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import shapes
from jupyter_sandbox.surfaces.keyed import KeyedHandler

if TYPE_CHECKING:
    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.mcp.desk import Desk

_PATH: Final = "/sandbox/mcp"
_INVALID_REQUEST: Final = -32600
_INTERNAL_ERROR: Final = -32603
_MAX_ID: Final = 256
_MAX_NUMBER: Final = 1 << 53


class McpHandler(KeyedHandler):
    """Streamable HTTP of MCP, at one path."""

    surface: Desk
    operation = "mcp"

    def authorization(self) -> str | None:
        """See KeyedHandler. MCP's clients say Bearer, which not every identity provider looks for."""
        given = super().authorization()
        scheme, _, token = (given or "").partition(" ")
        return f"token {token.strip()}" if scheme.lower() == "bearer" else given

    def refuse_stranger(self, error: SandboxError) -> None:
        """See KeyedHandler. At a 401 clients begin to look for an OAuth server, which is not here."""
        self.refuse(error)

    def skip_check_origin(self) -> bool:
        """See Jupyter, which lets pages of other origins in when they bring a token; MCP demands a check of all."""
        return False

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler: an error of JSON-RPC that belongs to no request."""
        number = _INVALID_REQUEST if error.status < 500 else _INTERNAL_ERROR
        return {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": number, "message": str(error), "data": {"code": error.code}},
        }

    async def on_get(self) -> None:
        """What the server says by itself."""
        await self.surface.serve(self, await self._owner())

    async def on_post(self) -> None:
        """A message of a client."""
        owner = await self._owner()
        judge_message(self.body())
        await self.surface.serve(self, owner)

    async def on_delete(self) -> None:
        """The end of a visit."""
        await self.surface.serve(self, await self._owner())

    async def _owner(self) -> Owner:
        """Return who asks; what a call of a tool may is judged when its name is known."""
        return await self.owner("kernels", "read")


def judge_message(data: bytes) -> None:
    """Raise InvalidRequestError for what is no JSON, or no message of JSON-RPC with an id that can be answered."""
    message = shapes.decode(data)
    if not isinstance(message, dict):
        raise InvalidRequestError("send one message of JSON-RPC")
    match message.get("id"):
        case None:
            return
        case str(text) if len(text) <= _MAX_ID:
            return
        case bool():
            pass
        case int(number) if abs(number) < _MAX_NUMBER:
            return
    raise InvalidRequestError(f"the id of a message is an integer or a text of at most {_MAX_ID} characters")


def rules(services: Services, desk: Desk) -> list[tuple[str, type[McpHandler], dict[str, Any]]]:
    """Return the route."""
    return [(_PATH, McpHandler, {"services": services, "surface": desk})]
