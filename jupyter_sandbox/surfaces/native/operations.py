"""The REST operations as a table: one row says path, what is accepted, what is answered, and who answers.

Handlers read it and the OpenAPI document is printed from it, so what is served and what is said cannot differ.
"""

from __future__ import annotations

from typing import Final

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.native import (
    answers,
    command_operations,
    file_operations,
    models,
    template_operations,
    token_operations,
)
from jupyter_sandbox.surfaces.native.answers import ROOT
from jupyter_sandbox.surfaces.native.operation import Operation

_SANDBOX: Final = f"{ROOT}/{{sandbox_id}}"
_CONTEXT: Final = f"{_SANDBOX}/contexts/{{context_id}}"
_EXECUTION: Final = f"{_CONTEXT}/executions/{{execution_id}}"


def table(times: models.Times) -> tuple[Operation, ...]:
    """Return all operations; `times` are the bounds of this server."""
    no_sandbox, no_context = (errors.UnknownSandboxError,), (errors.UnknownSandboxError, errors.UnknownContextError)
    claiming = (
        errors.QuotaError,
        errors.UnknownTemplateError,
        errors.ConflictError,
        errors.CapacityError,
        errors.DiskSpaceError,
        errors.ServerStoppingError,
        errors.StartError,
        errors.TemplateFailingError,
    )
    return (
        Operation(
            name="list_sandboxes",
            method="GET",
            path=ROOT,
            summary="List your sandboxes, those of your notebooks among them.",
            serve=answers.list_sandboxes,
            model="Sandboxes",
            query=models.PAGE,
        ),
        Operation(
            name="claim_sandbox",
            method="POST",
            path=ROOT,
            summary="Claim a sandbox. The same Idempotency-Key gives the same one while it lives.",
            serve=answers.claim_sandbox,
            status=201,
            model="Sandbox",
            action="write",
            body=models.claim(times),
            takes_key=True,
            refusals=claiming,
        ),
        Operation(
            name="healthz",
            method="GET",
            path=f"{ROOT}/healthz",
            summary="Whether the server answers.",
            serve=answers.health,
            model="Health",
            resource=None,
        ),
        Operation(
            name="readyz",
            method="GET",
            path=f"{ROOT}/readyz",
            summary="Whether sandboxes can be claimed: a broker runs, or could be started now.",
            serve=answers.readiness,
            model="Health",
            resource=None,
            refusals=(errors.BrokerUnavailableError, errors.ServerStoppingError),
        ),
        *template_operations.ROWS,
        Operation(
            name="get_sandbox",
            method="GET",
            path=_SANDBOX,
            summary="One sandbox.",
            serve=answers.get_sandbox,
            model="Sandbox",
            refusals=no_sandbox,
        ),
        Operation(
            name="release_sandbox",
            method="DELETE",
            path=_SANDBOX,
            summary="End a sandbox, its files and every kernel in it. Quiet when it ended before.",
            serve=answers.release_sandbox,
            status=204,
            action="write",
            refusals=no_sandbox,
        ),
        Operation(
            name="renew_sandbox",
            method="POST",
            path=f"{_SANDBOX}/renew",
            summary="Let a claimed sandbox live longer, or shorter.",
            serve=answers.renew_sandbox,
            model="Sandbox",
            action="write",
            body=models.renewal(times),
            refusals=(*no_sandbox, errors.ConflictError),
        ),
        Operation(
            name="get_usage",
            method="GET",
            path=f"{_SANDBOX}/usage",
            summary="What a sandbox uses now, and the most it may.",
            serve=answers.get_usage,
            model="Usage",
            refusals=(*no_sandbox, errors.BrokerUnavailableError),
        ),
        Operation(
            name="pause_sandbox",
            method="POST",
            path=f"{_SANDBOX}/pause",
            summary="Stop everything in a sandbox where it is and keep it. Its time goes on. Quiet when it is paused.",
            serve=answers.pause_sandbox,
            model="Sandbox",
            action="write",
            refusals=(*no_sandbox, errors.ConflictError, errors.StartError, errors.NotSupportedError),
        ),
        Operation(
            name="resume_sandbox",
            method="POST",
            path=f"{_SANDBOX}/resume",
            summary="Let everything in a sandbox go on where it was. Quiet when it does.",
            serve=answers.resume_sandbox,
            model="Sandbox",
            action="write",
            refusals=(*no_sandbox, errors.ConflictError, errors.StartError),
        ),
        Operation(
            name="list_contexts",
            method="GET",
            path=f"{_SANDBOX}/contexts",
            summary="The contexts of a sandbox.",
            serve=answers.list_contexts,
            model="Contexts",
            resource="kernels",
            refusals=no_sandbox,
        ),
        Operation(
            name="create_context",
            method="POST",
            path=f"{_SANDBOX}/contexts",
            summary="Start a kernel in a sandbox. It shows among the server's kernels.",
            serve=answers.create_context,
            status=201,
            model="Context",
            resource="kernels",
            action="write",
            body=models.NEW_CONTEXT,
            refusals=(
                *no_sandbox,
                errors.ConflictError,
                errors.SandboxPausedError,
                errors.StartError,
                errors.CapacityError,
                errors.QuotaError,
            ),
        ),
        *_in_context(times, no_context),
        *command_operations.rows(times),
        *file_operations.ROWS,
        *token_operations.rows(times),
    )


def _in_context(times: models.Times, no_context: tuple[type[errors.SandboxError], ...]) -> tuple[Operation, ...]:
    return (
        Operation(
            name="get_context",
            method="GET",
            path=_CONTEXT,
            summary="One context.",
            serve=answers.get_context,
            model="Context",
            resource="kernels",
            refusals=no_context,
        ),
        Operation(
            name="delete_context",
            method="DELETE",
            path=_CONTEXT,
            summary="End a kernel. A claimed sandbox stays; a notebook's ends with its last kernel.",
            serve=answers.delete_context,
            status=204,
            resource="kernels",
            action="write",
            refusals=(*no_context, errors.SandboxPausedError),
        ),
        Operation(
            name="restart_context",
            method="POST",
            path=f"{_CONTEXT}/restart",
            summary="Replace the kernel by a new one. Files stay, variables are gone.",
            serve=answers.restart_context,
            model="Context",
            resource="kernels",
            action="write",
            refusals=(*no_context, errors.ConflictError, errors.SandboxPausedError, errors.StartError),
        ),
        Operation(
            name="interrupt_context",
            method="POST",
            path=f"{_CONTEXT}/interrupt",
            summary="Interrupt what runs in the kernel, whoever started it.",
            serve=answers.interrupt_context,
            status=204,
            resource="kernels",
            action="write",
            refusals=(*no_context, errors.ConflictError, errors.SandboxPausedError),
        ),
        Operation(
            name="list_executions",
            method="GET",
            path=f"{_CONTEXT}/executions",
            summary="The executions of a context that wait or run, and the detached ones that are kept.",
            serve=answers.list_executions,
            model="Executions",
            resource="kernels",
            refusals=no_context,
        ),
        Operation(
            name="execute",
            method="POST",
            path=f"{_CONTEXT}/executions",
            summary="Run code. Answers when it has ended; as it comes, with Accept; at once, if it is detached.",
            serve=answers.execute,
            model="Execution",
            resource="kernels",
            action="execute",
            body=models.new_execution(times),
            streams=True,
            others={202: "Execution"},
            refusals=(*no_context, errors.SandboxPausedError, errors.BusyError, errors.ServerStoppingError),
        ),
        Operation(
            name="get_execution",
            method="GET",
            path=_EXECUTION,
            summary="An execution that waits or runs, or a detached one.",
            serve=answers.get_execution,
            model="Execution",
            resource="kernels",
            refusals=(errors.UnknownExecutionError,),
        ),
        Operation(
            name="interrupt_execution",
            method="POST",
            path=f"{_EXECUTION}/interrupt",
            summary="Interrupt this execution, or take it out of the queue. Quiet when it has ended.",
            serve=answers.interrupt_execution,
            status=204,
            resource="kernels",
            action="execute",
            refusals=(errors.UnknownExecutionError,),
        ),
    )
