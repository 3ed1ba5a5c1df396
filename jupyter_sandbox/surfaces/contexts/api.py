"""The contexts of one server, as this API and MCP have them: sandboxes whose names are made here. It knows no HTTP."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from traitlets import Float, Unicode
from traitlets.config import Configurable

from jupyter_sandbox.errors import InvalidRequestError, SandboxLostError, UnknownContextError, UnknownSandboxError
from jupyter_sandbox.execution import NewExecution
from jupyter_sandbox.named_sandboxes import NewNamedSandbox
from jupyter_sandbox.surfaces.contexts import models, results

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.named_sandboxes import NamedSandbox, NamedSandboxes
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.surfaces.contexts.models import NewContext, NewRun
    from jupyter_sandbox.surfaces.contexts.results import Ran


class ContextsApi(Configurable):
    """See the module."""

    template = Unicode("python", help="The template of the contexts' sandboxes.").tag(config=True)
    idle_s = Float(
        1800, min=1, help="How long a context of the contexts API or of MCP stays when nobody uses it, seconds."
    ).tag(config=True)
    timeout_s = Float(
        30, min=0.1, help="When code that is run over the contexts API or MCP is interrupted unless it says otherwise."
    ).tag(config=True)
    max_timeout_s = Float(3600, min=0.1, help="The longest time that it may ask for, seconds.").tag(config=True)

    def __init__(self, named: NamedSandboxes, max_output_bytes: int, **kwargs: Any) -> None:
        """`max_output_bytes`: how much of the outputs of one execution is kept."""
        super().__init__(**kwargs)
        self._named, self._max_output_bytes = named, max_output_bytes
        self.new_run = models.new_run(min(self.timeout_s, self.max_timeout_s), self.max_timeout_s)
        """Judges what is to be run."""

    async def create(
        self, owner: Owner, wanted: NewContext, when_gone: Callable[[Callable[[], object]], None]
    ) -> NamedSandbox:
        """Make a context in a sandbox of its own; raises SandboxError. Nobody but who asks can know its name."""
        sandbox = NewNamedSandbox(
            template=self.template,
            language=wanted.language,
            idle_s=self.idle_s,
            cwd=models.directory(wanted.working_dir),
            label=wanted.session_name or "",
        )
        name = f"ctx-{secrets.token_hex(10)}"
        is_gone = asyncio.Event()
        when_gone(is_gone.set)
        named = await self._named.enter(owner, name, sandbox)
        if is_gone.is_set():
            await self._named.release(owner, name)
            raise InvalidRequestError("the client hung up before it had its context")
        return named

    def all_of(self, owner: Owner) -> list[NamedSandbox]:
        """Return the contexts of `owner`, oldest first."""
        return [named for named in self._named.all_of(owner) if named.wanted.label is not None]

    async def execute(
        self,
        owner: Owner,
        context_id: str,
        wanted: NewRun,
        when_gone: Callable[[Callable[[], object]], None],
        max_output_bytes: int | None = None,
    ) -> Ran:
        """Run code to its end; raises SandboxError. `when_gone` hears how it is interrupted.

        `max_output_bytes`: a bound below the server's.
        """
        limit = min(self._max_output_bytes, max_output_bytes or self._max_output_bytes)
        execution = NewExecution(code=wanted.code, timeout_s=wanted.timeout, max_output_bytes=limit)
        try:
            view = await self._named.execute(self._find(owner, context_id), execution, when_gone, results.ruins)
        except SandboxLostError as error:
            raise _unknown(context_id) from error
        return results.of(view)

    async def delete(self, owner: Owner, context_id: str) -> None:
        """End a context with its sandbox; raises UnknownContextError."""
        await self._named.release(owner, self._find(owner, context_id).name)

    def _find(self, owner: Owner, context_id: str) -> NamedSandbox:
        try:
            named = self._named.find(owner, context_id)
        except UnknownSandboxError as error:
            raise _unknown(context_id) from error
        if named.wanted.label is None:  # one of another surface, whose clients make up its name
            raise _unknown(context_id)
        return named


def _unknown(context_id: str) -> UnknownContextError:
    return UnknownContextError(f"no context {context_id[:60]!r}")
