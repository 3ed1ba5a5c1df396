"""What REST operations on commands answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from jupyter_sandbox.host.tasks import as_long_as_asked
from jupyter_sandbox.surfaces.native import command_models
from jupyter_sandbox.surfaces.native.answers import ROOT, Answer
from jupyter_sandbox.web import Form

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_sandbox.command import Command, Follower
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.answers import Call


async def start_command(services: Services, call: Call) -> Answer:
    """A command that has ended, or its events, or one that goes on by itself."""
    command, follower = await as_long_as_asked(call.when_gone, _begin(services, call))
    if command.wanted.detached:
        model = command_models.command_with_output(command.view())
        return Answer(model=model, location=_location(command), status=202)
    call.when_gone(command.cancel)
    if follower is not None:
        return _followed(call, command, follower)
    return Answer(model=command_models.command_with_output(await command.ended()), location=_location(command))


async def _begin(services: Services, call: Call) -> tuple[Command, Follower | None]:
    """Start a command; who follows it does so before its first byte is read."""
    (sandbox_id,) = call.ids
    command = await services.commands.start(call.owner, sandbox_id, call.body)
    is_followed = call.form is not Form.JSON and not command.wanted.detached
    return command, command.follow() if is_followed else None


async def list_commands(services: Services, call: Call) -> Answer:
    """The commands that are known."""
    found = services.commands.all_in(call.owner, *call.ids)
    return Answer(model={"commands": [command_models.command(view) for view in found]})


async def get_command(services: Services, call: Call) -> Answer:
    """One command, or its events: those that are kept and those that come."""
    command = services.commands.get(call.owner, *call.ids)
    if call.form is not Form.JSON:
        return _followed(call, command, command.follow())
    if call.query.wait_s:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(call.query.wait_s):
                await as_long_as_asked(call.when_gone, command.ended())
    return Answer(model=command_models.command_with_output(command.view()))


async def write_to_command(services: Services, call: Call) -> Answer:
    """Nothing; it reads that when it likes."""
    command = services.commands.get(call.owner, *call.ids)
    services.commands.write(command, call.body.data, close=call.body.close)
    return Answer()


async def signal_command(services: Services, call: Call) -> Answer:
    """Nothing."""
    command = services.commands.get(call.owner, *call.ids)
    await services.commands.signal(command, call.body["signal"])
    return Answer()


async def resize_command(services: Services, call: Call) -> Answer:
    """Nothing."""
    command = services.commands.get(call.owner, *call.ids)
    await services.commands.resize(command, call.body)
    return Answer()


def _followed(call: Call, command: Command, follower: Follower) -> Answer:
    call.when_gone(follower.close)
    return Answer(events=_lines(command, follower), location=_location(command))


async def _lines(command: Command, follower: Follower) -> AsyncGenerator[dict[str, Any], None]:
    try:
        yield {"type": "started", "command": command_models.command(command.view(with_output=False))}
        async for event in command_models.events(aiter(follower)):
            yield event
        yield {"type": "ended", "command": command_models.command(command.view(with_output=False))}
    finally:
        follower.close()


def _location(command: Command) -> str:
    return f"{ROOT}/{command.sandbox_id}/commands/{command.id}"
