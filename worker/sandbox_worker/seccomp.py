"""The workers' system call filter: an allow-list as a BPF program, made by a pure function.

Calls of the list pass; some are judged by their arguments; known others fail with EPERM, unknown newer ones with
ENOSYS, so that a C library falls back to what it knows. Sources: seccomp(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from typing import TYPE_CHECKING, Final

from sandbox_worker import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOAD, _EQUAL, _GREATER_EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_LAST_KNOWN: Final = 462

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Instruction = tuple[int, int, int, int]


def program(machine: str = platform.machine()) -> bytes:
    """Return the filter for `machine` as an array of `struct sock_filter`.

    Raises ValueError for a machine without a table: there is no isolation to offer on it.
    """
    if machine not in syscalls.JUDGED:
        raise ValueError(f"no system call table for {machine}; known: {', '.join(sorted(syscalls.JUDGED))}")
    calls = syscalls.JUDGED[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name in syscalls.ABSENT:
        code += [(_EQUAL, 0, 1, calls[name]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _without(calls["clone"], 0, syscalls.NAMESPACE_FLAGS)
    code += _only(calls["socket"], 0, syscalls.SOCKET_FAMILIES, errno.EAFNOSUPPORT)
    code += _only(calls["socketpair"], 0, (socket.AF_UNIX,), errno.EAFNOSUPPORT)
    code += _only(calls["personality"], 0, syscalls.PERSONALITIES, errno.EPERM)
    code += _never(calls["ioctl"], 1, syscalls.TERMINAL_INJECTION)
    for name in calls.keys() & syscalls.MODE_ARGUMENT.keys():
        code += _without(calls[name], syscalls.MODE_ARGUMENT[name], syscalls.SETUID_OR_SETGID)
    for name in calls.keys() & syscalls.FLAGS_ARGUMENT.keys():
        mode = syscalls.FLAGS_ARGUMENT[name] + 1
        code += _without(calls[name], mode, syscalls.SETUID_OR_SETGID, if_any=syscalls.CREATES)
    for first, last in _ranges(syscalls.allowed(machine)):
        code += [
            (_GREATER_EQUAL, 1, 0, first),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_GREATER, 1, 0, last),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code += [
        (_GREATER, 1, 0, _LAST_KNOWN),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _argument(index: int) -> Instruction:
    """Load the low half of an argument. `struct seccomp_data`: number, architecture, instruction pointer, arguments."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _without(call: int, argument: int, bits: int, *, if_any: int = 0) -> list[Instruction]:
    """Refuse `call` when `argument` has one of `bits`; with `if_any`, only if the one before has one of those."""
    body = [_argument(argument), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    if if_any:
        body = [_argument(argument - 1), (_ANY_BIT, 0, 3, if_any), *body]
    return [(_EQUAL, 0, len(body), call), *body]


def _only(call: int, argument: int, values: Iterable[int], number: int) -> list[Instruction]:
    """Allow `call` with one of `values` as `argument`, else fail with errno `number`."""
    wanted = list(values)
    body: list[Instruction] = [_argument(argument)]
    body += [(_EQUAL, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
    body += [(_RETURN, 0, 0, _ERRNO | number), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), call), *body]


def _never(call: int, argument: int, values: Iterable[int]) -> list[Instruction]:
    """Refuse `call` with one of `values` as `argument`, else allow it."""
    unwanted = list(values)
    body: list[Instruction] = [_argument(argument)]
    body += [(_EQUAL, len(unwanted) - index, 0, value) for index, value in enumerate(unwanted)]
    body += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [(_EQUAL, 0, len(body), call), *body]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return sorted, closed intervals that cover exactly `numbers`."""
    intervals: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if intervals and number == intervals[-1][1] + 1:
            intervals[-1] = (intervals[-1][0], number)
        else:
            intervals.append((number, number))
    return intervals
