"""A file in the body of a request: it is served while it comes, and what nobody wants any more is dropped."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import SSLIOStream

from jupyter_sandbox import pace
from jupyter_sandbox.errors import FileTooLargeError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from jupyter_sandbox.errors import SandboxError

_PIECE: Final = 1 << 20
"""What is handed on of a file at once at most, bytes."""
_READ: Final = 1 << 18
"""What is read of a connection at once at most, bytes: tornado fills so much memory with zeros first, each time."""


def in_large_pieces(connection: Any) -> Callable[[], None]:
    """Have the body of a request come in large pieces: at tornado's 64 KiB half of the work is turns of the loop.

    `connection` is the request's `tornado.http1connection.HTTP1Connection`. Call what is returned when the request has
    ended: others come by the same connection. TLS brings 16 KiB at once at most, so for that nothing changes.
    """
    stream = connection.stream
    before = stream.read_chunk_size
    if not isinstance(stream, SSLIOStream):
        connection.params = copy.copy(connection.params)  # which all connections of a server share
        connection.params.chunk_size = _PIECE
        stream.read_chunk_size = max(before, min(_READ, stream.max_buffer_size // 2))

    def as_before() -> None:
        stream.read_chunk_size = before

    return as_before


class Incoming:
    """A file in a body, read as it comes: the next piece is read when the last was taken. Iterate it once."""

    def __init__(self, silence_s: float | None = pace.SILENCE_S) -> None:
        """Nothing has come. `silence_s`: how long the next piece is waited for; None: who iterates sees to that."""
        self._silence_s = silence_s
        self._piece = b""
        self._is_wanted, self._is_whole = True, False
        self._news, self._room, self._end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def put(self, piece: bytes) -> None:
        """Wait until the piece is taken; what nobody wants any more is dropped."""
        if self._is_wanted:
            self._piece = piece
            self._room.clear()
            self._news.set()
            await self._room.wait()

    def end(self) -> None:
        """All of it has come."""
        self._is_whole = True
        self._news.set()
        self._end.set()

    def drop(self) -> None:
        """Nobody wants the rest."""
        self._is_wanted = False
        self._room.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces; InvalidRequestError when none came for `silence_s`."""
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    await self._news.wait()
            except TimeoutError:
                self._end.set()  # nobody waits for the rest either
                raise InvalidRequestError(f"nothing of the body came for {self._silence_s} s") from None
            self._news.clear()
            piece, self._piece = self._piece, b""
            if piece:
                self._room.set()
                yield piece
            if self._is_whole:
                return

    async def ended(self) -> None:
        """Wait until all of it has come, taken or dropped."""
        self.drop()
        await self._end.wait()

    # -- who serves it while it comes

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Serve the request from now on; return the task, to be cancelled when its client hangs up."""
        self._serving = asyncio.create_task(work, name="file from a client")
        self._serving.add_done_callback(self._served)
        return self._serving

    def _served(self, task: asyncio.Task[None]) -> None:
        self.drop()
        if not task.cancelled():
            task.exception()  # looked at: who hung up does not ask for it

    async def served(self) -> None:
        """Wait for what was begun, now that all of the body has come. Raises what that raised."""
        self.end()
        if self._serving is not None:
            await asyncio.wait([self._serving])
            if not self._serving.cancelled():
                self._serving.result()

    async def hear_out(self, error: SandboxError) -> None:
        """Wait for the rest before it is refused, unless that is too much: who still sends does not listen."""
        if not isinstance(error, FileTooLargeError):
            await self.ended()
