"""Commands of a sandbox: each belongs to the connection that asked for it, which is told its end, and is its end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import verbs
from jupyter_sandbox.broker.sandbox import Command
from jupyter_sandbox.errors import CapacityError, ProtocolError, StartError
from jupyter_sandbox.guards import ids, processes
from jupyter_sandbox.host import tasks
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jupyter_sandbox.broker.sandbox import Holder, Sandbox

MAX_COMMANDS: Final = 128
"""Of one sandbox, at the same time; its processes are limited as well."""
_MAX_PID: Final = 1 << 22
_MIN_STATUS, _MAX_STATUS = -64, 255


async def run(
    sandbox: Sandbox, request: verbs.RunCommand, descriptors: Sequence[int], tell: Holder
) -> verbs.CommandStarted:
    """Run a command and `tell` its end, maybe before this returns. Raises SandboxError."""
    command = ids.new_command_id()
    start = protocol.StartCommand(
        command=command,
        argv=processes.argv(request.argv),
        env=dict(sandbox.template.environment) | processes.environment(request.env),
        cwd=sandbox.cwd if request.cwd is None else processes.working_directory(request.cwd),
        terminal=None if request.terminal is None else processes.terminal_size(request.terminal),
    )
    if len(descriptors) != (3 if request.terminal is None else 2):
        raise StartError("a command needs standard input, output and error, or what is typed and what is shown")
    if len(sandbox.commands) >= MAX_COMMANDS:
        raise CapacityError(f"{MAX_COMMANDS} commands run in sandbox {sandbox.id}", retry_after_s=1)
    sandbox.commands[command] = Command(tell=tell, kills_before=sandbox.worker.out_of_memory_kills())
    try:
        started = await tasks.whole(_start(sandbox, start, descriptors))
    except asyncio.CancelledError:  # it may run by now, and nobody will hear of it
        await end(sandbox, command)
        raise
    return verbs.CommandStarted(command=command, pid=started.pid)


async def _start(sandbox: Sandbox, start: protocol.StartCommand, descriptors: Sequence[int]) -> protocol.Started:
    try:
        started = await sandbox.reach().ask(start, protocol.Started, descriptors)
        if not 0 < started.pid <= _MAX_PID:
            raise ProtocolError(f"the agent of {sandbox.id} has no such process")
    except BaseException:
        sandbox.commands.pop(start.command, None)
        raise
    return started


async def resize(sandbox: Sandbox, request: verbs.ResizeTerminal) -> None:
    """Give the terminal of a command another size; quiet when it has ended."""
    size = processes.terminal_size(request.size)
    if request.command in sandbox.commands:
        await sandbox.reach().tell(protocol.Resize(target=request.command, size=size))


async def end(sandbox: Sandbox, command: str) -> None:
    """Kill a command whose connection has gone; quiet when it, or its sandbox, has ended."""
    if command in sandbox.commands:
        await sandbox.kill(command)


async def end_orphans(sandbox: Sandbox, orphans: Iterable[str]) -> None:
    """Kill the commands that a dead broker left: their connections ended with it."""
    for command in orphans:
        sandbox.commands[command] = Command(tell=lambda _: None, kills_before=0)
        await end(sandbox, command)


def ended(sandbox: Sandbox, exited: protocol.Exited) -> None:
    """Tell who asked for it that a command ended. Raises ProtocolError when it was never started, or never so ended."""
    command = sandbox.commands.get(exited.target)
    if command is None:
        raise ProtocolError("it says that something ended which was never started")
    if not _MIN_STATUS <= exited.status <= _MAX_STATUS:
        raise ProtocolError("it says that a command ended as no process does")
    del sandbox.commands[exited.target]
    told = sandbox.end_of(exited, command.kills_before, "command")
    sandbox.ending.discard(exited.target)
    command.tell(told)


def lost(sandbox: Sandbox, message: str) -> None:
    """Tell the end of every command that still runs: there is no sandbox any more."""
    for name, command in sandbox.commands.items():
        command.tell(
            verbs.ProcessExited(sandbox=sandbox.id, target=name, status=-signal.SIGKILL, reason="lost", message=message)
        )
    sandbox.commands.clear()
