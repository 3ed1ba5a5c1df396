"""What a row of the table of operations holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_sandbox import errors
    from jupyter_sandbox.guards.shapes import Record
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.answers import Answer, Call


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A row. `resource` and `action` are what Jupyter's authorizer is asked for; None: everybody may.

    `{path}` in a path is the path of a file, with its slashes.
    """

    name: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    summary: str
    serve: Callable[[Services, Call], Awaitable[Answer]]
    status: int = 200
    model: str | None = None
    resource: Literal["sandboxes", "kernels", "contents"] | None = "sandboxes"
    action: Literal["read", "write", "execute"] = "read"
    body: Record | None = None
    query: Record | None = None
    takes_key: bool = False
    streams: bool = False
    always_streams: bool = False
    """The answer is nothing but a stream, of events that are the model, whatever form the client names."""
    takes_file: bool = False
    """The body is a file, not JSON."""
    gives_file: bool = False
    """The answer may be a file, or a range of it."""
    others: dict[int, str] = field(default_factory=dict)
    """More statuses that mean success, with the name of the model."""
    refusals: tuple[type[errors.SandboxError], ...] = ()
