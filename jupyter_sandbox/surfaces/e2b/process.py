"""`process.Process`: commands of a sandbox, by their pid or by a tag that the client gave them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.command import CommandState, NewCommand
from jupyter_sandbox.command_output import Stream
from jupyter_sandbox.errors import InvalidRequestError, UnknownCommandError
from jupyter_sandbox.events import CommandOutcome
from jupyter_sandbox.surfaces.e2b import connect, keepalives, words
from jupyter_sandbox.surfaces.e2b.rpc import CallHandler
from sandbox_worker.protocol import TerminalSize

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_sandbox.command import Command, CommandEnd

KEEPALIVE_S: Final = 15.0
_MAX_OUTPUT: Final = 1 << 20
_SIGNALS: Final = {"SIGNAL_SIGKILL": "SIGKILL", "SIGNAL_SIGTERM": "SIGTERM"}
_KILLED_S: Final = 5.0
_FIELDS: Final = {Stream.STDOUT: "stdout", Stream.STDERR: "stderr", Stream.TERMINAL: "pty"}
_KEEPALIVE: Final[dict[str, Any]] = {"event": {"keepalive": {}}}
_NOT_FOUND: Final = "process with this pid or tag not found"


class ProcessHandler(CallHandler):
    """Base of the methods."""

    operation = "start_command"
    gave_its_time = False
    """Whether who asks gave the command its time: to it, the end of that is no end of a command."""

    def found(self, message: dict[str, Any]) -> Command:
        """Return the command that a message means; raises UnknownCommandError."""
        meant = message.get("process")
        if isinstance(meant, dict):
            known = reversed(self.services.commands.all_in(self.box.owner, self.box.sandbox_id))
            for view in sorted(known, key=lambda each: each.state is not CommandState.RUNNING):  # pids come again
                has_tag = view.wanted.tag is not None and view.wanted.tag == meant.get("tag")
                if has_tag or view.pid == meant.get("pid"):
                    return self.services.commands.get(self.box.owner, self.box.sandbox_id, view.id)
        raise UnknownCommandError(_NOT_FOUND)

    def running(self, message: dict[str, Any]) -> Command:
        """Return the command that a message means, if it runs; raises UnknownCommandError."""
        command = self.found(message)
        if command.is_over:
            raise UnknownCommandError(_NOT_FOUND)
        return command

    async def followed(self, command: Command) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what a command says, from what is kept of it to its end; raises TimeIsOverError."""
        follower = command.follow()
        try:
            yield {"event": {"start": {"pid": command.pid}}}
            async for piece in follower:
                data = base64.b64encode(piece.data).decode()
                yield {"event": {"data": {_FIELDS[piece.stream]: data}}}
            view = await command.ended()
            if view.end is not None:
                if self.gave_its_time and view.end.outcome is CommandOutcome.TIMEOUT:
                    raise connect.TimeIsOverError
                yield {"event": {"end": _end(view.end)}}
        finally:
            follower.close()


class _StreamHandler(ProcessHandler):
    """Base of the methods that answer what a command says: a subclass has `begun`."""

    streams = True

    async def events(self, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what the command says."""
        command = await self.begun(message)
        every_s = keepalives.interval_s(self.request.headers.get(keepalives.HEADER), KEEPALIVE_S)
        events = keepalives.with_keepalives(self.followed(command), _KEEPALIVE, every_s)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def begun(self, message: dict[str, Any]) -> Command:
        """Return the command; raises SandboxError."""
        raise NotImplementedError


class StartHandler(_StreamHandler):
    """`Start`."""

    gave_its_time = True

    async def begun(self, message: dict[str, Any]) -> Command:
        """Start a command. It goes on when its client hangs up."""
        wanted = _wanted(message, connect.timeout_s(self.request.headers.get(connect.TIMEOUT_HEADER)))
        return await self.services.commands.start(self.box.owner, self.box.sandbox_id, wanted)


class FollowHandler(_StreamHandler):
    """`Connect`."""

    async def begun(self, message: dict[str, Any]) -> Command:
        """Return a command that is known."""
        return self.found(message)


class ListHandler(ProcessHandler):
    """`List`."""

    action = "read"

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the commands that run."""
        del message
        views = self.services.commands.all_in(self.box.owner, self.box.sandbox_id)
        return {"processes": [_listed(view) for view in views if view.state is CommandState.RUNNING]}


class SendInputHandler(ProcessHandler):
    """`SendInput`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Give a command something to read."""
        self.services.commands.write(self.found(message), given(message))
        return {}


class CloseStdinHandler(ProcessHandler):
    """`CloseStdin`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Give a command nothing more to read."""
        self.services.commands.write(self.found(message), b"", close=True)
        return {}


class SendSignalHandler(ProcessHandler):
    """`SendSignal`. Whoever is told that a command was killed finds it gone, unless the host takes very long."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Signal a command; wait for the end of one that is killed."""
        name = _SIGNALS.get(str(message.get("signal")))
        if name is None:
            raise InvalidRequestError(f"signal is one of {', '.join(_SIGNALS)}")
        command = self.running(message)
        await self.services.commands.signal(command, name)
        if name == "SIGKILL":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILLED_S):
                    await command.ended()
        return {}


class UpdateHandler(ProcessHandler):
    """`Update`."""

    async def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Give a command's terminal another size."""
        await self.services.commands.resize(self.found(message), _size(message.get("pty")))
        return {}


METHODS: Final[dict[str, type[CallHandler]]] = {
    "Start": StartHandler,
    "Connect": FollowHandler,
    "List": ListHandler,
    "SendInput": SendInputHandler,
    "CloseStdin": CloseStdinHandler,
    "SendSignal": SendSignalHandler,
    "Update": UpdateHandler,
}


def _wanted(message: dict[str, Any], timeout_s: float | None) -> NewCommand:
    process, terminal = message.get("process"), message.get("pty")
    if not isinstance(process, dict) or not isinstance(process.get("cmd"), str):
        raise InvalidRequestError("process.cmd must be a text")
    arguments, variables, cwd = process.get("args", []), process.get("envs", {}), process.get("cwd")
    tag = message.get("tag")
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise InvalidRequestError("process.args must be a list of texts")
    if not isinstance(variables, dict) or not all(isinstance(each, str) for each in variables.values()):
        raise InvalidRequestError("process.envs must be an object of texts")
    return NewCommand(
        argv=(process["cmd"], *arguments),
        cwd=words.whole_path(cwd if isinstance(cwd, str) else ""),
        env=variables,
        timeout_s=timeout_s or None,
        max_output_bytes=_MAX_OUTPUT,
        terminal=None if terminal is None else _size(terminal),
        with_input=message.get("stdin", True) is not False,
        detached=True,
        tag=tag[:64] if isinstance(tag, str) and tag else None,
    )


def _size(value: object) -> TerminalSize:
    size = value.get("size") if isinstance(value, dict) else None
    if not isinstance(size, dict) or type(size.get("rows")) is not int or type(size.get("cols")) is not int:
        raise InvalidRequestError("pty.size has rows and cols")
    return TerminalSize(rows=size["rows"], columns=size["cols"])


def given(message: dict[str, Any]) -> bytes:
    """Return what a message gives a command to read; raises InvalidRequestError."""
    value = message.get("input")
    text = (value.get("stdin") or value.get("pty")) if isinstance(value, dict) else None
    try:
        return base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError:
        raise InvalidRequestError("input is base64") from None


def _end(end: CommandEnd) -> dict[str, Any]:
    if end.exit_code is not None:
        status = f"exit status {end.exit_code}"
        told = {"exitCode": end.exit_code, "exited": True, "status": status}
        return told | ({"error": status} if end.exit_code else {})
    status = f"signal: {end.signal or end.message or end.outcome}"
    return {"exitCode": -1, "exited": False, "status": status, "error": status}


def _listed(view: Any) -> dict[str, Any]:
    command, *arguments = view.wanted.argv
    config = {"cmd": command, "args": arguments, "envs": {}} | ({"cwd": view.wanted.cwd} if view.wanted.cwd else {})
    return {"config": config, "pid": view.pid} | ({"tag": view.wanted.tag} if view.wanted.tag else {})
