"""`filesystem.Filesystem`: directories that are watched, by a stream, or by a watcher whose events are fetched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import StreamClosedError

from jupyter_sandbox import errors
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import changes, processes
from jupyter_sandbox.host.changes import What
from jupyter_sandbox.surfaces.e2b import connect, filesystem, keepalives
from jupyter_sandbox.surfaces.e2b.filesystem import FilesystemHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping

    from jupyter_sandbox.host.beneath import Entry
    from jupyter_sandbox.host.changes import Change

KEEPALIVE_S: Final = 15.0
_TYPES: Final = {
    What.CREATED: "EVENT_TYPE_CREATE",
    What.CHANGED: "EVENT_TYPE_WRITE",
    What.ALTERED: "EVENT_TYPE_CHMOD",
    What.DELETED: "EVENT_TYPE_REMOVE",
    What.MOVED: "EVENT_TYPE_RENAME",
}


class _WatchingHandler(FilesystemHandler):
    """Base of the methods."""

    action = "read"

    def flag(self, message: dict[str, Any], name: str) -> bool:
        """Return whether something is asked for; raises InvalidRequestError."""
        value = message.get(name, False)
        if not isinstance(value, bool):
            raise errors.InvalidRequestError(f"{name} must be true or false")
        return value


class WatchDirHandler(_WatchingHandler):
    """`WatchDir`."""

    streams = True

    async def events(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what changes, as it happens. Raises SandboxError."""
        loop = asyncio.get_running_loop()
        until: asyncio.Future[None] = loop.create_future()
        self.when_gone(lambda: processes.resolve(until))
        limit_s = connect.timeout_s(self.request.headers.get(connect.TIMEOUT_HEADER))
        timer = loop.call_later(limit_s, processes.resolve, until) if limit_s else None
        sandbox, path = self.box.sandbox_id, self.path(message)
        recursive, with_entries = self.flag(message, "recursive"), self.flag(message, "includeEntry")
        silence_s = keepalives.interval_s(self.request.headers.get(keepalives.HEADER), KEEPALIVE_S)
        try:
            watching = self.services.watches.watching(
                self.box.owner,
                sandbox,
                path,
                recursive=recursive,
                fold=changes.separately,
                silence_s=silence_s,
                until=until,
            )
            async with watching as watch:
                yield {"start": {}}
                async for found in watch:
                    self.services.sandboxes.find(self.box.owner, sandbox)  # its disk may be kept by who still reads
                    entries = await watch.entries(found) if with_entries else {}
                    for event in _events(found, entries):
                        yield {"filesystem": event}
                    if not found and not until.done():
                        yield {"keepalive": {}}
            raise connect.TimeIsOverError
        except errors.UnknownSandboxError:
            raise StreamClosedError from None  # as SDKs expect
        finally:
            if timer is not None:
                timer.cancel()


class CreateWatcherHandler(_WatchingHandler):
    """`CreateWatcher`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Watch from now on."""
        watcher = await self.services.kept_watches.begin(
            self.box.owner,
            self.box.sandbox_id,
            self.path(message),
            recursive=self.flag(message, "recursive"),
            with_entries=self.flag(message, "includeEntry"),
        )
        return {"watcherId": watcher}


class GetWatcherEventsHandler(_WatchingHandler):
    """`GetWatcherEvents`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what happened since the last time."""
        sandbox, watcher, kept = self.box.sandbox_id, _id(message), self.services.kept_watches
        found = await kept.fetch(sandbox, watcher)
        entries = await kept.entries(sandbox, watcher, found)
        return {"events": list(_events(found, entries))}


class RemoveWatcherHandler(_WatchingHandler):
    """`RemoveWatcher`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Watch no longer."""
        await self.services.kept_watches.end(self.box.sandbox_id, _id(message))
        return {}


METHODS: Final[dict[str, type[FilesystemHandler]]] = {
    "WatchDir": WatchDirHandler,
    "CreateWatcher": CreateWatcherHandler,
    "GetWatcherEvents": GetWatcherEventsHandler,
    "RemoveWatcher": RemoveWatcherHandler,
}


def _id(message: dict[str, Any]) -> str:
    value = message.get("watcherId")
    if not isinstance(value, str):
        raise errors.InvalidRequestError("watcherId must be a text")
    return value


def _events(found: Iterable[Change], entries: Mapping[str, tuple[str, Entry]]) -> Iterator[dict[str, Any]]:
    """Yield changes in E2B's words; names that are no text cannot be told. Raises FileChangedError if some are lost."""
    for change in found:
        if change.what is What.LOST:
            raise errors.FileChangedError("more has changed than can be told; look at the directory and watch it again")
        if paths.is_usable(change.name):
            event: dict[str, Any] = {"name": change.name, "type": _TYPES[change.what]}
            if change.what in changes.STAYING and change.name in entries:
                path, entry = entries[change.name]
                event["entry"] = filesystem.model(entry, path)
            yield event
