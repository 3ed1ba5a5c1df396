"""Every error that may leave the package, one class where a caller would act differently.

Each has a public `code` that never changes and names no engine, and the HTTP `status` a surface answers with.
Messages say what happened, to which id, and what to do; never a secret, a host path or the user's code.
"""

from __future__ import annotations

from typing import ClassVar


class SandboxError(Exception):
    """Base of all errors of jupyter-sandbox."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        """`retry_after_s`: when it may be worth to try again, in seconds; None when it is not."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidRequestError(SandboxError):
    """An argument is not what it must be; trying again will not help."""

    code = "invalid_request"
    status = 400


class TemplateError(SandboxError):
    """A template file cannot be used; the message names file and key."""

    code = "invalid_template"
    status = 500


class UnknownTemplateError(SandboxError):
    """No template of that name; the message lists those that exist."""

    code = "unknown_template"
    status = 404


class UnknownSandboxError(SandboxError):
    """No sandbox of that id that the caller owns."""

    code = "unknown_sandbox"
    status = 404


class UnknownContextError(SandboxError):
    """No context of that id in the sandbox."""

    code = "unknown_context"
    status = 404


class SandboxLostError(SandboxError):
    """A named sandbox was given up: its code did not end in time, or its kernel died. The next use makes a new one."""

    code = "sandbox_lost"
    status = 503


class SandboxPausedError(SandboxError):
    """The sandbox is paused: what needs a process of it cannot be done before it is resumed. Nothing was begun."""

    code = "sandbox_paused"
    status = 409


class UnknownExecutionError(SandboxError):
    """No execution of that id in the context; results are kept of detached ones only, and not for ever."""

    code = "unknown_execution"
    status = 404


class UnknownCommandError(SandboxError):
    """No command of that id in the sandbox; detached ones only are kept when they have ended, and not for ever."""

    code = "unknown_command"
    status = 404


class UnknownWatchError(SandboxError):
    """No such watch of the caller in this sandbox, or it has ended."""

    code = "unknown_watch"
    status = 404


class UnknownRouteError(SandboxError):
    """No resource of that name."""

    code = "unknown_route"
    status = 404


class MethodError(SandboxError):
    """The resource exists and does not know this method."""

    code = "method_not_allowed"
    status = 405


class NotSupportedError(SandboxError):
    """A part of another product's API that this server does not have, or something that this machine cannot do."""

    code = "not_supported"
    status = 501


class UnknownUserError(SandboxError):
    """A user of a sandbox that it does not have."""

    code = "unknown_user"
    status = 401


class ForbiddenError(SandboxError):
    """Who asks is not known, or may not do this."""

    code = "forbidden"
    status = 403


class TokenError(SandboxError):
    """The token is none, was revoked, or its time is over."""

    code = "invalid_token"
    status = 403


class ScopeError(SandboxError):
    """The token is good, but not for this."""

    code = "wrong_scope"
    status = 403


class UnknownTokenError(SandboxError):
    """No token of that id in the sandbox."""

    code = "unknown_token"
    status = 404


class TokenFileError(SandboxError):
    """The file of tokens cannot be used; no token is accepted, and none is changed."""

    code = "invalid_token_file"
    status = 500


class RateError(SandboxError):
    """The owner asks more often than it may."""

    code = "rate_limited"
    status = 429


class QuotaError(SandboxError):
    """The owner holds as much as it may; something must end before."""

    code = "quota_exceeded"
    status = 429


class ConflictError(SandboxError):
    """It contradicts what was asked before, or what the object is."""

    code = "conflict"
    status = 409


class BodyTooLargeError(SandboxError):
    """The body of the request has more bytes than any request needs."""

    code = "body_too_large"
    status = 413


class BusyError(SandboxError):
    """As many requests wait as may wait; it is worth to try again."""

    code = "busy"
    status = 429


class CapacityError(SandboxError):
    """The host or the template is full."""

    code = "no_capacity"
    status = 503


class DiskSpaceError(CapacityError):
    """The host has no room for another disk, or for a record; as with any lack of room, it is worth to try again."""

    code = "no_disk_space"


class ServerStoppingError(SandboxError):
    """This server is about to stop and accepts nothing new; what lives is there again when it has been started anew."""

    code = "server_stopping"
    status = 503


class IsolationUnavailableError(SandboxError):
    """This machine cannot isolate; the message names what to change. There is never a fall-back to no isolation."""

    code = "isolation_unavailable"
    status = 503


class EngineUnavailableError(SandboxError):
    """What makes workers on this machine does not answer at the moment; sandboxes that live may go on."""

    code = "engine_unavailable"
    status = 503


class StartError(SandboxError):
    """A worker or kernel did not start."""

    code = "start_failed"
    status = 500


class ProgramMissingError(StartError):
    """The sandbox does not have the program that is to be started."""

    code = "program_missing"


class TemplateFailingError(SandboxError):
    """No worker of the template started lately; none is tried for a while."""

    code = "template_failing"
    status = 503


class WorkspaceError(SandboxError):
    """The notebook's directory cannot be shown in the sandbox as asked."""

    code = "workspace_unavailable"
    status = 400


class UnknownFileError(SandboxError):
    """No file or directory of that path in the sandbox."""

    code = "unknown_file"
    status = 404


class FileConflictError(SandboxError):
    """What is there is in the way: a name is taken, a directory is not empty, or it is not the kind that is needed."""

    code = "file_conflict"
    status = 409


class FileRefusedError(SandboxError):
    """A symlink, device, socket or FIFO, or something whose permissions its sandbox took away: the host keeps off."""

    code = "file_refused"
    status = 403


class FileChangedError(SandboxError):
    """The sandbox changed a file or directory while it was used; what was read is not the whole."""

    code = "file_changed"
    status = 409


class FileRangeError(SandboxError):
    """A range begins after the end of the file."""

    code = "file_range"
    status = 416


class FileTooLargeError(SandboxError):
    """More bytes than may be transferred at once; a file that was to be replaced is as before."""

    code = "file_too_large"
    status = 413


class UrlRefusedError(SandboxError):
    """A URL that the server does not fetch from or send to: its form, port or address. Nothing was connected."""

    code = "url_refused"
    status = 400


class TransferError(SandboxError):
    """The other end of a URL did not answer as it must, or in time; a file that was to be replaced is as before."""

    code = "transfer_failed"
    status = 502


class DiskFullError(SandboxError):
    """The disk of a sandbox is full; a file that was to be replaced is as before."""

    code = "disk_full"
    status = 507


class BrokerUnavailableError(SandboxError):
    """The broker cannot be reached or started."""

    code = "broker_unavailable"
    status = 503
    is_absent = False
    """Whether there is none."""


class NotInstalledError(SandboxError):
    """It needs packages that this server does not have; the message says how they are installed."""

    code = "not_installed"
    status = 501


class ProtocolError(SandboxError):
    """The other end of a socket sent something that is not part of the protocol."""

    code = "protocol_error"
    status = 502


_BY_CODE: dict[str, type[SandboxError]] = {
    kind.code: kind
    for kind in (
        InvalidRequestError,
        TemplateError,
        UnknownTemplateError,
        UnknownSandboxError,
        UnknownContextError,
        SandboxLostError,
        SandboxPausedError,
        UnknownExecutionError,
        UnknownCommandError,
        UnknownWatchError,
        UnknownRouteError,
        MethodError,
        NotSupportedError,
        UnknownUserError,
        ForbiddenError,
        TokenError,
        ScopeError,
        UnknownTokenError,
        TokenFileError,
        RateError,
        QuotaError,
        ConflictError,
        BodyTooLargeError,
        BusyError,
        CapacityError,
        DiskSpaceError,
        ServerStoppingError,
        IsolationUnavailableError,
        EngineUnavailableError,
        StartError,
        ProgramMissingError,
        TemplateFailingError,
        WorkspaceError,
        UnknownFileError,
        FileConflictError,
        FileRefusedError,
        FileChangedError,
        FileRangeError,
        FileTooLargeError,
        UrlRefusedError,
        TransferError,
        DiskFullError,
        BrokerUnavailableError,
        NotInstalledError,
        ProtocolError,
    )
}


def codes() -> tuple[str, ...]:
    """Return every code that there is."""
    return (SandboxError.code, *_BY_CODE)


def from_code(code: str, message: str, retry_after_s: int | None) -> SandboxError:
    """Return the error that another process of ours reported; an unknown code becomes the base class."""
    return _BY_CODE.get(code, SandboxError)(message, retry_after_s=retry_after_s)
