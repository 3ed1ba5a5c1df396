"""The workers' system call filter: an allow-list as a BPF program, made by a pure function.

Calls of the list pass; five are judged by their arguments; known others fail with EPERM, unknown newer ones with
ENOSYS, so that a C library falls back to what it knows. Sources: seccomp(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from typing import TYPE_CHECKING, Final

from sandbox_worker import linux
from sandbox_worker.syscalls import allowed

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOAD, _EQUAL, _GREATER_EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_LAST_KNOWN: Final = 462

_NAMESPACE_FLAGS: Final = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWCGROUP
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUSER
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | 0x00000080  # CLONE_NEWTIME
)
_SOCKET_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_TERMINAL_INJECTION: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# machine: audit architecture, numbers of clone, clone3, socket, ioctl, personality
_MACHINES: Final = {
    "x86_64": (0xC000003E, 56, 435, 41, 16, 135),
    "aarch64": (0xC00000B7, 220, 435, 198, 29, 92),
}

Instruction = tuple[int, int, int, int]


def program(machine: str = platform.machine()) -> bytes:
    """Return the filter for `machine` as an array of `struct sock_filter`.

    Raises ValueError for a machine without a table: there is no isolation to offer on it.
    """
    if machine not in _MACHINES:
        raise ValueError(f"no system call table for {machine}; known: {', '.join(sorted(_MACHINES))}")
    architecture, clone, clone3, socket_call, ioctl, personality = _MACHINES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 1, clone3),  # its flags lie in memory a filter cannot read: the C library falls back to clone
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
        *_only(socket_call, _FIRST_ARGUMENT, _SOCKET_FAMILIES, errno.EAFNOSUPPORT),
        *_only(personality, _FIRST_ARGUMENT, _PERSONALITIES, errno.EPERM),
        *_never(ioctl, _SECOND_ARGUMENT, _TERMINAL_INJECTION),
    ]
    for first, last in _ranges(allowed(machine)):
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


def _only(call: int, argument: int, values: Iterable[int], number: int) -> list[Instruction]:
    """Allow `call` with one of `values` as `argument`, else fail with errno `number`."""
    wanted = list(values)
    body: list[Instruction] = [(_LOAD, 0, 0, argument)]
    body += [(_EQUAL, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
    body += [(_RETURN, 0, 0, _ERRNO | number), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(body), call), *body]


def _never(call: int, argument: int, values: Iterable[int]) -> list[Instruction]:
    """Refuse `call` with one of `values` as `argument`, else allow it."""
    unwanted = list(values)
    body: list[Instruction] = [(_LOAD, 0, 0, argument)]
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
