"""`filesystem.Filesystem`: directories and entries of a sandbox's disk."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import FileConflictError, InvalidRequestError, UnknownFileError
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.host import tasks
from jupyter_sandbox.host.beneath import Kind
from jupyter_sandbox.surfaces.e2b import words
from jupyter_sandbox.surfaces.e2b.rpc import CallHandler

if TYPE_CHECKING:
    from jupyter_sandbox.host.beneath import Entry

_TYPES: Final = {
    Kind.FILE: "FILE_TYPE_FILE",
    Kind.DIRECTORY: "FILE_TYPE_DIRECTORY",
    Kind.SYMLINK: "FILE_TYPE_SYMLINK",
    Kind.OTHER: "FILE_TYPE_UNSPECIFIED",
}
_BITS: Final = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
_LATEST_S: Final = 253_402_300_799
"""The last second of year 9999: a sandbox may set any time."""
_MAX_ENTRIES: Final = 10_000
_MAX_DEPTH: Final = 32


class FilesystemHandler(CallHandler):
    """Base of the methods."""

    resource, action = "contents", "write"
    operation = "get_file"

    def path(self, message: dict[str, Any], name: str = "path") -> str:
        """Return a path of a message as ours."""
        value = message.get(name, "")
        if not isinstance(value, str):
            raise InvalidRequestError(f"{name} must be a text")
        return words.disk_path(value)

    async def entry(self, path: str) -> dict[str, Any]:
        """Return what is at a path."""
        return model(await self.services.files.stat(self.box.sandbox_id, path), path)


class StatHandler(FilesystemHandler):
    """`Stat`."""

    action = "read"

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what is there."""
        return {"entry": await self.entry(self.path(message))}


class MakeDirHandler(FilesystemHandler):
    """`MakeDir`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Make a directory, and those that are missing on the way."""
        path = self.path(message)
        try:
            is_new = path != HOME and await self.services.files.make_directory(self.box.sandbox_id, path, parents=True)
        except FileConflictError as error:  # clients take that for a directory that is there
            raise InvalidRequestError(str(error)) from error
        if not is_new:
            raise FileConflictError(f"directory already exists: {words.their_path(path)[:200]}")
        return {"entry": await self.entry(path)}


class MoveHandler(FilesystemHandler):
    """`Move`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Give something another path."""
        source, target = self.path(message, "source"), self.path(message, "destination")
        await self.services.files.move(self.box.sandbox_id, source, target, replace=True)
        return {"entry": await self.entry(target)}


class RemoveHandler(FilesystemHandler):
    """`Remove`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Delete something with all that is in it; quiet when it is not there."""
        deletion = self.services.files.delete(self.box.sandbox_id, self.path(message), recursive=True)
        with contextlib.suppress(UnknownFileError):
            await tasks.as_long_as_asked(self.when_gone, deletion)
        return {}


class ListDirHandler(FilesystemHandler):
    """`ListDir`."""

    action = "read"

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what is in a directory, and in those below it to a depth."""
        depth = message.get("depth", 1) or 1
        if type(depth) is not int or not 1 <= depth <= _MAX_DEPTH:
            raise InvalidRequestError(f"depth is between 1 and {_MAX_DEPTH}")
        found: list[dict[str, Any]] = []
        await self._collect(self.path(message), depth, found)
        return {"entries": found}

    async def _collect(self, path: str, depth: int, found: list[dict[str, Any]]) -> None:
        after: str | None = ""
        while after is not None:
            page = await self.services.files.listing(self.box.sandbox_id, path, after=after)
            after = page.after
            for entry in page.entries:
                if not entry.is_nameable:
                    continue
                if len(found) >= _MAX_ENTRIES:
                    raise InvalidRequestError(f"there are more than {_MAX_ENTRIES} entries; list a part of them")
                inside = f"{path}/{entry.name}"
                found.append(model(entry, inside))
                if entry.kind is Kind.DIRECTORY and depth > 1:
                    await self._collect(inside, depth - 1, found)
            await asyncio.sleep(0)


METHODS: Final = {
    "Stat": StatHandler,
    "MakeDir": MakeDirHandler,
    "Move": MoveHandler,
    "Remove": RemoveHandler,
    "ListDir": ListDirHandler,
}


def model(entry: Entry, path: str) -> dict[str, Any]:
    """Return what is at a path as E2B shows it."""
    whole = _BITS.get(entry.kind, 0) | entry.mode
    target = {} if entry.target is None else {"symlinkTarget": entry.target}
    return target | {
        "name": entry.name or words.USER,
        "type": _TYPES[entry.kind],
        "path": words.their_path(path),
        "size": str(entry.size_bytes),
        "mode": entry.mode,
        "permissions": stat.filemode(whole),
        "owner": words.USER,
        "group": words.USER,
        "modifiedTime": words.moment(datetime.fromtimestamp(min(max(entry.modified_ns / 1e9, 0), _LATEST_S), UTC)),
    }
