"""What a server leaves with its sandboxes for the time when it has been started anew: its name, and notes.

Notes are judged by their size and by whom they are about; what they say is the server's own business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sandbox.broker import restriction_verbs, verbs
from jupyter_sandbox.broker.adoption_verbs import MAX_NOTE, Adopted, Seat
from jupyter_sandbox.errors import ConflictError, InvalidRequestError, UnknownSandboxError
from jupyter_sandbox.guards import ids

if TYPE_CHECKING:
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.host.places import Places


def server(name: str) -> str:
    """Judge the name of a server; empty is none."""
    return ids.server_name(name) if name else ""


def notes(of_sandbox: str, seat: str | None, of_kernel: str) -> dict[str, str]:
    """Return the judged notes of a claim; `seat` None: there is no kernel."""
    given = {"": of_sandbox} | ({} if seat is None else {seat: of_kernel})
    return {about: judged(text) for about, text in given.items() if text}


def write(sandbox: Sandbox, about: str, text: str) -> bool:
    """Replace a note, or remove it when `text` is empty; whether that changed anything. Raises InvalidRequestError."""
    if about and about not in sandbox.seats:
        raise InvalidRequestError(f"no kernel has the seat {about[:20]!a} in sandbox {sandbox.id}")
    after = judged(text)
    before = sandbox.notes.pop(about, "")
    if after:
        sandbox.notes[about] = after
    return before != after


def read(sandbox: Sandbox, about: str) -> str:
    """Return a note, empty if there is none."""
    return sandbox.notes.get(about, "")


def is_left(sandbox: Sandbox, uid: int, by: str) -> bool:
    """Whether a process of `uid` that is the server `by` may adopt a sandbox now."""
    return bool(by) and sandbox.server == by and sandbox.owner == uid and sandbox.holder is None


def require_left(sandbox: Sandbox, uid: int, by: str) -> None:
    """Raise UnknownSandboxError when that server did not leave it, ConflictError while somebody holds it."""
    if not by or sandbox.server != by or sandbox.owner != uid:
        raise UnknownSandboxError(f"no sandbox {sandbox.id} of that server")
    if sandbox.holder is not None:
        raise ConflictError(f"sandbox {sandbox.id} is held: its server lives, or another start of it was faster")


def attached(sandbox: Sandbox) -> verbs.Attached:
    """Return what the new holder of a sandbox is told."""
    return verbs.Attached(
        running=tuple(sandbox.kernels),
        paused=sandbox.is_paused,
        network=restriction_verbs.network(sandbox.restriction),
    )


def adopted(sandbox: Sandbox, places: Places) -> Adopted:
    """Return what its server is told."""
    return Adopted(
        template=sandbox.template.name,
        cwd=sandbox.cwd,
        created_at=sandbox.created_at,
        seats=tuple(
            Seat(seat=seat, prefix=str(places.kernel_sockets(seat)), is_running=seat in sandbox.kernels)
            for seat in sorted(sandbox.seats)
        ),
        paused=sandbox.is_paused,
        network=restriction_verbs.network(sandbox.restriction),
    )


def judged(text: str) -> str:
    """Judge the text of a note."""
    if len(text) > MAX_NOTE:
        raise InvalidRequestError(f"a note has at most {MAX_NOTE} characters")
    return text
