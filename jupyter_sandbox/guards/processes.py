"""What may be asked of a process in a worker: its argument list, environment, working directory, signals.

None of it is ever run on the host; the bounds keep messages small and log lines sane.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_worker.protocol import TerminalSize

_MAX_ARGUMENTS: Final = 256
_MAX_PATH: Final = 8192
MAX_ARGV: Final = 32 * 1024
"""A request to the broker has no room for more."""
_MAX_VARIABLES: Final = 256
_MAX_ENVIRONMENT: Final = 24 * 1024
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_TERMINAL: Final = 4096
"""Rows or columns of a terminal."""
_INSIDE: Final = (*paths.HOMES, "/workspace", "/tmp")  # noqa: S108 - inside the worker
_SIGNALS: Final = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
    | {signal.SIGSTOP, signal.SIGQUIT, signal.SIGWINCH}
)

SIGNAL_NAMES: Final = tuple(sorted(number.name for number in _SIGNALS))


def argv(value: Sequence[str]) -> tuple[str, ...]:
    """Judge an argument list: 1 to 256 texts without NUL, 32 KiB of JSON in all."""
    if not 1 <= len(value) <= _MAX_ARGUMENTS or any("\0" in item for item in value):
        raise InvalidRequestError("argv must hold 1 to 256 texts without NUL")
    if len(json.dumps(value)) > MAX_ARGV:
        raise InvalidRequestError(f"argv must not have more than {MAX_ARGV} bytes as JSON")
    return tuple(value)


def environment(value: Mapping[str, str]) -> dict[str, str]:
    """Judge environment variables: at most 256, 24 KiB in all."""
    size = sum(len(name) + len(text) for name, text in value.items())
    if len(value) > _MAX_VARIABLES or size > _MAX_ENVIRONMENT:
        raise InvalidRequestError("at most 256 environment variables with 24576 characters in all are accepted")
    for name, text in value.items():
        if _VARIABLE.fullmatch(name) is None or "\0" in text:
            raise InvalidRequestError(f"not an environment variable: {name[:60]!r}")
    return dict(value)


def working_directory(value: str) -> str:
    """Judge a directory inside the worker: absolute, below /sandbox, /home/user, /workspace or /tmp."""
    path = posixpath.normpath(value)
    inside = any(path == top or path.startswith(top + "/") for top in _INSIDE)
    if "\0" in value or len(value) > _MAX_PATH or not inside:
        raise InvalidRequestError(f"the working directory must be below {', '.join(_INSIDE)}: {value[:60]!r}")
    return path


def signal_number(value: int) -> int:
    """Judge a signal number."""
    if value not in _SIGNALS:
        raise InvalidRequestError(f"not a signal that may be sent: {value}")
    return value


def signal_named(name: str) -> int:
    """Return the number of a signal that may be sent, by its name with SIG."""
    for number in _SIGNALS:
        if number.name == name:
            return number
    raise InvalidRequestError(f"not a signal that may be sent: {name[:40]!a}; known: {', '.join(SIGNAL_NAMES)}")


def terminal_size(value: TerminalSize) -> TerminalSize:
    """Judge the size of a terminal: 1 to 4096 rows and columns."""
    if not 1 <= value.rows <= MAX_TERMINAL or not 1 <= value.columns <= MAX_TERMINAL:
        raise InvalidRequestError(f"a terminal has 1 to {MAX_TERMINAL} rows and columns")
    return value
