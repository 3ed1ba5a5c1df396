"""Jupyter's managers of kernels and sessions, as far as one owner may know of them.

Jupyter's own handlers are given these in place of the managers. What is another owner's is answered as what is not
there, in the same words. Methods that take a kernel's id are found by their signature, so a newer Jupyter has no way
past.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.utils import ensure_async
from tornado import web

from jupyter_sandbox.errors import InvalidRequestError, SandboxError, ScopeError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.web import http_error, no_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.contexts import Contexts
    from jupyter_sandbox.owners import Reach

_KERNEL_ID: Final = re.compile(ids.KERNEL_ID)


class OwnKernels:
    """Stands for a MappingKernelManager."""

    def __init__(self, manager: Any, reach: Reach, contexts: Contexts) -> None:
        """`contexts` keeps room for new kernels."""
        self._manager, self._reach, self._contexts = manager, reach, contexts

    def __contains__(self, kernel_id: object) -> bool:
        is_there = isinstance(kernel_id, str) and kernel_id in self._manager
        return is_there and self._reach.has(self._manager.get_kernel(kernel_id))

    def list_kernel_ids(self) -> list[str]:
        """See MappingKernelManager."""
        return [kernel_id for kernel_id in self._manager.list_kernel_ids() if kernel_id in self]

    async def list_kernels(self) -> list[dict[str, Any]]:
        """See MappingKernelManager."""
        return [model for model in await ensure_async(self._manager.list_kernels()) if model["id"] in self]

    async def start_kernel(self, *, kernel_id: str | None = None, **how: Any) -> str:
        """Start a kernel of the owner's own; see MappingKernelManager."""
        if kernel_id in self:
            return str(kernel_id)
        self.judge_new(kernel_id)
        with self.making():
            started: str = await self._manager.start_kernel(kernel_id=kernel_id, **how)
        return started

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Keep room for a new kernel meanwhile; raises HTTPError."""
        try:
            if self._reach.sandbox_id is not None:
                raise ScopeError(f"the token of {self._reach.sandbox_id} makes contexts in it, by /api/sandboxes")
            with self._contexts.making_with_sandbox(self._reach.owner):
                yield
        except SandboxError as error:
            raise http_error(error) from error

    def judge_new(self, kernel_id: object) -> None:
        """Judge the id that a client chose for a new kernel; None: it chose none."""
        if kernel_id is None:
            return
        if not isinstance(kernel_id, str) or _KERNEL_ID.fullmatch(kernel_id) is None:
            error = InvalidRequestError("the id of a kernel is five words with hyphens between them, as of a UUID")
            raise http_error(error) from error
        if kernel_id in self._manager:
            raise no_kernel(kernel_id)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._manager, name)
        if not callable(found) or "kernel_id" not in (signature := inspect.signature(found)).parameters:
            return found

        def judged(*args: Any, **kwargs: Any) -> Any:
            kernel_id = signature.bind(*args, **kwargs).arguments["kernel_id"]
            if kernel_id not in self:
                raise no_kernel(kernel_id)
            return found(*args, **kwargs)

        return judged


class OwnSessions:
    """Stands for a SessionManager: a session is its kernel's owner's."""

    def __init__(self, manager: Any, kernels: OwnKernels) -> None:
        """`kernels` are those of the same owner."""
        self._manager, self._kernels = manager, kernels

    async def list_sessions(self) -> list[dict[str, Any]]:
        """See SessionManager."""
        return [
            model for model in await ensure_async(self._manager.list_sessions()) if _kernel_of(model) in self._kernels
        ]

    async def session_exists(self, path: object) -> bool:
        """See SessionManager. Several owners may have a session of one path."""
        return any(model["path"] == path for model in await self.list_sessions())

    async def get_session(self, **wanted: object) -> dict[str, Any]:
        """See SessionManager."""
        for model in await self.list_sessions():
            known = {**model, "session_id": model["id"], "kernel_id": _kernel_of(model)}
            if all(known[name] == value for name, value in wanted.items()):
                return model
        raise web.HTTPError(404, "Session not found: " + ", ".join(f"{name}={wanted[name]!r}" for name in wanted))

    async def create_session(self, *, kernel_id: str | None = None, **how: Any) -> dict[str, Any]:
        """See SessionManager."""
        if kernel_id in self._kernels:
            model: dict[str, Any] = await self._manager.create_session(kernel_id=kernel_id, **how)
            return model
        self._kernels.judge_new(kernel_id)
        with self._kernels.making():
            model = await self._manager.create_session(kernel_id=kernel_id, **how)
        return model

    async def start_kernel_for_session(self, session_id: str, **how: Any) -> str:
        """See SessionManager."""
        await self.get_session(session_id=session_id)
        with self._kernels.making():
            started: str = await self._manager.start_kernel_for_session(session_id, **how)
        return started

    async def update_session(self, session_id: str, **changes: Any) -> None:
        """See SessionManager."""
        await self.get_session(session_id=session_id)
        if "kernel_id" in changes and changes["kernel_id"] not in self._kernels:
            raise no_kernel(changes["kernel_id"])
        await self._manager.update_session(session_id, **changes)

    async def delete_session(self, session_id: str) -> None:
        """See SessionManager."""
        await self.get_session(session_id=session_id)
        await self._manager.delete_session(session_id)


def _kernel_of(model: dict[str, Any]) -> str:
    kernel_id: str = model["kernel"]["id"]
    return kernel_id
