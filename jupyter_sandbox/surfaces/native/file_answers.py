"""What REST operations on files answer. A path is a client's text until the services judge it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from jupyter_sandbox.errors import (
    FileConflictError,
    InvalidRequestError,
    SandboxError,
    UnknownFileError,
    UnknownSandboxError,
)
from jupyter_sandbox.guards import paths
from jupyter_sandbox.host import processes
from jupyter_sandbox.host.beneath import Kind
from jupyter_sandbox.host.tasks import as_long_as_asked
from jupyter_sandbox.surfaces.native import file_models
from jupyter_sandbox.surfaces.native.answers import ROOT, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_sandbox.file_transfers import Outcome
    from jupyter_sandbox.guards.paths import Names
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.answers import Call

HEARTBEAT_S: Final = 15
"""Proxies close connections that are silent for a minute or less."""


def _place(services: Services, call: Call) -> tuple[str, str, Names]:
    """Return sandbox and path that are meant; the first must be the caller's."""
    sandbox_id, text = call.ids
    sandbox = services.sandboxes.find_ready(call.owner, sandbox_id)
    names = paths.names(text or ".")
    return sandbox.id, "/".join(names) or ".", names


async def get_file(services: Services, call: Call) -> Answer:
    """What is there, with a page of its entries if it is a directory; or a file's content."""
    sandbox, path, names = _place(services, call)
    if call.query.download == "1":
        if call.range is None:
            return Answer(file=services.files.reading(sandbox, path))
        return Answer(file=services.files.reading(sandbox, path, start=call.range.start, size=call.range.size))
    entry = await services.files.stat(sandbox, path)
    model: dict[str, Any] = {**file_models.file(sandbox, names, entry), "entries": None, "next": None}
    if entry.kind is Kind.DIRECTORY:
        after = file_models.after(call.query.cursor)
        page = await services.files.listing(sandbox, path, after=after, limit=call.query.limit)
        model["entries"] = [file_models.file(sandbox, (*names, each.name), each) for each in page.entries]
        model["next"] = file_models.cursor(page.after)
    return Answer(model=model)


async def put_file(services: Services, call: Call) -> Answer:
    """The file or directory that was made."""
    sandbox, path, names = _place(services, call)
    parents = call.query.parents == "1"
    if call.query.type == "directory":
        async for _ in call.content:
            raise InvalidRequestError("a directory is made without a body")
        is_new = await services.files.make_directory(sandbox, path, parents=parents)
        if call.only_new and not is_new:
            raise FileConflictError(f"{paths.text(names)!a} exists in sandbox {sandbox}")
        entry = await services.files.stat(sandbox, path)
    else:
        is_new = not await _is_there(services, sandbox, path)
        entry = await services.files.write(sandbox, path, call.content, replace=not call.only_new, parents=parents)
    model = file_models.file(sandbox, names, entry)
    location = f"{ROOT}/{sandbox}/files/{quote(path)}" if is_new else None
    return Answer(model=model, location=location, status=201 if is_new else 200)


async def _is_there(services: Services, sandbox: str, path: str) -> bool:
    try:
        await services.files.stat(sandbox, path)
    except UnknownFileError:
        return False
    return True


async def move_file(services: Services, call: Call) -> Answer:
    """What has another path now."""
    sandbox, path, _ = _place(services, call)
    names = paths.entry(call.body.path)
    await services.files.move(sandbox, path, call.body.path, replace=call.body.replace)
    return Answer(model=file_models.file(sandbox, names, await services.files.stat(sandbox, call.body.path)))


async def delete_file(services: Services, call: Call) -> Answer:
    """Nothing, when it is gone."""
    sandbox, path, _ = _place(services, call)
    await as_long_as_asked(call.when_gone, services.files.delete(sandbox, path, recursive=call.query.recursive == "1"))
    return Answer()


async def watch_files(services: Services, call: Call) -> Answer:
    """What changes in a directory, or also below it."""
    sandbox, path, names = _place(services, call)
    return Answer(events=_changes(services, call, sandbox, path, names))


async def _changes(
    services: Services, call: Call, sandbox: str, path: str, names: Names
) -> AsyncGenerator[dict[str, Any], None]:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    call.when_gone(lambda: processes.resolve(gone))
    watching = services.watches.watching(
        call.owner, sandbox, path, recursive=call.query.recursive == "1", silence_s=HEARTBEAT_S, until=gone
    )
    async with watching as changes:
        yield {"type": "ready"}
        try:
            async for told in changes:
                services.sandboxes.find(call.owner, sandbox)  # its disk may be kept by somebody who still reads
                for change in told:
                    yield file_models.change(names, change)
                if not told:
                    yield {"type": "heartbeat"}
        except (UnknownFileError, UnknownSandboxError) as error:
            yield {"type": "ended", "error": _problem(error)}


async def upload_files(services: Services, call: Call) -> Answer:
    """What became of each file that was to be brought."""
    sandbox = services.sandboxes.find_ready(call.owner, *call.ids).id
    upload = services.transfers.upload(call.owner, sandbox, call.body["files"])
    return _outcomes(await as_long_as_asked(call.when_gone, upload))


async def export_files(services: Services, call: Call) -> Answer:
    """What became of each file that was to be sent."""
    sandbox = services.sandboxes.find_ready(call.owner, *call.ids).id
    export = services.transfers.export(call.owner, sandbox, call.body["files"])
    return _outcomes(await as_long_as_asked(call.when_gone, export))


def _outcomes(found: tuple[Outcome, ...]) -> Answer:
    files = [
        {
            "path": each.path,
            "size_bytes": each.size_bytes,
            "error": None if each.error is None else _problem(each.error),
        }
        for each in found
    ]
    return Answer(model={"files": files})


def _problem(error: SandboxError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)}
