"""Which files of a run are its artifacts. Pure: it judges names, kinds and sizes that a sandbox chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host.beneath import Kind
from jupyter_sandbox.surfaces.ragflow.programs import ARGUMENTS, ARTIFACTS, WORK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_sandbox.host.beneath import Entry

MAX_ARTIFACTS: Final = 10
MAX_ARTIFACT_BYTES: Final = 10 << 20
MIME_TYPES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".csv": "text/csv",
    ".json": "application/json",
    ".html": "text/html",
}
"""By the end of a name."""
RULE: Final = (
    f"{MAX_ARTIFACTS} are taken at most, regular files of 1 byte to {MAX_ARTIFACT_BYTES >> 20} MiB, whose names are "
    f"text, do not begin with a dot and end in {', '.join(MIME_TYPES)}"
)
_READABLE: Final = 0o400


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One of them: where it is, and how it is called in the answer."""

    path: str
    name: str
    mime_type: str
    size_bytes: int


def choose(inside: Sequence[Entry], beside: Sequence[Entry]) -> tuple[tuple[Artifact, ...], int]:
    """Return the artifacts in the order of their names, and how many files are none though they were meant to be.

    `inside`: what is in the directory of artifacts. `beside`: what is where the program ran; of that files with a
    listed end of their name count, and come before those of the same name inside.
    """
    meant = [(ARTIFACTS, entry) for entry in inside]
    meant += [
        (WORK, entry)
        for entry in beside
        if entry.kind is Kind.FILE and _mime_type(entry.name) is not None and entry.name != ARGUMENTS
    ]
    found = {entry.name: artifact for place, entry in meant if (artifact := _artifact(place, entry)) is not None}
    names = sorted(found)[:MAX_ARTIFACTS]
    return tuple(found[name] for name in names), len({entry.name for _, entry in meant}) - len(names)


def _artifact(place: str, entry: Entry) -> Artifact | None:
    mime_type = _mime_type(entry.name)
    fits = (
        entry.kind is Kind.FILE
        and entry.is_nameable
        and not entry.name.startswith(".")
        and not any(part in entry.name for part in ("..", "\\"))
        and entry.mode & _READABLE
        and 0 < entry.size_bytes <= MAX_ARTIFACT_BYTES
    )
    if not fits or mime_type is None:
        return None
    return Artifact(path=f"{place}/{entry.name}", name=entry.name, mime_type=mime_type, size_bytes=entry.size_bytes)


def _mime_type(name: str) -> str | None:
    return MIME_TYPES.get(PurePosixPath(name).suffix.lower())
