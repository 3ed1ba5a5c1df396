"""What REST requests about tokens of a sandbox hold, as shapes, and how tokens look as JSON, with their schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards.shapes import Choice, Field, Items, Number, Record
from jupyter_sandbox.sandbox_tokens import SCOPES, NewToken, SandboxToken
from jupyter_sandbox.surfaces.native import schemas

if TYPE_CHECKING:
    from jupyter_sandbox.guards.shapes import Schema


def new_token(sandbox_s: float, max_sandbox_s: float) -> Record:
    """The body of a request for a token; how long sandboxes live is how long tokens may."""
    return Record(
        name="NewToken",
        build=NewToken,
        fields={
            "timeout_s": Field(
                shape=Number(minimum=1, maximum=max_sandbox_s),
                summary="How long it is good, seconds. It ends with its sandbox in any case.",
                default=sandbox_s,
            ),
            "scopes": Field(
                shape=Items(shape=Choice(SCOPES), min_items=1, max_items=len(SCOPES)),
                summary="What it may do in its sandbox; to look at the sandbox itself is always allowed.",
                default=("kernels", "files"),
            ),
        },
    )


def token(value: SandboxToken) -> dict[str, Any]:
    """A token without its secret."""
    return {
        "id": value.id,
        "sandbox_id": value.sandbox_id,
        "scopes": list(value.scopes),
        "created_at": schemas.time(value.created_at),
        "expires_at": schemas.time(value.expires_at),
    }


_TOKEN: Final[dict[str, Schema]] = {
    "id": schemas.TEXT,
    "sandbox_id": schemas.TEXT,
    "scopes": {"type": "array", "items": schemas.TEXT},
    "created_at": schemas.TIME,
    "expires_at": schemas.TIME,
}
SCHEMAS: Final[dict[str, Schema]] = {
    "SandboxToken": schemas.record(**_TOKEN),
    "NewSandboxToken": schemas.record(**_TOKEN, token=schemas.TEXT),
    "SandboxTokens": schemas.record(tokens=schemas.list_of("SandboxToken")),
}
