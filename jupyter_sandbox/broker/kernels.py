"""Start a kernel in a sandbox: its listeners first, then the agent is asked.

A warm worker has a *standby*, the process of its first kernel, which listens where nobody is told. If that kernel can
be this process, it is: the sockets get the kernel's paths once it has the kernel's key, not before, for what a client
sends to a process with another key is lost. Every later kernel is a process of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from jupyter_sandbox.broker import verbs
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.guards import ids, keys, processes
from jupyter_sandbox.host import tasks
from jupyter_sandbox.host.kernel_sockets import Listeners
from sandbox_worker import protocol

if TYPE_CHECKING:
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.host.places import Places


async def stand_by(sandbox: Sandbox, places: Places) -> None:
    """Get the first kernel of a warm worker ready; raises StartError, and the worker is of no more use."""
    try:
        sandbox.standby = Listeners(places.kernel_sockets(ids.standby_seat(sandbox.id)), None)
    except OSError as error:
        raise StartError(f"the sockets of the first kernel of {sandbox.id} cannot be made: {error}") from error
    request = protocol.StandBy(uid=sandbox.worker.inner_uid, rlimits=sandbox.worker.rlimits())
    await sandbox.reach().ask(request, protocol.StandingBy, sandbox.standby.descriptors())


async def start(
    sandbox: Sandbox, seat: ids.KernelSeat, request: verbs.Kernel, places: Places, owner: int | None
) -> verbs.KernelStarted:
    """Start the kernel of `seat` for clients of uid `owner`, None for our own.

    Raises SandboxError, leaving no socket behind. Who is cancelled leaves a kernel that has started where it is.
    """
    return await tasks.whole(_start(sandbox, seat, request, places, owner))


async def _start(
    sandbox: Sandbox, seat: ids.KernelSeat, request: verbs.Kernel, places: Places, owner: int | None
) -> verbs.KernelStarted:
    prefix = places.kernel_sockets(seat)
    start = protocol.StartKernel(
        kernel=seat,
        argv=sandbox.command_of(request),
        env=dict(sandbox.template.environment) | processes.environment(request.env),
        cwd=sandbox.cwd if request.cwd is None else processes.working_directory(request.cwd),
        prefix=str(prefix),
        key=request.key,
        curve=keys.curve(request.curve),
        standby=sandbox.standby is not None,
    )
    try:
        with contextlib.ExitStack() as undo:
            standby, sandbox.standby = sandbox.standby, None
            listeners = standby or Listeners(prefix, owner)
            undo.callback(listeners.remove)
            if standby:
                sandbox.is_handed_over = True
                undo.callback(setattr, sandbox, "is_handed_over", False)
            sandbox.kernels[seat] = sandbox.worker.out_of_memory_kills()
            sandbox.ending.discard(seat)
            undo.callback(sandbox.kernels.pop, seat, None)
            await sandbox.reach().ask(start, protocol.Started, listeners.descriptors())
            if standby:
                listeners.move(prefix, owner)
                sandbox.is_handed_over = False
            undo.pop_all()
    except OSError as error:
        raise StartError(f"the sockets of kernel {seat} cannot be made: {error}") from error
    listeners.close()
    return verbs.KernelStarted(prefix=str(prefix), is_forked=start.argv is None)
