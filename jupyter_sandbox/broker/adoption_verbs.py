"""The broker's verbs by which a server that was started anew finds its sandboxes again. See `verbs`.

A *note* is text that a server gives with a sandbox or a kernel, and reads when it has been started anew. The broker
keeps it, bounded, in the ledger's record, understands none of it, and shows it to no worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from jupyter_sandbox.broker.restriction_verbs import Network  # noqa: TC001 - the decoder looks it up

MAX_NOTE: Final = 40 * 1024
"""Characters of one note: with what the environment of a kernel may have, 24 KiB, and less than a message."""


@dataclass(frozen=True, kw_only=True)
class WriteNote:
    """Replace the note of a kernel, by its seat, or of the sandbox itself when that is empty. Answer: Done."""

    sandbox: str
    seat: str
    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ReadNote:
    """Ask for such a note. Answer: Note; an empty one if none was written."""

    sandbox: str
    seat: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was written last."""

    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Take over a sandbox that a server of that name and the caller's uid has left. Answer: Adopted.

    This connection is the lease then. What somebody holds is refused, whoever asks.
    """

    sandbox: str
    server: str


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One kernel of an adopted sandbox: its seat, the prefix of its socket paths, and whether it still runs."""

    seat: str
    prefix: str
    is_running: bool


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The sandbox is the caller's again."""

    template: str
    cwd: str
    created_at: str
    seats: tuple[Seat, ...]
    paused: bool
    network: Network


REQUESTS = (WriteNote, ReadNote, Adopt)
ANSWERS = (Note, Adopted)
