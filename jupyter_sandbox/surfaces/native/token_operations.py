"""The rows of the table of operations that are about tokens of one sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.native import token_answers, token_models
from jupyter_sandbox.surfaces.native.answers import ROOT
from jupyter_sandbox.surfaces.native.operation import Operation

if TYPE_CHECKING:
    from jupyter_sandbox.surfaces.native import models


def rows(times: models.Times) -> tuple[Operation, ...]:
    """Return the rows; `times` are the bounds of this server."""
    path = f"{ROOT}/{{sandbox_id}}/tokens"
    return (
        Operation(
            name="list_tokens",
            method="GET",
            path=path,
            summary="The tokens that reach this sandbox and nothing else, without their secrets.",
            serve=token_answers.list_tokens,
            model="SandboxTokens",
            action="write",
            refusals=(errors.UnknownSandboxError,),
        ),
        Operation(
            name="issue_token",
            method="POST",
            path=path,
            summary="Issue a token that reaches this sandbox and nothing else. It is shown this once.",
            serve=token_answers.issue_token,
            status=201,
            model="NewSandboxToken",
            action="write",
            body=token_models.new_token(times.sandbox_s, times.max_sandbox_s),
            refusals=(errors.UnknownSandboxError, errors.ConflictError, errors.CapacityError),
        ),
        Operation(
            name="revoke_token",
            method="DELETE",
            path=f"{path}/{{token_id}}",
            summary="End a token of this sandbox; who is connected with it is hung up on within a second or two.",
            serve=token_answers.revoke_token,
            status=204,
            action="write",
            refusals=(errors.UnknownSandboxError, errors.UnknownTokenError),
        ),
    )
