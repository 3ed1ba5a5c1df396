"""A file in the body of a request: it is served while it comes, and what nobody wants any more is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import SSLIOStream

from jupyter_sandbox import pace
from jupyter_sandbox.errors import BodyTooLargeError, FileTooLargeError, InvalidRequestError

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

    def __init__(self, *, is_paced: bool = True) -> None:
        """Nothing has come. Without `is_paced` who iterates sees to how long a piece is waited for."""
        self._is_paced = is_paced
        self._piece = b""
        self._is_wanted, self._is_whole, self._is_given_up = True, False, False
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._come, self._waited_s = 0, 0.0
        self._serving: asyncio.Task[None] | None = None

    async def put(self, piece: bytes) -> None:
        """Wait until the piece is taken; what nobody wants any more is dropped."""
        self._come += len(piece)
        if not self._is_wanted:
            self._news.set()
        else:
            self._piece = piece
            self._room.clear()
            self._news.set()
            await self._room.wait()

    def end(self) -> None:
        """All of it has come."""
        self._is_whole = True
        self._news.set()

    def drop(self) -> None:
        """Nobody wants the rest, which has time of its own."""
        if self._is_wanted:
            self._is_wanted, self._come, self._waited_s = False, 0, 0.0
        self._room.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces; InvalidRequestError when they come more slowly than is waited for: see `pace`."""
        while True:
            await self._more()
            piece, self._piece = self._piece, b""
            if piece:
                self._room.set()
                yield piece
            if self._is_whole:
                return

    async def _more(self) -> None:
        """Wait for news of it; only this time is the client's. Raises InvalidRequestError."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            is_hurried = self._is_paced or not self._is_wanted
            async with asyncio.timeout(pace.left_s(self._come, self._waited_s) if is_hurried else None):
                await self._news.wait()
        except TimeoutError:
            self._is_given_up = True
            raise InvalidRequestError("the body came too slowly, or not at all") from None
        finally:
            self._waited_s += clock() - began
        self._news.clear()

    async def ended(self) -> None:
        """Wait until all of it has come, taken or dropped, or it is given up."""
        self.drop()
        with contextlib.suppress(InvalidRequestError):
            while not (self._is_whole or self._is_given_up):
                await self._more()

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
        if not isinstance(error, FileTooLargeError | BodyTooLargeError):
            await self.ended()
