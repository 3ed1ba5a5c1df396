"""Which sessions of Jupyter's have a sandbox kernel, noted with the kernel for the next start of the server.

Jupyter keeps its sessions in memory, and a person's open notebook is one. The methods of its manager that change them
are replaced; what they do stays theirs.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.notes import Session
from jupyter_sandbox.provisioner import SandboxProvisioner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class SessionNotes:
    """The sessions of one server, as far as they were made or changed through its manager."""

    def __init__(self, session_manager: Any, multi_manager: Any) -> None:
        """Note every change from now on."""
        self._manager, self._kernels = session_manager, multi_manager
        self._known: dict[str, tuple[str, Session]] = {}
        self._save = session_manager.save_session
        session_manager.save_session = self._followed(self._save)
        session_manager.update_session = self._followed(session_manager.update_session)
        session_manager.delete_session = self._followed(session_manager.delete_session)

    async def restore(self, kernel_id: str, sessions: tuple[Session, ...]) -> None:
        """Have the sessions of a kernel again."""
        for session in sessions:
            self._known[session.id] = kernel_id, session
            if self._row(session.id) is None:  # else it is kept in a file
                await self._save(
                    session.id, path=session.path, name=session.name, type=session.type, kernel_id=kernel_id
                )

    def _followed(self, change: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(change)
        async def changed(session_id: str, *arguments: Any, **settings: Any) -> Any:
            result = await change(session_id, *arguments, **settings)
            await self._note(session_id)
            return result

        return changed

    async def _note(self, session_id: str) -> None:
        before, now = self._known.pop(session_id, None), self._row(session_id)
        if now is not None:
            self._known[session_id] = now
        for kernel_id in {each[0] for each in (before, now) if each is not None}:
            sessions = tuple(session for whose, session in self._known.values() if whose == kernel_id)
            manager = self._kernels.get_kernel(kernel_id) if kernel_id in self._kernels else None
            provisioner = getattr(manager, "provisioner", None)
            if isinstance(provisioner, SandboxProvisioner):
                try:
                    await provisioner.note_sessions(sessions)
                except SandboxError as error:
                    log.warning("the sessions of kernel %s could not be noted: %s", kernel_id, error)

    def _row(self, session_id: str) -> tuple[str, Session] | None:
        """Return a session with its kernel's id; None when there is none."""
        found = self._manager.cursor.execute(
            "SELECT path, name, type, kernel_id FROM session WHERE session_id=?", (session_id,)
        ).fetchone()
        if found is None or found["kernel_id"] is None:
            return None
        path, name, kind = (None if found[each] is None else str(found[each]) for each in ("path", "name", "type"))
        return str(found["kernel_id"]), Session(id=session_id, path=path, name=name, type=kind)
