"""What ties a server to the start before it and to the next: its name, what it adopts, what it leaves, and when."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import adoption, interrupts
from jupyter_sandbox.doorway import Doorway
from jupyter_sandbox.draining import Draining
from jupyter_sandbox.errors import BrokerUnavailableError, SandboxError
from jupyter_sandbox.session_notes import SessionNotes
from jupyter_sandbox.slate import Slate

if TYPE_CHECKING:
    from jupyter_sandbox.offered_languages import OfferedLanguages
    from jupyter_sandbox.sandboxes import Sandboxes
    from jupyter_sandbox.services import Services

_ADOPT_S: Final = 15
"""How long requests wait for the adoption of what a server left; from then on it goes on beside them."""
_ADOPT_LATE_S: Final = 60
"""How long it waits for a broker that somebody else starts."""


class Succession:
    """See the module."""

    def __init__(
        self, server: Any, name: str, sandboxes: Sandboxes, offered: OfferedLanguages, max_offline_bytes: int
    ) -> None:
        """Take a name, if no other server has it: `name`, or if that is empty one of where `server` works."""
        self._server, self._sandboxes = server, sandboxes
        self.doorway = Doorway(server.web_app)
        self.slate: Slate | None = None
        self._draining: Draining | None = None
        self._adopting: asyncio.Task[None] | None = None
        where = socket.gethostname(), server.root_dir, server.runtime_dir, server.base_url
        name = name or adoption.name_of(*where)
        try:
            self.slate = Slate(Path(server.runtime_dir, f"sandbox-server-{name}.slate"))
        except OSError as error:
            why = "another server runs here" if isinstance(error, BlockingIOError) else error.strerror
            server.log.warning("The sandboxes of this server end with it: %s", why)
            name = ""
        sandboxes.notes.server = name
        adoption.name_kernels(server.kernel_manager, name, self.slate)
        sessions = SessionNotes(server.session_manager, server.kernel_manager)
        left = self.slate.left if self.slate else ()
        clients = {each.context_id: each.session for each in left if each.session and each.session.isascii()}
        self._adoption = adoption.Adoption(
            server.kernel_manager, sandboxes, sessions, clients, max_offline_bytes, offered.look
        )

    async def begin(self, services: Services, drain_s: float) -> None:
        """Adopt what was left, while requests wait; answer SIGTERM by draining for so long."""
        self._draining = Draining(drain_s, lambda: services.executions.is_busy, self._stop_accepting)
        if self._draining.listen(self._server._signal_stop):  # noqa: SLF001 - who ends a server at a signal
            interrupts.listen(self._server)
        if self.slate is not None:
            self.doorway.close()
            self._adopting = asyncio.create_task(self._adopt(services), name="adoption")
            await asyncio.wait([self._adopting], timeout=_ADOPT_S)
            self.doorway.open()

    async def end(self, services: Services) -> None:
        """End what the server has, or after SIGTERM leave it to the next start."""
        if self._adopting is not None:
            self._adopting.cancel()
        self._adoption.stop()
        is_leaving = False
        if self._draining is not None:
            self._draining.stop()
            is_leaving = self._draining.has_begun and self.slate is not None
        if self.slate is not None and is_leaving:
            self.slate.close()  # as it is: what is under way now, the next start will tell
        if is_leaving:
            services.executions.leave()
        else:
            await services.executions.stop()
        await services.commands.stop()
        await services.kept_watches.stop()
        if is_leaving:
            await services.sandboxes.leave()
            self._adoption.leave()
        else:
            await services.sandboxes.stop()
        if self.slate is not None:
            self.slate.close()

    def _stop_accepting(self) -> None:
        self._sandboxes.is_stopping = True

    async def _adopt(self, services: Services) -> None:
        """Have what this server left again. While no broker can be reached, requests need not wait for that."""
        log = self._server.log
        try:
            try:
                count = await self._adoption.run()
            except BrokerUnavailableError:
                self.doorway.open()
                count = await self._adoption.go_on(_ADOPT_LATE_S)
            if services.tokens is not None:
                services.tokens.take_back()
            services.named.take_back()
            await services.executions.take_back()
        except SandboxError as error:
            log.warning("What this server may have left was not found: %s", error)
        except Exception:
            log.exception("What this server may have left was not found")
        else:
            if count:
                log.info("%d sandboxes that this server left were adopted", count)
