"""How a kernel is to be launched: what of a kernelspec and an environment goes into the worker. Pure."""

from __future__ import annotations

import contextlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import UnknownContextError
from sandbox_worker.protocol import PYTHON

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_FORKABLE: Final = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
EXECUTED: Final = (PYTHON, *_FORKABLE, "--ext=sandbox_worker.e2b_results")
"""The command of a kernel that could be forked and shall not be, with the representations that a forked one has."""
_IMPLIED: Final = frozenset({"--HistoryManager.hist_file=:memory:", "--no-secure"})
_FLAGS_WITHOUT_EFFECT: Final = frozenset({"-Xfrozen_modules=off"})
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
PASSED: Final = frozenset({"JPY_SESSION_NAME", "LANG", "LANGUAGE", "TZ", "COLUMNS", "LINES"})
"""Names of the caller's environment that a kernel gets. The rest may hold secrets, or paths unknown inside."""

_PASSED_PREFIXES: Final = ("LC_", "KERNEL_")


def argument_list(spec: Sequence[str], extra: Sequence[str], replacements: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the command to execute in the worker, or None when the loaded Python can be forked instead.

    `spec` is a kernelspec's argv, `extra` what the client added, `replacements` such as {"resource_dir": ...}. The
    connection file and the prefix stay placeholders: only the agent knows where they are in its worker.
    """
    command = [_replace(argument, replacements) for argument in (*spec, *extra)]
    python = _PYTHON.fullmatch(PurePosixPath(command[0]).name) is not None
    if python:
        command[0] = PYTHON
        arguments = [item for item in command[1:] if item not in _IMPLIED | _FLAGS_WITHOUT_EFFECT]
        if arguments == _FORKABLE:
            return None
    return tuple(command)


def environment(caller: Mapping[str, str], spec: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """Return the kernel's environment: the kernelspec's own variables and the allowed ones of the caller.

    `caller` already holds the kernelspec's variables with templates substituted; `also` are more allowed names.
    """
    allowed = PASSED | set(also) | set(spec)
    return {name: value for name, value in caller.items() if name in allowed or name.startswith(_PASSED_PREFIXES)}


def wants_curve(policy: str, metadata: Mapping[str, object]) -> bool:
    """Whether a kernel's sockets are to be encrypted by CurveZMQ.

    `policy` is jupyter_client's `transport_encryption`: `disabled`, `required`, or `auto`, that is if the kernelspec's
    `metadata` says that its kernel can.
    """
    stated = metadata.get("supported_encryption")
    stated = [stated] if isinstance(stated, str) else stated
    able = isinstance(stated, list | tuple) and any(str(item).strip().lower() == "curve" for item in stated)
    return policy == "required" or (policy == "auto" and able)


class Ends:
    """When a kernel was ended for good: jupyter_client lets that come while the kernel starts, or restarts."""

    def __init__(self) -> None:
        """Start with none."""
        self._count = 0
        self._at_launch = 0
        self._is_restarting = False

    def add(self) -> None:
        """It is ended for good, or until somebody starts it anew."""
        self._count += 1

    def note_restart(self) -> None:
        """It has ended and is about to start again: for that it must be the kernel that was launched last."""
        self._is_restarting = True

    @contextlib.contextmanager
    def none_meanwhile(self, kernel_id: str) -> Iterator[None]:
        """Raise UnknownContextError if an end comes while this is open, or came before what is half of a restart."""
        ends = self._at_launch if self._is_restarting else self._count
        self._at_launch, self._is_restarting = ends, False
        if self._count == ends:
            yield
        if self._count != ends:
            raise UnknownContextError(f"kernel {kernel_id} was shut down while it started")


def _replace(argument: str, replacements: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: replacements.get(found[1], found[0]), argument)
