"""Tornado handlers of the code interpreter's API: they judge a request, call the services, and answer in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_server.base.handlers import JupyterHandler
from traitlets import Float, Int, Unicode
from traitlets.config import Configurable

from jupyter_sandbox import errors
from jupyter_sandbox.errors import BusyError, InvalidRequestError, SandboxError, UnknownSandboxError
from jupyter_sandbox.execution import NewExecution
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.file_transfers import Item
from jupyter_sandbox.host import tasks
from jupyter_sandbox.named_sandboxes import NewNamedSandbox, is_ruined
from jupyter_sandbox.surfaces.interpreter import answers, models, page
from jupyter_sandbox.surfaces.keyed import KeyedHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_sandbox.file_transfers import Outcome as FileOutcome
    from jupyter_sandbox.named_sandboxes import NamedSandbox
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.interpreter.models import FileName, Problem

ROOT: Final = "/api/v1"
TOKEN_HEADER: Final = "X-Auth-Token"  # noqa: S105 - the name of a header
_MAX_CODE: Final = 16 << 20
"""In characters."""
_MAX_CODE_BODY: Final = 24 << 20
"""In bytes: characters may be of several, and code that is a little too long hears so as of any field.

Less than a message of a kernel may have, which repeats the code.
"""

Rule = tuple[str, type[JupyterHandler], dict[str, Any]]


class CodeInterpreter(Configurable):
    """Sessions of the code interpreter's API."""

    template = Unicode("python", help="The template of its sandboxes.").tag(config=True)
    idle_timeout_s = Float(3600, min=1, help="A session that nobody uses for so long is given back, seconds.").tag(
        config=True
    )
    execution_timeout_s = Float(
        120, min=0.1, help="Code that takes longer ends with its session, which the next use makes anew, seconds."
    ).tag(config=True)
    max_output_mib = Int(
        8, min=1, max=256, help="How much of the outputs of one execution is answered, MiB; more ends it."
    ).tag(config=True)
    max_file_mib = Int(100, min=1, help="The largest file that is brought from a URL, MiB.").tag(config=True)

    def session(self) -> NewNamedSandbox:
        """Return what a new session is."""
        return NewNamedSandbox(template=self.template, language="python", idle_s=self.idle_timeout_s)

    def execution(self, code: str) -> NewExecution:
        """Return what an execution is."""
        return NewExecution(code=code, timeout_s=self.execution_timeout_s, max_output_bytes=self.max_output_mib << 20)


class InterpreterHandler(KeyedHandler):
    """Base of the API's resources."""

    surface: CodeInterpreter
    open_to_pages = True
    key_header = TOKEN_HEADER
    problems: tuple[Problem, ...] = ()
    """What is wrong with the request's fields."""

    def authorization(self) -> str | None:
        """See KeyedHandler: this API knows one header, and no other way."""
        token = self.request.headers.get(TOKEN_HEADER)
        return f"token {token}" if token else None

    def refuse_stranger(self, error: SandboxError) -> None:
        """See KeyedHandler."""
        if self.request.headers.get(TOKEN_HEADER):
            self.refuse(errors.TokenError(answers.BAD_TOKEN), 401)
        else:
            self.problems = (models.missing("header", TOKEN_HEADER.lower()),)
            self.refuse(error)

    def refuse(self, error: SandboxError, status: int | None = None) -> None:
        """See ServiceHandler."""
        super().refuse(error, status or (422 if self.problems else answers.detail(error)[0]))

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return {"detail": self.problems or answers.detail(error)[1]}

    def user(self, problems: Sequence[Problem] = ()) -> str:
        """Return the name of the session that is meant; raises InvalidRequestError, with these other problems."""
        name, wrong = models.user(self.request.query_arguments.get("user_uuid", []))
        self.problems = (*wrong, *problems)[: models.MAX_PROBLEMS]
        if self.problems:
            raise InvalidRequestError(models.words(self.problems))
        return name

    async def may_enter(self, owner: Owner, name: str) -> NamedSandbox:
        """Return the session, made anew if who asks may make kernels."""
        try:
            return self.services.named.find(owner, name)
        except UnknownSandboxError:
            await self.owner("kernels", "write")
        return await self.services.named.enter(owner, name, self.surface.session())


class ExecuteHandler(InterpreterHandler):
    """`POST /execute`."""

    max_body_bytes = _MAX_CODE_BODY
    operation = "execute_code"

    async def on_post(self) -> None:
        """Run code in the user's session, and wait for its end."""
        owner = await self.owner("kernels", "execute")
        code, problems = models.code(self.body(), _MAX_CODE)
        name = self.user(problems)
        named = self.services.named
        session = await named.enter(owner, name, self.surface.session())
        view = await named.execute(session, self.surface.execution(code), self.when_gone)
        if is_ruined(view):
            raise errors.SandboxLostError("its code did not end in time, or its kernel died")
        if view.outcome in (Outcome.TIMEOUT, Outcome.DIED):
            raise BusyError(view.message or answers.NOT_RUN, retry_after_s=1)
        await self.answer_in_turn(200, answers.result(view) | {"worker_id": session.sandbox_id})


class ReleaseHandler(InterpreterHandler):
    """`POST /release`."""

    operation = "release_session"

    async def on_post(self) -> None:
        """End the user's session, its files and its kernel."""
        owner = await self.owner("kernels", "write")
        await self.services.named.release(owner, self.user())
        self.answer(204, None)


class StatusHandler(InterpreterHandler):
    """`GET /status`."""

    operation = "get_status"

    async def on_get(self) -> None:
        """Tell how many workers there are: those of who asks, and those that stand by."""
        owner = await self.owner("sandboxes", "read")
        report = await self.services.sandboxes.check()
        mine = sum(whose == owner for whose in self.services.sandboxes.whose().values())
        ours = next((each for each in report.workers if each.name == self.surface.template), None)
        warm, is_filling = (ours.warm, ours.is_filling) if ours else (0, False)
        self.answer(200, {"total_workers": mine + warm, "busy_workers": mine, "is_initializing": is_filling})


class FilesHandler(InterpreterHandler):
    """`POST /files` and `DELETE /files`."""

    operation = "transfer_files"

    async def on_post(self) -> None:
        """Bring files from URLs into the user's session, which is made if there is none."""
        owner = await self.owner("contents", "write")
        files, problems = models.uploads(self.body())
        session = await self.may_enter(owner, self.user(problems))
        limit = self.surface.max_file_mib << 20
        upload = self.services.transfers.upload(owner, session.sandbox_id, _items(files), max_bytes=limit)
        found = await tasks.as_long_as_asked(self.when_gone, upload)
        _settle("Upload", found)
        results = [
            {"full_path": each.full_path, "size": done.size_bytes} for each, done in zip(files, found, strict=True)
        ]
        self.answer(201, {"success": True, "results": results})

    async def on_delete(self) -> None:
        """Delete files of the user's session."""
        owner = await self.owner("contents", "write")
        files, problems = models.names(self.body())
        session = self.services.named.find(owner, self.user(problems))
        failed: list[SandboxError] = []
        for each in files:
            try:
                await self.services.files.delete(session.sandbox_id, each.full_path)
            except SandboxError as error:
                failed.append(error)
        _judge("Deletion", failed, len(files))
        self.answer(204, None)


class ExportHandler(InterpreterHandler):
    """`POST /files/export`."""

    operation = "export_files"

    async def on_post(self) -> None:
        """Send files of the user's session to URLs."""
        owner = await self.owner("contents", "read")
        files, problems = models.exports(self.body())
        session = self.services.named.find(owner, self.user(problems))
        export = self.services.transfers.export(owner, session.sandbox_id, _items(files))
        found = await tasks.as_long_as_asked(self.when_gone, export)
        _settle("Export", found)
        pairs = zip(files, found, strict=True)
        results = [{"path": each.path, "name": each.name, "size": done.size_bytes} for each, done in pairs]
        self.answer(200, {"success": True, "results": results})


class NowhereHandler(InterpreterHandler):
    """What is nothing below a resource of the API."""

    async def on_get(self) -> None:
        """There is nothing."""
        raise errors.UnknownRouteError("there is no such resource")

    on_post = on_delete = on_get


def rules(services: Services, interpreter: CodeInterpreter) -> list[Rule]:
    """Return the routes."""
    served: dict[str, type[KeyedHandler]] = {
        "execute": ExecuteHandler,
        "release": ReleaseHandler,
        "status": StatusHandler,
        "files": FilesHandler,
        "files/export": ExportHandler,
        "(?:execute|release|status|files)/.*": NowhereHandler,
    }
    arguments = {"services": services, "surface": interpreter}
    return [
        (page.ROUTE, page.PageHandler, {}),
        *((f"{ROOT}/{path}/?", each, arguments) for path, each in served.items()),
    ]


def _items(files: Sequence[FileName]) -> list[Item]:
    return [Item(path=each.full_path, url=each.url, fields=each.form) for each in files]


def _settle(what: str, found: Sequence[FileOutcome]) -> None:
    _judge(what, [each.error for each in found if each.error is not None], len(found))


def _judge(what: str, failed: Sequence[SandboxError], total: int) -> None:
    """Raise what the first failure is, in the words of the batch; nothing when all went well."""
    if failed:
        raise type(failed[0])(f"{what} failed for {len(failed)}/{total} file(s): {failed[0]}")
