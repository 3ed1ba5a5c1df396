"""The rows of the table of operations that are about commands."""

from __future__ import annotations

from typing import Final

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.native import command_answers, command_models, models
from jupyter_sandbox.surfaces.native.answers import ROOT
from jupyter_sandbox.surfaces.native.operation import Operation

_COMMANDS: Final = f"{ROOT}/{{sandbox_id}}/commands"
_COMMAND: Final = f"{_COMMANDS}/{{command_id}}"


def rows(times: models.Times) -> tuple[Operation, ...]:
    """Return them; `times` are the bounds of this server."""
    return (
        Operation(
            name="list_commands",
            method="GET",
            path=_COMMANDS,
            summary="The commands of a sandbox that run, and the detached ones that are kept.",
            serve=command_answers.list_commands,
            model="Commands",
            resource="kernels",
            refusals=(errors.UnknownSandboxError,),
        ),
        Operation(
            name="start_command",
            method="POST",
            path=_COMMANDS,
            summary="Run a program. Answers when it has ended; as it writes, with Accept; at once, if it is detached.",
            serve=command_answers.start_command,
            model="Command",
            resource="kernels",
            action="execute",
            body=command_models.new_command(times),
            streams=True,
            others={202: "Command"},
            refusals=(
                errors.UnknownSandboxError,
                errors.ConflictError,
                errors.SandboxPausedError,
                errors.BusyError,
                errors.CapacityError,
                errors.StartError,
            ),
        ),
        Operation(
            name="get_command",
            method="GET",
            path=_COMMAND,
            summary="A command that runs, or a detached one; with Accept what it wrote and writes, from many clients.",
            serve=command_answers.get_command,
            model="Command",
            resource="kernels",
            query=command_models.WAIT,
            streams=True,
            refusals=(errors.UnknownCommandError,),
        ),
        Operation(
            name="write_to_command",
            method="POST",
            path=f"{_COMMAND}/stdin",
            summary="Give a command something to read, or the end. Does not wait until it has read that.",
            serve=command_answers.write_to_command,
            status=204,
            resource="kernels",
            action="execute",
            body=command_models.INPUT,
            refusals=(errors.UnknownCommandError, errors.ConflictError, errors.SandboxPausedError, errors.BusyError),
        ),
        Operation(
            name="signal_command",
            method="POST",
            path=f"{_COMMAND}/signal",
            summary="Signal a command and its children. Quiet when it has ended.",
            serve=command_answers.signal_command,
            status=204,
            resource="kernels",
            action="execute",
            body=command_models.SIGNAL,
            refusals=(errors.UnknownCommandError, errors.SandboxPausedError),
        ),
        Operation(
            name="resize_command",
            method="POST",
            path=f"{_COMMAND}/resize",
            summary="Give the terminal of a command another size. Quiet when it has ended.",
            serve=command_answers.resize_command,
            status=204,
            resource="kernels",
            action="execute",
            body=command_models.SIZE,
            refusals=(errors.UnknownCommandError, errors.ConflictError, errors.SandboxPausedError),
        ),
    )
