"""Which kernel may have which seat of a sandbox, and with which note.

The ledger knows of a seat before there is a kernel: what an agent says of others is a lie, and costs the sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import adoption, recording
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.lifecycle import WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jupyter_sandbox.broker.sandbox import Sandbox

_MAX_SEATS: Final = 64


async def free(
    sandbox: Sandbox, name: str, sandboxes: Iterable[Sandbox], destroy: Callable[[Sandbox], Awaitable[None]]
) -> ids.KernelSeat:
    """Return the seat `name` if `sandbox`, one of these, may have a kernel there. Raises SandboxError.

    A lost sandbox whose kernel starts anew in this one is destroyed before, and so is one of the same owner that
    nobody holds: who starts the kernel anew has given it up.
    """
    seat = ids.seat(name)
    others = [other for other in sandboxes if other is not sandbox and seat in other.seats]
    for other in list(others):
        if other.state is WorkerState.DOOMED or (other.owner == sandbox.owner and other.holder is None):
            await destroy(other)
            others.remove(other)
    if seat in sandbox.kernels or others or len(sandbox.seats | {seat}) > _MAX_SEATS:
        raise StartError(f"kernel {seat} cannot be started here: its seat is taken, or there are too many")
    return seat


def take(sandbox: Sandbox, seat: ids.KernelSeat, note: str, write: recording.Write) -> None:
    """Take a free seat, with its judged note; quiet when it was taken before. Raises SandboxError; it is free then."""
    is_new = seat not in sandbox.seats
    sandbox.seats.add(seat)
    is_other = adoption.write(sandbox, seat, note)
    if not is_new:
        if is_other:
            recording.write_or_later(sandbox, write)
        return
    try:
        write(sandbox)
    except BaseException:
        _forget(sandbox, seat)
        raise


def vacate(sandbox: Sandbox, seat: str, write: recording.Write) -> None:
    """Forget the seat of a kernel that has ended; its socket paths are nobody's then."""
    if seat in sandbox.kernels:
        raise StartError(f"kernel {seat} has not ended: its seat is taken")
    if seat in sandbox.seats:
        _forget(sandbox, seat)
        recording.write_or_later(sandbox, write)


def _forget(sandbox: Sandbox, seat: str) -> None:
    sandbox.seats.discard(seat)
    sandbox.notes.pop(seat, None)
