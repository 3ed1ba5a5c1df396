"""What REST requests about files hold, as shapes, and how files look as JSON, with the schemas of these.

A name that a sandbox chose need not be text: `name` is for people, `quoted` is the name to the byte.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.file_transfers import MAX_ITEMS, Item
from jupyter_sandbox.files import MAX_PAGE
from jupyter_sandbox.guards import paths, urls
from jupyter_sandbox.guards.shapes import Choice, Field, Flag, Items, Nullable, Record, Table, Text, Whole
from jupyter_sandbox.host.beneath import Kind
from jupyter_sandbox.host.changes import What
from jupyter_sandbox.surfaces.native import schemas

if TYPE_CHECKING:
    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.guards.shapes import Schema
    from jupyter_sandbox.host.beneath import Entry
    from jupyter_sandbox.host.changes import Change

_PATH: Final = Text(min_length=1, max_length=paths.MAX_PATH_BYTES, pattern=paths.PATTERN, examples=("data/a.csv",))
_URL: Final = Text(min_length=1, max_length=urls.MAX_URL)
_NO_OR_YES: Final = Choice(("0", "1"))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_NS: Final = -62_135_596_800 * 10**9
_LATEST_NS: Final = 253_402_300_799 * 10**9


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is asked of a file: how it looks, or its content."""

    download: str
    limit: int
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Put:
    """What is made."""

    type: str
    parents: str


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """How much is deleted."""

    recursive: str


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is watched."""

    recursive: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """Where to."""

    path: str
    replace: bool


LOOK: Final = Record(
    name="Look",
    build=Look,
    fields={
        "download": Field(shape=_NO_OR_YES, summary="1: the content of a file; it may be a Range of it.", default="0"),
        "limit": Field(
            shape=Whole(minimum=1, maximum=MAX_PAGE), summary="At most so many entries of a directory.", default=100
        ),
        "cursor": Field(
            shape=Text(min_length=1, max_length=344, pattern=r"^[A-Za-z0-9_-]+={0,2}$"),
            summary="`next` of the page before.",
            default=None,
        ),
    },
)
PUT: Final = Record(
    name="Put",
    build=Put,
    fields={
        "type": Field(shape=Choice(("file", "directory")), summary="What the path shall be.", default="file"),
        "parents": Field(shape=_NO_OR_YES, summary="1: make directories that are missing on the way.", default="0"),
    },
)
DELETION: Final = Record(
    name="Deletion",
    build=Deletion,
    fields={"recursive": Field(shape=_NO_OR_YES, summary="1: a directory with all that is in it.", default="0")},
)
WATCH: Final = Record(
    name="Watch",
    build=Watch,
    fields={
        "recursive": Field(
            shape=_NO_OR_YES, summary="1: also what changes in the directories below, by its path.", default="0"
        )
    },
)
MOVE: Final = Record(
    name="Move",
    build=Move,
    fields={
        "path": Field(shape=_PATH, summary="The new path."),
        "replace": Field(shape=Flag(), summary="Whether what is there may be replaced.", default=False),
    },
)
_FIELDS: Final = Table(names=Text(min_length=1, max_length=1024), values=Text(max_length=32_768), max_entries=64)
UPLOAD: Final = Record(
    name="Upload",
    fields={
        "files": Field(
            shape=Items(
                shape=Record(
                    name="UploadItem",
                    build=Item,
                    fields={
                        "url": Field(shape=_URL, summary="Where it is fetched from, http or https."),
                        "path": Field(shape=_PATH, summary="Where it is put; directories are made."),
                    },
                ),
                min_items=1,
                max_items=MAX_ITEMS,
            ),
            summary="Files to bring into the sandbox.",
        )
    },
)
EXPORT: Final = Record(
    name="Export",
    fields={
        "files": Field(
            shape=Items(
                shape=Record(
                    name="ExportItem",
                    build=Item,
                    fields={
                        "path": Field(shape=_PATH, summary="Which file."),
                        "url": Field(shape=_URL, summary="Where it is sent to, by PUT."),
                        "fields": Field(
                            shape=Nullable(_FIELDS),
                            summary="Fields of a presigned POST, which is sent then.",
                            default=None,
                        ),
                    },
                ),
                min_items=1,
                max_items=MAX_ITEMS,
            ),
            summary="Files to send out of the sandbox.",
        )
    },
)


def cursor(after: str | None) -> str | None:
    """Return what the next page is asked for with."""
    return None if after is None else base64.urlsafe_b64encode(os.fsencode(after)).decode()


def after(cursor: str | None) -> str:
    """Return the name that a cursor is made of. Raises InvalidRequestError."""
    try:
        return os.fsdecode(base64.urlsafe_b64decode(cursor or ""))
    except binascii.Error:
        raise InvalidRequestError("cursor is not the `next` of a page") from None


def file(sandbox_id: str, names: Names, entry: Entry) -> dict[str, Any]:
    """What is at `names`, or a directory's entry. `path` is None when no path can lead to it."""
    return {
        "sandbox_id": sandbox_id,
        **_name(entry.name),
        "path": "/".join(names) if entry.is_nameable or not names else None,
        "type": str(entry.kind),
        "size_bytes": entry.size_bytes,
        "mode": entry.mode,
        "last_modified": _time(entry.modified_ns),
    }


def change(names: Names, told: Change) -> dict[str, Any]:
    """What happened to a name below the directory at `names`, as an event of a stream."""
    if told.what is What.LOST:
        return {"type": "overflow"}
    path = "/".join((*names, told.name)) if paths.is_usable(told.name) else None
    return {"type": str(told.what), **_name(told.name), "path": path}


def _name(name: str) -> dict[str, str]:
    raw = os.fsencode(name)
    return {"name": raw.decode(errors="replace"), "quoted": quote(raw)}


def _time(modified_ns: int) -> str:
    """ISO 8601 in UTC; a sandbox may set any time, and years have four digits."""
    bounded = min(max(modified_ns, _EARLIEST_NS), _LATEST_NS)
    return (_EPOCH + timedelta(microseconds=bounded // 1000)).isoformat(timespec="microseconds").replace("+00:00", "Z")


_ERROR: Final[Schema] = schemas.record(code=schemas.TEXT, message=schemas.TEXT)
_FILE: Final[dict[str, Schema]] = {
    "sandbox_id": schemas.TEXT,
    "name": schemas.TEXT,
    "quoted": schemas.TEXT,
    "path": schemas.or_null(schemas.TEXT),
    "type": {"enum": [str(kind) for kind in Kind]},
    "size_bytes": schemas.COUNT,
    "mode": schemas.COUNT,
    "last_modified": schemas.TIME,
}
SCHEMAS: Final[dict[str, Schema]] = {
    "File": schemas.record(**_FILE),
    "FileOrDirectory": schemas.record(
        **_FILE, entries=schemas.or_null(schemas.list_of("File")), next=schemas.or_null(schemas.TEXT)
    ),
    "FileOutcome": schemas.record(
        path=schemas.TEXT,
        size_bytes=schemas.or_null(schemas.COUNT),
        error=schemas.or_null(_ERROR),
    ),
    "FileOutcomes": schemas.record(files=schemas.list_of("FileOutcome")),
    "FileEvent": {
        "type": "object",
        "description": "One line or message of a stream: first `ready`, from when on changes are told; `created`, "
        "`changed` or `deleted` with the name; `overflow` when changes were lost, so that the directory should be "
        "listed anew; `heartbeat` when nothing happened for a while; and `ended` with the reason.",
        "properties": {
            "type": {"enum": ["ready", "created", "changed", "deleted", "overflow", "heartbeat", "ended"]},
            "name": schemas.TEXT,
            "quoted": schemas.TEXT,
            "path": schemas.or_null(schemas.TEXT),
            "error": _ERROR,
        },
        "required": ["type"],
    },
}
