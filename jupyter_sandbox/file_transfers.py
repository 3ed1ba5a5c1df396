"""Files of sandboxes from and to URLs, in batches: each file has its own result, and none waits for another's server.

It knows batches, their limits and their deadline; what a URL may be is judged in `guards.urls`, and how bytes travel is
`host.transfer`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from traitlets import Int, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from jupyter_sandbox import events
from jupyter_sandbox.errors import FileTooLargeError, InvalidRequestError, SandboxError, TransferError
from jupyter_sandbox.events import RequestRefused
from jupyter_sandbox.guards import paths, urls
from jupyter_sandbox.host import transfer
from jupyter_sandbox.shares import Shares

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.files import Files
    from jupyter_sandbox.owners import Owner

MAX_ITEMS: Final = 100
_MAX_BATCHES: Final = 16
_AT_ONCE: Final = 4
_MAX_FIELDS: Final = 64
_MAX_FIELDS_BYTES: Final = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of a batch. With `fields`, which only an export has, it is sent as a form: a presigned POST."""

    path: str
    url: str = field(repr=False)
    fields: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an item: its size, or an error."""

    path: str
    size_bytes: int | None = None
    error: SandboxError | None = None


class FileTransfers(Configurable):
    """Brings files from URLs and sends them to URLs, for every sandbox that `files` reaches."""

    ports = List(
        Int(), [80, 443], help="Ports that a URL may name, from which files are brought or to which they are sent."
    ).tag(config=True)
    allowed_hosts = List(
        Unicode(),
        help="Object stores of your own, as `host:port`, that URLs may name though they have no public address, or are "
        "not at one of `ports`. Everybody who may transfer files can ask whatever is there.",
    ).tag(config=True)
    max_batch_mib = Int(4096, min=1, help="The most bytes of all files of one batch, or of a form of E2B's, MiB.").tag(
        config=True
    )
    timeout_s = Int(
        600, min=1, help="How long a batch may take, seconds; files that are not through by then fail."
    ).tag(config=True)

    def __init__(
        self,
        files: Files,
        *,
        lookup: transfer.Resolve = transfer.resolve,
        trust: ssl.SSLContext | None = None,
        emit: Emit = events.ignore,
        **kwargs: object,
    ) -> None:
        """`lookup` and `trust`: see `host.transfer.Transfers`."""
        super().__init__(**kwargs)
        self._files, self._emit = files, emit
        self._transfers = transfer.Transfers(urls.rules(self.ports, self.allowed_hosts), lookup=lookup, trust=trust)
        self._shares = Shares(_MAX_BATCHES, "batches of files")

    @validate("ports", "allowed_hosts")
    def _judge(self, proposal: dict[str, list[int] | list[str]]) -> list[int] | list[str]:
        value = proposal["value"]
        try:
            urls.rules(
                [port for port in value if isinstance(port, int)], [text for text in value if isinstance(text, str)]
            )
        except SandboxError as error:
            raise TraitError(f"FileTransfers: {error}") from error
        return value

    async def upload(
        self, owner: Owner, sandbox: str, items: Sequence[Item], *, max_bytes: int | None = None
    ) -> tuple[Outcome, ...]:
        """Bring each item's file from its URL to its path, whole or not at all; directories are made.

        `max_bytes`: the most of one file, if that is less than the server's own limit.
        """
        work = functools.partial(self._upload, max_bytes)
        return await self._batch("upload_files", owner, sandbox, items, work)

    async def export(self, owner: Owner, sandbox: str, items: Sequence[Item]) -> tuple[Outcome, ...]:
        """Send the file at each item's path to its URL, by PUT, or by POST of a form when it has fields."""
        return await self._batch("export_files", owner, sandbox, items, self._export)

    async def _batch(
        self,
        operation: str,
        owner: Owner,
        sandbox: str,
        items: Sequence[Item],
        work: Callable[[str, Item, _Budget], Awaitable[int]],
    ) -> tuple[Outcome, ...]:
        if not 1 <= len(items) <= MAX_ITEMS:
            raise InvalidRequestError(f"a batch has 1 to {MAX_ITEMS} files")
        turns, budget = asyncio.Semaphore(_AT_ONCE), _Budget(self.max_batch_mib << 20)
        deadline = asyncio.get_running_loop().time() + self.timeout_s

        async def one(item: Item) -> Outcome:
            try:
                async with asyncio.timeout_at(deadline), turns:
                    return Outcome(path=item.path, size_bytes=await work(sandbox, item, budget))
            except TimeoutError:
                error: SandboxError = TransferError(f"it was not through within {self.timeout_s} s")
            except SandboxError as reason:
                error = reason
            host = urls.named_host(item.url)
            self._emit(RequestRefused(code=error.code, operation=operation, sandbox_id=sandbox, host=host))
            return Outcome(path=item.path, error=error)

        with self._shares.place(owner):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(item)) for item in items]
            return tuple(task.result() for task in tasks)

    async def _upload(self, max_bytes: int | None, sandbox: str, item: Item, budget: _Budget) -> int:
        paths.entry(item.path)
        async with self._transfers.fetching(item.url) as (size, content):
            if max_bytes is not None and (size or 0) > max_bytes:
                raise FileTooLargeError(f"the file has {size} bytes; {max_bytes} are accepted")
            if size is None:
                content = budget.counted(content)
            else:
                budget.take(size)  # no more than was announced is read
            host = urls.named_host(item.url)
            entry = await self._files.write(sandbox, item.path, content, parents=True, max_bytes=max_bytes, host=host)
        return entry.size_bytes

    async def _export(self, sandbox: str, item: Item, budget: _Budget) -> int:
        async with self._files.reading(sandbox, item.path, host=urls.named_host(item.url)) as reading:
            budget.take(reading.size)
            if item.fields is None:
                await self._transfers.put(item.url, reading, reading.size)
            else:
                await self._transfers.post(item.url, _fields(item.fields), reading.entry.name, reading, reading.size)
            return reading.size


class _Budget:
    """The bytes that the files of a batch may have together."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, size: int) -> None:
        """Raises FileTooLargeError when there are not so many left."""
        if size > self._left:
            raise FileTooLargeError("the files of this batch are too large together; send them in several")
        self._left -= size

    async def counted(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass on what there is a budget for."""
        async for piece in content:
            self.take(len(piece))
            yield piece


def _fields(fields: Mapping[str, str]) -> Mapping[str, str]:
    size = 0
    with contextlib.suppress(UnicodeEncodeError):
        size = sum(len(key.encode()) + len(value.encode()) for key, value in fields.items()) + 1
    if len(fields) > _MAX_FIELDS or not 0 < size <= _MAX_FIELDS_BYTES:
        raise InvalidRequestError(f"a form has at most {_MAX_FIELDS} fields, {_MAX_FIELDS_BYTES} bytes of text")
    return fields
