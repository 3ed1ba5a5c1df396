"""The broker's memory across its own death: one small file for each worker, written before anything is done for it.

The engine is asked what lives; the ledger says whose it is and what was taken for it. What is no record is treated as
one whose worker nobody owns; of one that cannot be read just now somebody may.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import DiskSpaceError, SandboxError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.specs import UNLIMITED, Less
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_RETRY_AFTER_S: Final = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one worker."""

    id: ids.SandboxId
    template: str
    slot: int
    """Offset of the worker's uid in its range; 0 without root."""
    pid: int = 0
    started: int = 0
    """Start time of pid 1 in clock ticks since boot, which tells a reused pid from the original; 0 before the fork."""
    owner: int | None = None
    """Host uid of the owner; None while the worker is warm."""
    on_behalf: str = ""
    """Which of its owners the client claimed it for."""
    workspace: str = ""
    created_at: str = ""
    seats: tuple[str, ...] = ()
    """Kernels that were ever started in it: what an agent says of others is a lie."""
    paused: bool = False
    """Whether it was to be frozen: written before it is, and after it was thawed."""
    denied: tuple[str, ...] = ()
    """Targets that it may not reach though its template opens them: written before it is held to that."""
    excepted: tuple[str, ...] = ()
    """Those that it may reach nevertheless."""
    less: Less = UNLIMITED
    """What it has less of than its template's limits."""
    server: str = ""
    """The name of the server that may adopt it; empty: it ends with the connection on which it was claimed."""
    notes: dict[str, str] = field(default_factory=dict, repr=False)
    """What that server wrote of its kernels, by their seats, and of the sandbox, by the empty text."""
    engine: str = ""
    """The name of the engine that made it; empty in records of brokers that did not tell."""


class Ledger:
    """A directory of records."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which must be the broker's alone; it is made if missing."""
        self._directory = directory
        self.unread: set[str] = set()
        """Of which workers there are records that could not be read the last time: whose they are is not known."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, record: Record) -> None:
        """Store a record whole or not at all.

        It is not forced to the medium: it has to outlive us, not the machine, and no worker outlives that. Raises
        SandboxError; what was stored before is there still.
        """
        path = self._path(record.id)
        fresh = path.with_suffix(".new")
        text = json.dumps(asdict(record))  # ten times as fast as `dump`, which does not use the encoder in C
        try:
            with open(fresh, "w", opener=_private) as file:
                file.write(text)
            fresh.replace(path)
        except OSError as error:
            kind, remedy = (DiskSpaceError, "free space on") if error.errno in _FULL else (SandboxError, "look after")
            raise kind(
                f"the record of sandbox {record.id} cannot be written ({error.strerror}): {remedy} the file system of "
                "the broker's run directory, and try again",
                retry_after_s=_RETRY_AFTER_S,
            ) from error

    def remove(self, sandbox: ids.SandboxId) -> None:
        """Forget a worker; quiet when it is not known."""
        with contextlib.suppress(FileNotFoundError):
            self._path(sandbox).unlink()
        self.unread.discard(sandbox)

    def records(self) -> Iterator[Record]:
        """Yield every readable record; remove what is none, and the half-written.

        One that the machine does not let us read now (descriptors, memory, a bad block) stays, in `unread`.
        """
        for path in sorted(path for path in self._directory.iterdir() if not path.is_dir()):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                self.unread.discard(path.stem)
                continue
            except (OSError, MemoryError) as error:
                if path.stem not in self.unread:
                    log.error("record %s cannot be read now, and its worker is left alone: %s", path.name, error)
                self.unread.add(path.stem)
                continue
            self.unread.discard(path.stem)
            try:
                record = messages.build(Record, json.loads(text))
                assert isinstance(record, Record)  # noqa: S101 - tells the type
                if path.name != f"{ids.sandbox_id(record.id)}.json":
                    raise ValueError("name and content differ")
            except Exception:  # noqa: BLE001 - whatever is wrong with it, it is no record
                path.unlink(missing_ok=True)
                continue
            yield record

    def _path(self, sandbox: ids.SandboxId) -> Path:
        return self._directory / f"{sandbox}.json"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
