"""Which seat a kernel may have: no two sandboxes of a broker have the same, since its sockets' paths are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import StartError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.lifecycle import WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jupyter_sandbox.broker.sandbox import Sandbox

_MAX_SEATS: Final = 64


async def free(
    name: str, sandbox: Sandbox, sandboxes: Iterable[Sandbox], destroy: Callable[[Sandbox], Awaitable[None]]
) -> ids.KernelSeat:
    """Return the seat `name` if `sandbox`, one of `sandboxes`, may have a kernel there. Raises SandboxError.

    A lost sandbox that has it is waited for, by `destroy`: its kernel starts anew in this one.
    """
    seat = ids.seat(name)
    others = [other for other in sandboxes if other is not sandbox and seat in other.seats]
    for other in [other for other in others if other.state is WorkerState.DOOMED]:
        await destroy(other)
        others.remove(other)
    if seat in sandbox.kernels or others or len(sandbox.seats | {seat}) > _MAX_SEATS:
        raise StartError(f"kernel {seat} cannot be started here: its seat is taken, or there are too many")
    return seat


def vacate(sandbox: Sandbox, seat: str) -> bool:
    """Forget the seat of a kernel that has ended, whose socket paths are nobody's then; whether it had one."""
    if seat in sandbox.kernels:
        raise StartError(f"kernel {seat} has not ended: its seat is taken")
    if seat not in sandbox.seats:
        return False
    sandbox.seats.remove(seat)
    sandbox.notes.pop(seat, None)
    return True
