"""Files that travel packed with gzip: unpacked and packed as they come, a bounded piece at a time, in threads."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

PIECE: Final = 1 << 20
_GZIP: Final = 16 + zlib.MAX_WBITS
_FASTEST: Final = 1
_BITE: Final = 4096
"""What a member does not take is copied: little, or a million of twenty bytes take a minute."""


class _Unpacker:
    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._rest = b""

    def step(self, data: bytes) -> bytes:
        """Take data in; return at most `PIECE` bytes of what comes out. Call it with nothing until there is no more."""
        rest, at, found, room = self._rest + data, 0, [], PIECE
        while room:
            if self._inflater.eof:  # one may follow the other
                if at == len(rest):
                    break
                self._inflater = zlib.decompressobj(_GZIP)
            bite = rest[at : at + _BITE]
            out = self._inflater.decompress(bite, room)
            left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            at += len(bite) - len(left)
            found.append(out)
            room -= len(out)
            if at == len(rest) and not out:
                break
        self._rest = rest[at:]
        return b"".join(found)

    @property
    def is_whole(self) -> bool:
        return self._inflater.eof and not self._rest


async def unpacked(content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what is in packed content, in pieces of `PIECE` bytes at most, however well it was packed.

    Who takes the pieces judges how many there may be. Raises InvalidRequestError.
    """
    unpacker = _Unpacker()
    try:
        async for data in content:
            piece = await asyncio.to_thread(unpacker.step, data)
            while piece:
                yield piece
                piece = await asyncio.to_thread(unpacker.step, b"")
    except zlib.error as error:
        raise InvalidRequestError("the body is not what gzip makes") from error
    if not unpacker.is_whole:
        raise InvalidRequestError("the body ends before what gzip made does")


async def packed(content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield content packed."""
    packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    async for block in content:
        if piece := await asyncio.to_thread(packer.compress, block):
            yield piece
    yield packer.flush()
