"""E2B's words for what is ours: ids, paths, moments, errors. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.guards import paths
from jupyter_sandbox.guards.paths import HOME, USER_HOME
from jupyter_sandbox.sandbox import SandboxState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.sandbox import SandboxView

USER: Final = "user"
USERS: Final = frozenset({"", USER, "sandbox"})
"""Who may be named: all are the one user of the sandbox."""
ENVIRONMENT: Final = {"HOME": USER_HOME, "E2B_SANDBOX": "true"}
"""What every process of a sandbox finds. The second one tells programs where they run, and kernels what their results
are to have."""
ENVD_VERSION: Final = "0.6.4"
"""The switch by which SDKs decide what they may ask: what changed in a watched directory (0.6.3), also on a mount
from a network (0.6.4), of which a sandbox has none. With metadata of files (0.6.2) they come, too, and are refused."""
CLIENT_ID: Final = "jupyter-sandbox"
_OUR_PREFIX: Final = "sbx_"
_ID: Final = re.compile(r"[0-9a-f]{20}")

CODES: Final[dict[int, str]] = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "already_exists",
    413: "resource_exhausted",
    429: "resource_exhausted",
    501: "unimplemented",
    503: "unavailable",
    507: "resource_exhausted",
}
"""Connect's code for a status of ours."""
_OTHER_CODES: Final = {"file_changed": "aborted", "sandbox_paused": "unavailable"}
"""What another code fits better than the one of its status."""


def sandbox_id(ours: str) -> str:
    """Return E2B's id of a sandbox: letters and digits, so that it can be part of a host's name."""
    return ours.removeprefix(_OUR_PREFIX)


def our_id(theirs: str) -> str:
    """Return our id; what is none stays what it is, and is unknown."""
    return f"{_OUR_PREFIX}{theirs}" if _ID.fullmatch(theirs) else theirs[:60]


def whole_path(theirs: str) -> str:
    """Return the absolute path that one of E2B's means: relative ones and `~` are in the user's home."""
    if theirs in ("", "~"):
        return USER_HOME
    return theirs if theirs.startswith("/") else f"{USER_HOME}/{theirs.removeprefix('~/')}"


def disk_path(theirs: str) -> str:
    """Return our path of what must be on the disk, in its plainest form; raises InvalidRequestError."""
    return paths.text(paths.names(whole_path(theirs)))


def their_path(ours: str) -> str:
    """Return the path of E2B's for one that begins with the disk's top."""
    return USER_HOME + ours[len(HOME) :]


def moment(when: datetime) -> str:
    """Return a moment in time as E2B writes it."""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def problem(status: int, error: SandboxError) -> dict[str, Any]:
    """Return the body of a refusal of the control plane."""
    return {"code": status, "message": str(error), "error_code": error.code}


def connect_problem(status: int, error: SandboxError) -> dict[str, Any]:
    """Return an error of the Connect protocol."""
    return {"code": _OTHER_CODES.get(error.code) or CODES.get(status, "internal"), "message": str(error)}


def gone(theirs: str) -> dict[str, Any]:
    """Return what SDKs look for when a sandbox does not live any more; to be answered with 502."""
    return {"sandboxId": theirs, "message": "The sandbox was not found", "code": 502}


def listed(view: SandboxView, limits: Mapping[str, float]) -> dict[str, Any]:
    """Return a sandbox as lists show it."""
    return {
        "templateID": view.template,
        "alias": view.template,
        "sandboxID": sandbox_id(view.id),
        "clientID": CLIENT_ID,
        "startedAt": moment(view.created_at),
        "endAt": moment(view.expires_at or view.created_at),
        "envdVersion": ENVD_VERSION,
        "cpuCount": max(1, round(limits.get("cpus", 1))),
        "memoryMB": int(limits.get("memory_mib", 0)),
        "diskSizeMB": int(limits.get("disk_mib", 0)),
        "state": "paused" if view.state is SandboxState.PAUSED else "running",
        "metadata": view.metadata,
    }
