"""Our ends of pipes whose other ends are in a sandbox: read as it comes, written as it is taken, never waited for."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK: Final = 1 << 16
MAX_PENDING_BYTES: Final = 1 << 18
REST_S: Final = 1.0
"""How long the last bytes of a terminal may take after its command has ended."""
_MAX_REST_BYTES: Final = 1 << 20
"""What a pipe can hold at most, fcntl(2), F_SETPIPE_SZ."""


class Source:
    """A non-blocking end that is read. Its descriptor is the caller's to close, after `stop`."""

    def __init__(self, descriptor: int, take: Callable[[bytes], object], pause_s: Callable[[], float | None]) -> None:
        """Call `take` with what comes. `pause_s` is asked after each block when to go on: None, not before `resume`."""
        self._descriptor, self._take, self._pause_s = descriptor, take, pause_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_watched = False
        self._left: int | None = None
        self.at_end = asyncio.Event()
        """Set when all was read."""
        self.resume()

    def resume(self) -> None:
        """Go on to read."""
        self._timer = None
        if not self._is_watched and not self.at_end.is_set():
            self._is_watched = True
            self._loop.add_reader(self._descriptor, self._read)

    def stop(self) -> None:
        """Read no more; quiet when done twice."""
        self._pause()
        self.at_end.set()

    async def finish(self, *, is_terminal: bool) -> None:
        """Its command has ended: take what that wrote before. A child may hold a pipe open, but no terminal."""
        if is_terminal:
            await self.rest(REST_S)
        else:
            self.rest_now()

    async def rest(self, timeout_s: float) -> None:
        """Read on without a pause: to the end, but not for longer, nor more than a pipe can hold."""
        self._left, self._pause_s = _MAX_REST_BYTES, lambda: 0
        self.resume()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.at_end.wait()
        self.stop()

    def rest_now(self) -> None:
        """Take what is in the pipe at this moment and read no more, though somebody may hold the other end for ever."""
        left = 0 if self.at_end.is_set() else min(_available(self._descriptor), _MAX_REST_BYTES)
        while left > 0 and (data := self._block(min(left, BLOCK))):
            left -= len(data)
            self._take(data)
        self.stop()

    def _read(self) -> None:
        data = self._block(BLOCK)
        if data is None:
            return
        if not data:
            self.stop()
            return
        self._take(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self.stop()
        pause_s = self._pause_s()
        if pause_s != 0 and not self.at_end.is_set():
            self._pause()
            if pause_s is not None:
                self._timer = self._loop.call_later(pause_s, self.resume)

    def _block(self, size: int) -> bytes | None:
        """Return a block, nothing at the end, or None when there is none yet."""
        try:
            return os.read(self._descriptor, size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _pause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._descriptor)


class Sink:
    """A non-blocking end that is written."""

    def __init__(self, descriptor: int, on_closed: Callable[[], object]) -> None:
        """`on_closed` closes the descriptor: called once, at the end, or when nobody reads there any more."""
        self._descriptor, self._on_closed = descriptor, on_closed
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()
        self._is_watched = self._is_ending = False
        self._taken = asyncio.Event()
        self.is_closed = False

    @property
    def room(self) -> int:
        """How many bytes are taken now."""
        return MAX_PENDING_BYTES - len(self._pending)

    def put(self, data: bytes) -> None:
        """Write what there is room for, as it is taken."""
        self._pending += data
        self._write()

    async def has_room(self) -> None:
        """Wait until something is taken, or nothing ever will be because it is closed."""
        while self.room <= 0 and not self.is_closed:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Close it when all is written."""
        self._is_ending = True
        self._write()

    def close(self) -> None:
        """Close it now; quiet when done twice."""
        if not self.is_closed:
            self.is_closed = True
            self._pending.clear()
            self._taken.set()
            self._watch(is_wanted=False)
            self._on_closed()

    def _write(self) -> None:
        if self.is_closed:
            return
        try:
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending[:BLOCK])]
                self._taken.set()
        except BlockingIOError:
            pass
        except OSError:  # nobody reads there any more
            self.close()
            return
        if self._is_ending and not self._pending:
            self.close()
        else:
            self._watch(is_wanted=bool(self._pending))

    def _watch(self, *, is_wanted: bool) -> None:
        if is_wanted and not self._is_watched:
            self._loop.add_writer(self._descriptor, self._write)
        elif self._is_watched and not is_wanted:
            self._loop.remove_writer(self._descriptor)
        self._is_watched = is_wanted


def _available(descriptor: int) -> int:
    """Return how many bytes a pipe holds; pipe(7), FIONREAD."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(count)
