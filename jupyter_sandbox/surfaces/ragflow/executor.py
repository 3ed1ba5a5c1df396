"""Runs programs, each in a sandbox of its own: claims it, brings the files, waits for the end, and looks what is there.

What comes back from a sandbox is judged here by size and kind, and by `models` and `artifacts` for what it says. It
knows no HTTP.
"""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from traitlets import Float, Unicode
from traitlets.config import Configurable

from jupyter_sandbox.errors import (
    ConflictError,
    FileChangedError,
    FileConflictError,
    FileRefusedError,
    FileTooLargeError,
    ProgramMissingError,
    UnknownFileError,
)
from jupyter_sandbox.host import tasks
from jupyter_sandbox.sandbox import Claim
from jupyter_sandbox.surfaces.ragflow import artifacts, models, programs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from jupyter_sandbox.command import Command, NewCommand
    from jupyter_sandbox.host.beneath import Entry
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.ragflow.artifacts import Artifact
    from jupyter_sandbox.surfaces.ragflow.models import Outcome
    from jupyter_sandbox.surfaces.ragflow.programs import Program

SEND_S: Final = 60
"""How long a client may take for an answer that has artifacts."""
_SPARE_S: Final = SEND_S + 60
"""How long a sandbox would stay, beyond the time of its program, if nobody released it."""
_NO_FILE: Final = (UnknownFileError, FileConflictError, FileRefusedError)
"""What was there is gone, or is something else: the program did that."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A program that has ended, in its sandbox."""

    sandbox_id: str
    outcome: Outcome
    artifacts: tuple[Artifact, ...] = ()


class RagflowExecutor(Configurable):
    """The executor of one server."""

    timeout_s = Float(
        10, min=0.1, max=600, help="When a program that RAGFlow sends is killed, seconds. RAGFlow must wait longer."
    ).tag(config=True)
    template = Unicode("python", help="The template of the sandboxes in which RAGFlow's programs run.").tag(config=True)

    def __init__(self, services: Services, **kwargs: object) -> None:
        """`services`: those of the server."""
        super().__init__(**kwargs)
        self._services = services

    @contextlib.asynccontextmanager
    async def running(self, owner: Owner, program: Program) -> AsyncIterator[Run]:
        """Run a program to its end, and hold its sandbox until this is left, however it is. Raises SandboxError."""
        sandboxes = self._services.sandboxes
        async with contextlib.AsyncExitStack() as undo:
            claim = Claim(template=self.template, timeout_s=self.timeout_s + _SPARE_S)
            claiming = sandboxes.claim(owner, claim)
            sandbox = await tasks.take(undo, claiming, lambda view: sandboxes.release(owner, view.id))
            await self._bring(sandbox.id, program)
            command = await self._start(owner, sandbox.id, programs.command(program.language, self.timeout_s))
            undo.callback(command.cancel)
            outcome = models.outcome(await command.ended(), self.timeout_s)
            if outcome.status is models.Status.SUCCESS:
                outcome = await self._with_result(sandbox.id, outcome)
            yield await self._look(sandbox.id, outcome)

    async def _bring(self, sandbox_id: str, program: Program) -> None:
        files = self._services.files
        await files.make_directory(sandbox_id, programs.ARTIFACTS, parents=True)
        for path, content in programs.files(program).items():
            await files.write(sandbox_id, path, _blocks(content))

    async def _start(self, owner: Owner, sandbox_id: str, wanted: NewCommand) -> Command:
        """Start the interpreter; raises ProgramMissingError when the sandbox has none."""
        try:
            return await self._services.commands.start(owner, sandbox_id, wanted)
        except ConflictError as error:
            raise (error.__cause__ if isinstance(error.__cause__, ProgramMissingError) else error) from None

    async def _with_result(self, sandbox_id: str, outcome: Outcome) -> Outcome:
        """Return the outcome with what `main` returned; without anything when the program ended before it returned."""
        try:
            async with self._services.files.reading(sandbox_id, programs.RESULT) as reading:
                if reading.size > programs.MAX_RESULT_BYTES:
                    raise FileTooLargeError(f"it has more than {programs.MAX_RESULT_BYTES} bytes")
                data = b"".join([block async for block in reading])
        except UnknownFileError:
            return outcome
        except (*_NO_FILE, FileChangedError, FileTooLargeError) as error:
            return models.without_result(outcome, str(error))
        return models.with_result(outcome, data)

    async def _look(self, sandbox_id: str, outcome: Outcome) -> Run:
        """Look for artifacts, if the program succeeded."""
        if outcome.status is not models.Status.SUCCESS:
            return Run(sandbox_id=sandbox_id, outcome=outcome)
        inside, beside = [await self._entries(sandbox_id, place) for place in (programs.ARTIFACTS, programs.WORK)]
        chosen, left_out = artifacts.choose(inside, beside)
        if left_out:
            outcome = replace(outcome, detail=f"{left_out} files are no artifacts: {artifacts.RULE}")
        return Run(sandbox_id=sandbox_id, outcome=outcome, artifacts=chosen)

    async def _entries(self, sandbox_id: str, path: str) -> tuple[Entry, ...]:
        """Return what is in a directory, or the first thousand of it by name."""
        try:
            return (await self._services.files.listing(sandbox_id, path)).entries
        except _NO_FILE:
            return ()

    async def contents(self, run: Run) -> AsyncGenerator[str, None]:
        """Yield the artifacts of a run as JSON, piece by piece, with commas between them. Raises SandboxError."""
        comma = ""
        for artifact in run.artifacts:
            yield comma + models.artifact_head(artifact)
            reading = self._services.files.reading(run.sandbox_id, artifact.path, size=artifact.size_bytes)
            async with reading as blocks:
                rest = b""
                async for block in blocks:
                    data = rest + block
                    whole = len(data) - len(data) % 3  # three bytes are four characters
                    rest = data[whole:]
                    yield base64.b64encode(data[:whole]).decode()
            yield base64.b64encode(rest).decode() + models.ARTIFACT_TAIL
            comma = ","


async def _blocks(content: bytes) -> AsyncIterator[bytes]:
    yield content
