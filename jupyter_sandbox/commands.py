"""Commands: processes in a sandbox outside any kernel, each with an end that does not depend on its own word.

What is over is killed, with all of its process group, and not waited for beyond a grace. Processes that left the group
stay until their sandbox ends or nothing else runs in it. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import events, kept
from jupyter_sandbox.broker import verbs
from jupyter_sandbox.broker.running import RunningCommand
from jupyter_sandbox.command import Command, CommandEnd, CommandView, end_of
from jupyter_sandbox.command_output import Stream
from jupyter_sandbox.errors import (
    BusyError,
    ConflictError,
    InvalidRequestError,
    ProgramMissingError,
    UnknownCommandError,
)
from jupyter_sandbox.events import CommandOutcome
from jupyter_sandbox.guards import processes
from jupyter_sandbox.host import pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_sandbox.command import NewCommand
    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandbox import Sandbox
    from jupyter_sandbox.sandboxes import Sandboxes
    from sandbox_worker.protocol import TerminalSize

MAX_INPUT_BYTES: Final = pipes.MAX_PENDING_BYTES
"""Of what a command has not read yet."""
_PACE_S: Final = 0.004
"""After each block of a command that nobody follows: its output costs us little, however much it is."""
_TERMINAL_ENVIRONMENT: Final = {"TERM": "xterm-256color"}
_DIED: Final = "The broker went away, and the command with it."

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CommandBounds:
    """What commands may take. `grace_s`: from when one is killed to its end in any case.

    `max_running`: in one sandbox. `max_kept`, `max_kept_bytes`: detached commands of one owner that are over and may
    still be fetched; the oldest are forgotten.
    """

    grace_s: float = 0.7
    max_running: int = 32
    max_kept: int = 100
    max_kept_bytes: int = 32 << 20


class _Attendant:
    """Attends a command that runs: carries its bytes, and sees to its end."""

    def __init__(self, command: Command, running: RunningCommand, grace_s: float) -> None:
        self.command, self.running, self._grace_s = command, running, grace_s
        self._sources = {
            stream: pipes.Source(descriptor, self._taker(stream), self._pacer(stream))
            for stream, descriptor in zip(command.tails, running.outputs, strict=True)
        }
        self.sink = None if running.input is None else pipes.Sink(running.input, running.close_input)
        command.on_room = self._resume

    async def attend(self) -> CommandEnd:
        """Wait for its end or cause it, and return it. Leaves nothing behind."""
        told = asyncio.create_task(self.running.ended(), name=f"end of {self.command.id}")
        try:
            return await self._see(told)
        except Exception:
            log.exception("command %s failed inside", self.command.id)
            return CommandEnd(outcome=CommandOutcome.DIED, message="The server failed inside; its log says more.")
        finally:
            told.cancel()
            await asyncio.wait([told])
            for source in self._sources.values():
                source.stop()
            if self.sink is not None:
                self.sink.close()
            self.running.close()

    async def _see(self, told: asyncio.Task[verbs.ProcessExited | None]) -> CommandEnd:
        unwanted = asyncio.create_task(self.command.is_cancelled.wait(), name=f"wish to end {self.command.id}")
        try:
            wanted = self.command.wanted
            await asyncio.wait([told, unwanted], timeout=wanted.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwanted.cancel()
        is_late = not told.done() and not self.command.is_cancelled.is_set()
        if not told.done():
            await self.running.signal(signal.SIGKILL)
            await asyncio.wait([told], timeout=self._grace_s)
        exited = told.result() if told.done() else None
        for stream, source in self._sources.items():
            await source.finish(is_terminal=stream is Stream.TERMINAL)
        if is_late and (exited is None or exited.status == -signal.SIGKILL):  # else it was faster
            return CommandEnd(outcome=CommandOutcome.TIMEOUT, signal="SIGKILL", message="Its time was over.")
        if exited is None and self.command.is_cancelled.is_set():
            return CommandEnd(outcome=CommandOutcome.SIGNALLED, signal="SIGKILL", message="It was not waited for.")
        if exited is None or exited.reason == "lost":
            return CommandEnd(outcome=CommandOutcome.DIED, message=exited.message if exited else _DIED)
        return end_of(exited.status, exited.message, is_out_of_memory=exited.reason == "memory")

    def _resume(self) -> None:
        for stream, source in self._sources.items():
            if not self.command.is_held_up(stream):
                source.resume()

    def _taker(self, stream: Stream) -> Callable[[bytes], None]:
        return lambda data: self.command.put(stream, data)

    def _pacer(self, stream: Stream) -> Callable[[], float | None]:
        def pause_s() -> float | None:
            if self.command.is_held_up(stream):
                return None
            return 0 if self.command.is_followed() else _PACE_S

        return pause_s


class Commands:
    """The commands of one server."""

    def __init__(self, sandboxes: Sandboxes, bounds: CommandBounds, emit: Emit = events.ignore) -> None:
        """Start with none."""
        self._sandboxes, self.bounds, self._emit = sandboxes, bounds, emit
        self._known: collections.OrderedDict[str, Command] = collections.OrderedDict()
        self._attendants: dict[str, _Attendant] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._starting: collections.Counter[str] = collections.Counter()

    async def start(self, owner: Owner, sandbox_id: str, wanted: NewCommand) -> Command:
        """Start a command. Raises SandboxError; BusyError when as many run in the sandbox as may run."""
        sandbox = self._sandboxes.find_running(owner, sandbox_id)
        request = _request(sandbox, wanted)
        living = sum(each.command.sandbox_id == sandbox.id for each in self._attendants.values())
        if living + self._starting[sandbox.id] >= self.bounds.max_running:
            raise BusyError(f"{self.bounds.max_running} commands run in sandbox {sandbox.id}", retry_after_s=1)
        self._starting[sandbox.id] += 1
        try:
            running = await RunningCommand.start(request, with_input=wanted.with_input or wanted.terminal is not None)
        except ProgramMissingError as error:
            raise ConflictError(str(error)) from error
        finally:
            self._starting[sandbox.id] -= 1
            self._starting += collections.Counter()  # keeps those that are more than 0
        shown = dataclasses.replace(wanted, env={})
        command = Command(running.id, running.pid, owner, sandbox.id, shown)
        attendant = _Attendant(command, running, self.bounds.grace_s)
        self._known[command.id], self._attendants[command.id] = command, attendant
        self._tasks[command.id] = asyncio.create_task(self._attend(attendant), name=f"command {command.id}")
        self._emit(command.start_event())
        return command

    def get(self, owner: Owner, sandbox_id: str, command_id: str) -> Command:
        """Return a command that runs, or a detached one that is kept; raises UnknownCommandError.

        A detached command can be fetched after its sandbox is gone.
        """
        command = self._known.get(command_id)
        if command is None or command.owner != owner or command.sandbox_id != sandbox_id:
            raise UnknownCommandError(f"no command {command_id[:60]!r}; only detached ones are kept, for a while")
        return command

    def all_in(self, owner: Owner, sandbox_id: str) -> list[CommandView]:
        """Return the commands of a sandbox that are known, oldest first; raises UnknownSandboxError without it."""
        sandbox = self._sandboxes.find(owner, sandbox_id)
        return [
            each.view(with_output=False)
            for each in self._known.values()
            if each.owner == owner and each.sandbox_id == sandbox.id
        ]

    def write(self, command: Command, data: bytes, *, close: bool = False) -> None:
        """Give it something to read, and then the end if `close`. Does not wait until it has read that.

        Raises ConflictError when it reads nothing any more, or never did; BusyError when too much waits for it.
        """
        sink = self._sink(command)
        if close and command.wanted.terminal is not None:
            raise ConflictError("what is typed at a terminal has no end; type Ctrl-D, which is \\u0004")
        if len(data) > MAX_INPUT_BYTES:
            raise InvalidRequestError(f"at most {MAX_INPUT_BYTES} bytes at once are taken")
        if len(data) > sink.room:
            raise BusyError(f"command {command.id} has not read what was written before", retry_after_s=1)
        sink.put(data)
        if close:
            sink.end()

    async def feed(self, command: Command, data: bytes) -> None:
        """Give it something to read, however much: wait while it does not read. Raises ConflictError as `write`."""
        rest = data
        while rest:
            sink = self._sink(command)
            await sink.has_room()
            part, rest = rest[: sink.room], rest[sink.room :]
            self.write(command, part)
            await asyncio.sleep(0)

    async def signal(self, command: Command, name: str) -> None:
        """Signal its process group, by the signal's name. Quiet when it has ended."""
        if command.id in self._attendants:
            self._require_running(command)
            await self._attendants[command.id].running.signal(processes.signal_named(name))

    async def resize(self, command: Command, size: TerminalSize) -> None:
        """Give its terminal another size; raises ConflictError when it has none. Quiet when it has ended."""
        if command.wanted.terminal is None:
            raise ConflictError(f"command {command.id} has no terminal")
        if command.id in self._attendants:
            self._require_running(command)
            await self._attendants[command.id].running.resize(processes.terminal_size(size))

    def in_use(self) -> Iterator[str]:
        """Yield the sandboxes in which commands run that have a time."""
        running = (attendant.command for attendant in self._attendants.values())
        return (command.sandbox_id for command in running if command.wanted.timeout_s is not None)

    async def stop(self) -> None:
        """End what runs."""
        for attendant in self._attendants.values():
            attendant.command.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=2 * self.bounds.grace_s + pipes.REST_S)

    def _require_running(self, command: Command) -> None:
        """Raise SandboxPausedError for a command that can do nothing now."""
        self._sandboxes.find_running(command.owner, command.sandbox_id)

    def _sink(self, command: Command) -> pipes.Sink:
        """Return what its input is written into; raises ConflictError when it reads nothing any more, or never did."""
        sink = self._attendant(command).sink
        self._require_running(command)
        if sink is None or sink.is_closed:
            raise ConflictError(f"command {command.id} does not read its standard input")
        return sink

    def _attendant(self, command: Command) -> _Attendant:
        attendant = self._attendants.get(command.id)
        if attendant is None:
            raise ConflictError(f"command {command.id} has ended")
        return attendant

    async def _attend(self, attendant: _Attendant) -> None:
        command, bounds = attendant.command, self.bounds
        end = await attendant.attend()
        del self._attendants[command.id], self._tasks[command.id]  # before anybody hears of it: there is room again
        command.end(end)
        self._emit(command.end_event(end))
        kept.settle(self._known, command, max_kept=bounds.max_kept, max_kept_bytes=bounds.max_kept_bytes)


def _request(sandbox: Sandbox, wanted: NewCommand) -> verbs.RunCommand:
    """Judge what is wanted and return how the broker is asked for it."""
    usual = _TERMINAL_ENVIRONMENT if wanted.terminal is not None else {}
    claimed = sandbox.claim.env if sandbox.claim else {}
    return verbs.RunCommand(
        sandbox=sandbox.id,
        argv=processes.argv(wanted.argv),
        env=processes.environment(usual | claimed | wanted.env),
        cwd=None if wanted.cwd is None else processes.working_directory(wanted.cwd),
        terminal=None if wanted.terminal is None else processes.terminal_size(wanted.terminal),
    )
