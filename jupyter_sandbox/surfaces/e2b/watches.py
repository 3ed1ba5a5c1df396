"""`filesystem.Filesystem`: directories that are watched, by a stream, or by a watcher whose events are fetched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tornado.iostream import StreamClosedError

from jupyter_sandbox import errors
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import changes, processes
from jupyter_sandbox.host.changes import What
from jupyter_sandbox.incoming import SILENCE_S
from jupyter_sandbox.surfaces.e2b import connect
from jupyter_sandbox.surfaces.e2b.filesystem import FilesystemHandler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

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

    def watched(self, message: dict[str, Any]) -> str:
        """Return the directory that is to be watched; raises SandboxError."""
        for name in ("recursive", "includeEntry"):
            if message.get(name):
                raise errors.NotSupportedError(f"{name} is not supported here: the names in one directory are told")
        return self.path(message)


class WatchDirHandler(_WatchingHandler):
    """`WatchDir`."""

    streams = True
    patience_s = SILENCE_S

    async def events(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what changes, as it happens. Raises SandboxError."""
        loop = asyncio.get_running_loop()
        until: asyncio.Future[None] = loop.create_future()
        self.when_gone(lambda: processes.resolve(until))
        limit_s = connect.timeout_s(self.request.headers.get(connect.TIMEOUT_HEADER))
        timer = loop.call_later(limit_s, processes.resolve, until) if limit_s else None
        sandbox, path = self.box.sandbox_id, self.watched(message)
        try:
            watching = self.services.watches.watching(
                sandbox, path, fold=changes.separately, silence_s=KEEPALIVE_S, until=until
            )
            async with watching as watch:
                yield {"start": {}}
                async for found in watch:
                    self.services.sandboxes.find(self.box.owner, sandbox)  # its disk may be kept by who still reads
                    for event in _events(found):
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
        return {"watcherId": await self.services.kept_watches.begin(self.box.sandbox_id, self.watched(message))}


class GetWatcherEventsHandler(_WatchingHandler):
    """`GetWatcherEvents`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what happened since the last time."""
        found = await self.services.kept_watches.fetch(self.box.sandbox_id, _id(message))
        return {"events": list(_events(found))}


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


def _events(found: Iterable[Change]) -> Iterator[dict[str, Any]]:
    """Yield changes in E2B's words; names that are no text cannot be told. Raises FileChangedError if some are lost."""
    for change in found:
        if change.what is What.LOST:
            raise errors.FileChangedError("more has changed than can be told; look at the directory and watch it again")
        if paths.is_nameable(change.name):
            yield {"name": change.name, "type": _TYPES[change.what]}
