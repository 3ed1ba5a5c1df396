"""What a server notes of its sandboxes and kernels, for the time when it has been started anew. No I/O.

The broker keeps notes as text. Who reads one judges it like any other input: a note that says what no server writes is
no note.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from jupyter_sandbox import restrictions
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import ids, keys, processes
from jupyter_sandbox.specs import UNLIMITED, Less
from sandbox_worker import messages
from sandbox_worker.protocol import CurveKeys  # noqa: TC001 - the decoder looks it up

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_SESSIONS: Final = 16
"""Of one kernel, that are noted."""
_KERNEL_ID: Final = re.compile(ids.KERNEL_ID)
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_MAX_NAME: Final = 400
_MAX_PARTS: Final = 16

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session of Jupyter's, with one kernel."""

    id: str
    path: str | None
    name: str | None
    type: str | None


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Where in a sandbox that existed a kernel was started: see `provisioner.Place`."""

    directory: str | None
    environment: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class KernelNote:
    """One kernel. `cwd`: the host directory that the workspace of a sandbox of its own shows, if it shows one."""

    kernel_id: str
    kernel_name: str
    owner: str | None
    hides_files: bool
    key: str = field(repr=False)
    curve: CurveKeys | None = field(default=None, repr=False)
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    guest: Guest | None = None
    sessions: tuple[Session, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SandboxNote:
    """A sandbox that was claimed for its own sake, for `timeout_s`. Its time is `length_s` now; see `terms`.

    `ends_at` is on the machine's monotonic clock. `parts`: what services know of it, by their names.
    """

    owner: str
    timeout_s: float
    length_s: float
    ends_at: float
    is_renewed_by_use: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    denied: tuple[str, ...] = ()
    """What it may not reach, as it was claimed: see `specs.Restriction`."""
    excepted: tuple[str, ...] = ()
    less: Less = UNLIMITED
    key: str | None = None
    parts: dict[str, str] = field(default_factory=dict, repr=False)


def text_of(note: DataclassInstance) -> str:
    """Return a note as text."""
    return json.dumps(asdict(note), separators=(",", ":"))


def kernel(text: str) -> KernelNote | None:
    """Return the judged note of a kernel; None when that is none."""
    note = read(KernelNote, text)
    return note if note is not None and _is_kernel(note) else None


def sandbox(text: str) -> SandboxNote | None:
    """Return the judged note of a sandbox; None when that is none."""
    note = read(SandboxNote, text)
    is_good = (
        note is not None
        and 0 < note.timeout_s < math.inf
        and 0 < note.length_s < math.inf
        and math.isfinite(note.ends_at)
        and 0 < len(note.owner) <= _MAX_NAME
        and len(note.parts) <= _MAX_PARTS
        and _is_restriction(note)
    )
    return note if is_good else None


def read(kind: type[Kind], text: str) -> Kind | None:
    """Return the value of a frozen dataclass that `text` describes, strictly; None when it describes none."""
    try:
        values = json.loads(text)
        return cast("Kind", messages.build(kind, values)) if isinstance(values, dict) else None
    except (ValueError, RecursionError):
        return None


def _is_restriction(note: SandboxNote) -> bool:
    try:
        restrictions.judge(note.denied, note.excepted)
    except InvalidRequestError:
        return False
    return True


def _is_kernel(note: KernelNote) -> bool:
    try:
        keys.curve(note.curve)
        processes.environment(note.environment)
        if note.guest is not None:
            processes.environment(note.guest.environment)
            if note.guest.directory is not None:
                processes.working_directory(note.guest.directory)
    except InvalidRequestError:
        return False
    names = (note.kernel_name, note.owner or "", *(session.id for session in note.sessions))
    return (
        _KERNEL_ID.fullmatch(note.kernel_id) is not None
        and _KEY.fullmatch(note.key) is not None
        and all(len(name) <= _MAX_NAME for name in names)
        and len(note.sessions) <= MAX_SESSIONS
        and "\0" not in (note.cwd or "")
    )
