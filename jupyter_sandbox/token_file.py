"""The file of an operator's tokens, written whole, by one at a time, for its owner only; what a server knows of it.

A server looks whether the file changed, in a thread, once a second and when somebody brings a token that it does not
know. A file that cannot be trusted holds no token.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_core.paths import jupyter_data_dir

from jupyter_sandbox import tokens
from jupyter_sandbox.errors import TokenFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_sandbox.tokens import Token

_MAX_BYTES: Final = 8 << 20
_LOOK_AGAIN_S: Final = 0.1
"""Who brings tokens that nobody knows makes us look no more often."""

Stamp = tuple[int, ...]

log = logging.getLogger(__name__)


def default_path() -> Path:
    """Return where it is unless an operator says otherwise."""
    return Path(jupyter_data_dir(), "sandbox_tokens.json")


class TokenFile:
    """A file of tokens. Its name is an operator's."""

    def __init__(self, path: Path) -> None:
        """It need not exist."""
        self.path = path

    def stamp(self) -> Stamp | None:
        """Return what changes when the file does; None when there is none."""
        try:
            found = self.path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns

    def read(self) -> tuple[Token, ...]:
        """Return the tokens, none when there is no file; raises TokenFileError when it cannot be trusted."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._refused(f"it cannot be opened: {os.strerror(error.errno or errno.EIO)}") from error
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
                raise self._refused("it is no file of tokens")
            if found.st_uid not in {0, os.geteuid()}:
                raise self._refused("it belongs to another user")
            if found.st_mode & 0o077:
                raise self._refused("others may read or write it: chmod 600, and make its tokens anew")
            data = file.read(_MAX_BYTES + 1)
        try:
            return tokens.decode(data.decode("utf-8", "replace"))
        except TokenFileError as error:
            raise self._refused(str(error)) from None

    def change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        """Replace the tokens by what `change` makes of them, while nobody else does so; whole or not at all."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                self._write(tokens.encode(change(self.read())))
        except OSError as error:
            raise self._refused(f"it cannot be written: {os.strerror(error.errno or errno.EIO)}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path.with_name(self.path.name + ".lock"), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, text: str) -> None:
        with contextlib.ExitStack() as undo:
            descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)  # mode 0600
            undo.callback(Path(name).unlink, missing_ok=True)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(self.path)

    def _refused(self, why: str) -> TokenFileError:
        return TokenFileError(f"the file of tokens {self.path.name} is not used: {why}")


class KnownTokens:
    """The tokens of a file, as a server knows them."""

    def __init__(self, file: TokenFile) -> None:
        """None are known before `load`."""
        self._file = file
        self._tokens: dict[str, Token] = {}
        self._stamp: Stamp | None = None
        self._looked_at = float("-inf")
        self._next: asyncio.Task[None] | None = None
        self._turn, self._refusal = asyncio.Lock(), asyncio.Lock()

    def load(self) -> None:
        """Read the file. Raises TokenFileError; then no token is known."""
        self._stamp = self._file.stamp()
        try:
            found = {token.id: token for token in self._file.read()}
        except TokenFileError:
            self._tokens = {}
            raise
        self._tokens = found

    def get(self, token_id: str) -> Token | None:
        """Return a token that was in the file when we looked last, whether its time is over or not."""
        return self._tokens.get(token_id)

    async def refresh(self) -> None:
        """Look whether the file changed, not sooner than a moment after the last look. Many who ask share one."""
        if self._next is None:
            self._next = asyncio.create_task(self._look(), name="look at the file of tokens")
        await asyncio.shield(self._next)

    async def get_fresh(self, token_id: str) -> Token | None:
        """The same as `get`; look at the file before we say that a token is not known: it may be new."""
        if token_id not in self._tokens:
            await self.refresh()
        if token_id not in self._tokens:
            async with self._refusal:  # guesses that waited for the same look are not answered all in one moment
                await asyncio.sleep(0)
        return self.get(token_id)

    async def _look(self) -> None:
        async with self._turn:
            await asyncio.sleep(self._looked_at + _LOOK_AGAIN_S - time.monotonic())
            self._next = None  # who asks from now on may know of a change that we do not see
            try:
                if await asyncio.to_thread(self._file.stamp) != self._stamp:
                    await asyncio.to_thread(self.load)
            except TokenFileError as error:
                log.error("No token is accepted: %s", error)
            finally:
                self._looked_at = time.monotonic()
