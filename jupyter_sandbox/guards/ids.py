"""Identifiers: made here, and judged here before one reaches a path, a cgroup name or a log line."""

from __future__ import annotations

import re
import secrets
from typing import Final, NewType

from jupyter_sandbox.errors import InvalidRequestError

SandboxId = NewType("SandboxId", str)
KernelSeat = NewType("KernelSeat", str)
"""Names one kernel's identity towards its clients (socket paths) for life; chosen by the provisioner, random."""

KERNEL_ID: Final = r"^[0-9A-Za-z_]{1,32}(-[0-9A-Za-z_]{1,32}){4}$"
"""As in Jupyter's routes. A client may choose the id of a new kernel, and it becomes part of a file's name."""
_SANDBOX_ID: Final = re.compile(r"sbx_[0-9a-f]{20}")
_COMMAND_ID: Final = re.compile(r"cmd_[0-9a-f]{20}")
_EXECUTION_ID: Final = re.compile(r"exe_[0-9a-f]{20}")
_SEAT: Final = re.compile(r"[0-9a-f]{12}")
_ON_BEHALF: Final = re.compile(r"[0-9a-f]{0,16}")
_SERVER_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_TEMPLATE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def new_sandbox_id() -> SandboxId:
    """Return a fresh, unguessable sandbox id."""
    return SandboxId(f"sbx_{secrets.token_hex(10)}")


def new_seat() -> KernelSeat:
    """Return a fresh seat; short, because it becomes part of a socket path of at most 107 bytes."""
    return KernelSeat(secrets.token_hex(6))


def standby_seat(sandbox: SandboxId) -> KernelSeat:
    """Return where the first kernel of a sandbox waits for its own seat; whoever knows the one knows the other."""
    return KernelSeat(sandbox.removeprefix("sbx_")[:12])


def new_command_id() -> str:
    """Return a fresh command id."""
    return f"cmd_{secrets.token_hex(10)}"


def new_execution_id() -> str:
    """Return a fresh execution id."""
    return f"exe_{secrets.token_hex(10)}"


def is_command_id(value: str) -> bool:
    """Whether `value` is an id that `new_command_id` could have made."""
    return _COMMAND_ID.fullmatch(value) is not None


def is_execution_id(value: str) -> bool:
    """Whether `value` is an id that `new_execution_id` could have made."""
    return _EXECUTION_ID.fullmatch(value) is not None


def is_sandbox_id(value: str) -> bool:
    """Whether `value` is an id that `new_sandbox_id` could have made."""
    return _SANDBOX_ID.fullmatch(value) is not None


def sandbox_id(value: str) -> SandboxId:
    """Judge a sandbox id."""
    return SandboxId(_matching(_SANDBOX_ID, value, "sandbox id"))


def seat(value: str) -> KernelSeat:
    """Judge a kernel seat."""
    return KernelSeat(_matching(_SEAT, value, "kernel seat"))


def template_name(value: str) -> str:
    """Judge a template's name."""
    return _matching(_TEMPLATE_NAME, value, "template name")


def on_behalf(value: str) -> str:
    """Judge what a client calls one of its owners; the empty text when it tells none apart."""
    return _matching(_ON_BEHALF, value, "name of an owner")


def server_name(value: str) -> str:
    """Judge a server's name."""
    return _matching(_SERVER_NAME, value, "server name")


def _matching(pattern: re.Pattern[str], value: str, what: str) -> str:
    if pattern.fullmatch(value) is None:
        raise InvalidRequestError(f"not a {what}: {value[:60]!r}")
    return value
