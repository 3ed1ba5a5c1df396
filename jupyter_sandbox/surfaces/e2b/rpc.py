"""Calls of the Connect protocol to one sandbox: one message in, and one message or a stream of them out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import pace
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.surfaces.e2b import connect, words
from jupyter_sandbox.surfaces.e2b.data import DataHandler
from jupyter_sandbox.web import encoded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

_STATUS: Final = {
    "file_conflict": 409,
    "file_refused": 400,
    "unknown_command": 404,
    "conflict": 400,
    "no_capacity": 429,
}
MAX_OF_TURN: Final = 32
"""More events than that, if there are, are sent in another turn of the loop: a client that reads never stops it."""


class CallHandler(DataHandler):
    """One method of a service: a subclass has `call`, or `events` if it answers a stream."""

    resource, action = "kernels", "execute"
    streams = False

    async def on_post(self) -> None:
        """Serve the call."""
        if self.streams:
            await self._stream()
            return
        await self.require(self.resource, self.action)
        kind = self.request.headers.get("Content-Type", "").partition(";")[0]
        if kind not in (connect.UNARY, ""):
            self.set_status(415)
            self.finish()
            return
        answer = await self.call(connect.message(self.body()))
        self.set_header("Cache-Control", "no-store")
        self.finish(encoded(answer))

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; raises SandboxError."""
        raise NotImplementedError

    def events(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what is answered; raises SandboxError."""
        raise NotImplementedError

    def refuse(self, error: SandboxError, status: int | None = None) -> None:
        """See ServiceHandler."""
        super().refuse(error, status or _STATUS.get(error.code))

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return words.connect_problem(self.get_status(), error)

    async def _stream(self) -> None:
        """Send a stream: errors are its last message, since its status is sent before anything is known."""
        self.set_header("Content-Type", connect.STREAM)
        self.set_header("Cache-Control", "no-store")
        connection: Any = self.request.connection
        connection.stream.set_nodelay(True)
        with self._sending("A stream of messages"):
            self.write(connect.end(await self.failure(self._send_events())))
            self.finish(set_content_type=connect.STREAM)

    async def failure(self, work: Awaitable[None]) -> dict[str, Any] | None:
        """Return why work on a stream came to no end, as its last message says it."""
        try:
            await work
        except connect.TimeIsOverError:
            return {"code": "deadline_exceeded", "message": "the time of the request is over"}
        except SandboxError as error:
            return words.connect_problem(_STATUS.get(error.code, error.status), error)
        return None

    async def _send_events(self) -> None:
        await self.require(self.resource, self.action)
        message = connect.only(self.body(), self.max_body_bytes)
        async with contextlib.aclosing(self.events(message)) as events:
            count = 0
            async for event in events:
                data = connect.envelope(event)
                self.write(data)
                async with asyncio.timeout(pace.allowed_s(len(data))):
                    await self.flush()
                count += 1
                if count % MAX_OF_TURN == 0:
                    await asyncio.sleep(0)
