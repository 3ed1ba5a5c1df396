"""What Jupyter and tornado refuse by themselves, and what we failed at, as errors of ours: they know a status only."""

from __future__ import annotations

from typing import Final

from jupyter_sandbox import errors

_BY_STATUS: Final[dict[int, type[errors.SandboxError]]] = {
    400: errors.InvalidRequestError,
    403: errors.ForbiddenError,
    404: errors.UnknownRouteError,
    405: errors.MethodError,
    413: errors.BodyTooLargeError,
}


def as_error(status: int, *, max_body_bytes: int, request_id: str) -> errors.SandboxError:
    """Return the error that an HTTP status stands for, for the body of the answer."""
    kind = _BY_STATUS.get(status, errors.InvalidRequestError if status < 500 else errors.SandboxError)
    return kind(_words(status, max_body_bytes, request_id))


def _words(status: int, max_body_bytes: int, request_id: str) -> str:
    match status:
        case 400:
            return "the request cannot be read"
        case 403:
            return "who asks is not known, or may not do this"
        case 404:
            return "there is no such resource"
        case 405:
            return "the resource does not know this method"
        case 413:
            return f"the body has more than {max_body_bytes} bytes"
    return f"the server failed inside; its log says more of request {request_id}"
