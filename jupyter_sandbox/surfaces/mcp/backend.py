"""What the tools are made of: contexts, whether they are this server's or are reached over HTTP. Types only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.surfaces.contexts.models import NewRun
    from jupyter_sandbox.surfaces.contexts.results import Ran

Model = dict[str, str]
"""A context in full, as the contexts API answers it."""


class Backend(Protocol):
    """The contexts of whoever calls a tool. Everything raises SandboxError."""

    async def create(self, name: str, language: str) -> Model:
        """Make a context."""
        ...

    async def all(self) -> list[Model]:
        """Return the contexts that there are."""
        ...

    async def run(self, context_id: str, wanted: NewRun, when_gone: Callable[[Callable[[], object]], None]) -> Ran:
        """Run code to its end; `when_gone` hears how it is interrupted."""
        ...

    async def stop(self, context_id: str) -> None:
        """End a context."""
        ...
