"""Contexts: named places to run code. Each is a kernel of the server's own kernel manager, and its id is the kernel's.

So what is made here shows in Jupyter's list of kernels and a notebook can attach to it, and a notebook's kernel is a
context here. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tornado import web

from jupyter_sandbox import kernel_pauses, owners, sandboxes
from jupyter_sandbox.errors import (
    CapacityError,
    ConflictError,
    InvalidRequestError,
    SandboxError,
    StartError,
    UnknownContextError,
)
from jupyter_sandbox.guards import processes
from jupyter_sandbox.kernel_identity import Place
from jupyter_sandbox.quotas import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from datetime import datetime

    from jupyter_sandbox.offered_languages import OfferedLanguages
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.provisioner import SandboxProvisioner
    from jupyter_sandbox.sandboxes import Sandboxes

MAX_CONTEXTS: Final = 32
"""Of one sandbox; the broker has seats for 64 kernels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewContext:
    """What is wanted. `cwd` None: where the sandbox's kernels start."""

    language: str
    cwd: str | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """A kernel in a sandbox, with Jupyter's manager of it."""

    id: str
    sandbox_id: str
    manager: Any
    provisioner: SandboxProvisioner


@dataclass(frozen=True, kw_only=True)
class ContextView:
    """A context as its owner sees it. `state` is Jupyter's word: starting, idle, busy, restarting, dead; or paused."""

    id: str
    sandbox_id: str
    language: str
    kernel_name: str
    cwd: str
    state: str
    last_activity: datetime


class Contexts:
    """The contexts in the sandboxes of one server."""

    def __init__(self, multi_manager: Any, offered: OfferedLanguages, known: Sandboxes) -> None:
        """Use the server's kernel manager."""
        self.multi_manager, self._offered, self.sandboxes = multi_manager, offered, known
        self._starting: collections.Counter[str] = collections.Counter()
        self._changing: dict[str, asyncio.Task[object]] = {}

    async def create(self, owner: Owner, sandbox_id: str, wanted: NewContext) -> ContextView:
        """Start a kernel in a sandbox of `owner`. Raises SandboxError, leaving nothing behind."""
        sandbox = self.sandboxes.find_running(owner, sandbox_id)
        kernel_name = await self._offered.kernel_name(wanted.language, sandbox.lease.template)
        if kernel_name is None:
            raise InvalidRequestError(f"no kernel for language {wanted.language[:40]!r} can start in a sandbox")
        if len(sandbox.lease.tenants) + self._starting[sandbox.id] >= MAX_CONTEXTS:
            raise CapacityError(f"sandbox {sandbox.id} has {MAX_CONTEXTS} contexts; delete those that are not needed")
        place = Place(
            lease=sandbox.lease,
            directory=None if wanted.cwd is None else processes.working_directory(wanted.cwd),
            environment=dict(sandbox.claim.env) if sandbox.claim else {},
        )
        self.sandboxes.watch()
        self._starting[sandbox.id] += 1
        try:
            with self._room(owner):
                kernel_id = await self._start(kernel_name, place)
        finally:
            self._starting[sandbox.id] -= 1
            self._starting += collections.Counter()  # keeps those that are more than 0
        if sandbox.lease.loss is not None or not sandbox.lease.is_connected:
            await self.multi_manager.shutdown_kernel(kernel_id, now=True)
            raise StartError(f"sandbox {sandbox.id} ended while the context started")
        return self.view(self.get(owner, sandbox.id, kernel_id))

    async def speaks(self, owner: Owner, sandbox_id: str, language: str) -> bool:
        """Return whether a context of this language can be made in a sandbox; raises SandboxError."""
        sandbox = self.sandboxes.find_ready(owner, sandbox_id)
        return await self._offered.kernel_name(language, sandbox.lease.template) is not None

    def get(self, owner: Owner, sandbox_id: str, context_id: str) -> Context:
        """Return a context; raises UnknownSandboxError or UnknownContextError."""
        for context in self._inside(owner, sandbox_id):
            if context.id == context_id:
                return context
        raise UnknownContextError(f"no context {context_id[:60]!r} in sandbox {sandbox_id}")

    def get_running(self, owner: Owner, sandbox_id: str, context_id: str) -> Context:
        """The same, for what its kernel has to do something for; raises SandboxPausedError when that cannot."""
        context = self.get(owner, sandbox_id, context_id)
        if (refusal := kernel_pauses.find(context.manager)) is not None:
            raise refusal
        return context

    def all_in(self, owner: Owner, sandbox_id: str) -> list[ContextView]:
        """Return the contexts of a sandbox; raises UnknownSandboxError."""
        return [self.view(context) for context in self._inside(owner, sandbox_id)]

    async def restart(self, owner: Owner, sandbox_id: str, context_id: str) -> ContextView:
        """Replace the kernel by a new one in the same place. Files stay, variables are gone."""
        context = self.get_running(owner, sandbox_id, context_id)
        if context.id in self._changing:
            raise ConflictError(f"context {context.id} is being restarted or deleted")
        await self._change(context, self.multi_manager.restart_kernel)
        return self.view(self.get(owner, sandbox_id, context_id))

    async def interrupt(self, owner: Owner, sandbox_id: str, context_id: str) -> None:
        """Interrupt what runs in the kernel, whoever started it."""
        context = self.get_running(owner, sandbox_id, context_id)
        try:
            await self.multi_manager.interrupt_kernel(context.id)
        except RuntimeError as error:
            raise ConflictError(f"context {context.id} runs no kernel at the moment") from error

    async def delete(self, owner: Owner, sandbox_id: str, context_id: str) -> None:
        """End the kernel. A claimed sandbox stays; a notebook's ends with its last kernel."""
        context = self.get_running(owner, sandbox_id, context_id)
        while (change := self._changing.get(context.id)) is not None:
            await asyncio.wait([change])
        if context.id in self.multi_manager:
            await self._change(context, self.multi_manager.shutdown_kernel)

    @contextlib.contextmanager
    def making_with_sandbox(self, owner: Owner) -> Iterator[None]:
        """Keep room for a kernel that Jupyter starts in a sandbox of its own, meanwhile; raises QuotaError."""
        with self.sandboxes.room(owner), self._room(owner):
            yield

    @contextlib.contextmanager
    def _room(self, owner: Owner) -> Iterator[None]:
        mine = [
            kernel_id
            for kernel_id, manager, _ in sandboxes.kernels(self.multi_manager)
            if owners.of_kernel(manager) == owner and not owners.is_being_made(manager)
        ]
        with self.sandboxes.quotas.room(owner, Held.CONTEXTS, len(mine)), owners.making(owner):
            yield

    def view(self, context: Context) -> ContextView:
        """Return what its owner sees."""
        manager = context.manager
        return ContextView(
            id=context.id,
            sandbox_id=context.sandbox_id,
            language=manager.kernel_spec.language,
            kernel_name=manager.kernel_name,
            cwd=context.provisioner.directory or "",
            state=kernel_pauses.state(manager),
            last_activity=manager.last_activity,
        )

    def _inside(self, owner: Owner, sandbox_id: str) -> list[Context]:
        sandbox = self.sandboxes.find(owner, sandbox_id)
        return [
            Context(id=kernel_id, sandbox_id=sandbox.id, manager=manager, provisioner=provisioner)
            for kernel_id, manager, provisioner in sandboxes.kernels(self.multi_manager)
            if provisioner.lease is sandbox.lease and hasattr(manager, "execution_state")
        ]

    async def _change(self, context: Context, change: Callable[[str], Coroutine[Any, Any, object]]) -> None:
        """Restart or end a kernel. jupyter_client is not made for two of these at once."""
        task = asyncio.create_task(change(context.id), name=f"change of {context.id}")
        self._changing[context.id] = task
        task.add_done_callback(lambda _: self._changing.pop(context.id, None))
        try:
            await asyncio.shield(task)
        except (web.HTTPError, KeyError, RuntimeError, TimeoutError) as error:
            if context.id not in self.multi_manager:  # it was shut down as a kernel meanwhile
                raise UnknownContextError(f"no context {context.id} in sandbox {context.sandbox_id}") from error
            raise _ours(error, f"the kernel of context {context.id} did not obey") from error

    async def _start(self, kernel_name: str, place: Place) -> str:
        try:
            kernel_id: str = await self.multi_manager.start_kernel(kernel_name=kernel_name, place=place)
            return kernel_id
        except (web.HTTPError, RuntimeError) as error:
            raise _ours(error, "the context did not start") from error
        finally:
            forget_failed_starts(self.multi_manager)


def forget_failed_starts(multi_manager: Any) -> None:
    """jupyter_client keeps a failed start among those that are under way, and `shutdown_all` waits for it for ever."""
    pending = getattr(multi_manager, "_pending_kernels", {})
    for kernel_id, task in list(pending.items()):
        if task.done() and kernel_id not in multi_manager:
            del pending[kernel_id]


def _ours(error: BaseException, words: str) -> SandboxError:
    """Return the error of ours that Jupyter's managers have wrapped, or a new one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SandboxError):
            return cause
        cause = cause.__cause__
    return StartError(words)
