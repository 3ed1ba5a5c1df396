"""The rows of the table of operations that are about files."""

from __future__ import annotations

from typing import Final

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.native import file_answers, file_models
from jupyter_sandbox.surfaces.native.answers import ROOT
from jupyter_sandbox.surfaces.native.operation import Operation

_SANDBOX: Final = f"{ROOT}/{{sandbox_id}}"
_FILE: Final = f"{_SANDBOX}/files/{{path}}"
_USUAL: Final = (
    errors.UnknownSandboxError,
    errors.ConflictError,
    errors.UnknownFileError,
    errors.FileConflictError,
    errors.FileRefusedError,
    errors.FileChangedError,
)

ROWS: Final = (
    Operation(
        name="get_file",
        method="GET",
        path=_FILE,
        summary="What is at a path, with a page of its entries if it is a directory; with download=1 a file's content.",
        serve=file_answers.get_file,
        model="FileOrDirectory",
        resource="contents",
        query=file_models.LOOK,
        gives_file=True,
        refusals=(*_USUAL, errors.FileRangeError),
    ),
    Operation(
        name="put_file",
        method="PUT",
        path=_FILE,
        summary="Write a file whole, or leave what is there; or make a directory.",
        serve=file_answers.put_file,
        status=201,
        model="File",
        resource="contents",
        action="write",
        query=file_models.PUT,
        takes_file=True,
        others={200: "File"},
        refusals=(*_USUAL, errors.FileTooLargeError, errors.DiskFullError, errors.QuotaError),
    ),
    Operation(
        name="move_file",
        method="PATCH",
        path=_FILE,
        summary="Give a file or directory another path in its sandbox.",
        serve=file_answers.move_file,
        model="File",
        resource="contents",
        action="write",
        body=file_models.MOVE,
        refusals=(*_USUAL, errors.DiskFullError),
    ),
    Operation(
        name="delete_file",
        method="DELETE",
        path=_FILE,
        summary="Delete a file or an empty directory; with recursive=1 any directory.",
        serve=file_answers.delete_file,
        status=204,
        resource="contents",
        action="write",
        query=file_models.DELETION,
        refusals=_USUAL,
    ),
    Operation(
        name="watch_files",
        method="GET",
        path=f"{_SANDBOX}/watch/{{path}}",
        summary="What changes in a directory, or below it, as it happens, until the client hangs up or it is gone.",
        serve=file_answers.watch_files,
        query=file_models.WATCH,
        model="FileEvent",
        resource="contents",
        always_streams=True,
        refusals=(*_USUAL, errors.CapacityError, errors.QuotaError),
    ),
    Operation(
        name="upload_files",
        method="POST",
        path=f"{_SANDBOX}/uploads",
        summary="Bring files from URLs into a sandbox; each has an outcome of its own.",
        serve=file_answers.upload_files,
        model="FileOutcomes",
        resource="contents",
        action="write",
        body=file_models.UPLOAD,
        refusals=(errors.UnknownSandboxError, errors.ConflictError, errors.CapacityError, errors.QuotaError),
    ),
    Operation(
        name="export_files",
        method="POST",
        path=f"{_SANDBOX}/exports",
        summary="Send files of a sandbox to URLs; each has an outcome of its own.",
        serve=file_answers.export_files,
        model="FileOutcomes",
        resource="contents",
        action="read",
        body=file_models.EXPORT,
        refusals=(errors.UnknownSandboxError, errors.ConflictError, errors.CapacityError, errors.QuotaError),
    ),
)
