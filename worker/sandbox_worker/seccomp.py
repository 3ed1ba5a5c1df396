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

from sandbox_worker import linux
from sandbox_worker.syscalls import allowed

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOAD, _EQUAL, _GREATER_EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
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

_SETUID_OR_SETGID: Final = 0o6000
_CREATES: Final = 0x40 | 0x400000  # O_CREAT, O_TMPFILE: only then is there a mode

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Calls judged by their arguments; those that an architecture lacks are left out.
_SPECIAL: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "clone": 56,
        "clone3": 435,
        "openat2": 437,
        "socket": 41,
        "socketpair": 53,
        "ioctl": 16,
        "personality": 135,
        "open": 2,
        "openat": 257,
        "creat": 85,
        "chmod": 90,
        "fchmod": 91,
        "fchmodat": 268,
        "fchmodat2": 452,
        "mknod": 133,
        "mknodat": 259,
        "mkdir": 83,
        "mkdirat": 258,
    },
    "aarch64": {
        "clone": 220,
        "clone3": 435,
        "openat2": 437,
        "socket": 198,
        "socketpair": 199,
        "ioctl": 29,
        "personality": 92,
        "openat": 56,
        "fchmod": 52,
        "fchmodat": 53,
        "fchmodat2": 452,
        "mknodat": 33,
        "mkdirat": 34,
    },
}

# Where the mode is: a setuid file in a directory that the host shares would be the owner's setuid file there.
_MODE_ARGUMENT: Final = {
    "creat": 1,
    "chmod": 1,
    "fchmod": 1,
    "fchmodat": 2,
    "fchmodat2": 2,
    "mkdir": 1,
    "mkdirat": 2,
    "mknod": 1,
    "mknodat": 2,
}
_FLAGS_ARGUMENT: Final = {"open": 1, "openat": 2}  # the mode follows

Instruction = tuple[int, int, int, int]


def program(machine: str = platform.machine()) -> bytes:
    """Return the filter for `machine` as an array of `struct sock_filter`.

    Raises ValueError for a machine without a table: there is no isolation to offer on it.
    """
    if machine not in _SPECIAL:
        raise ValueError(f"no system call table for {machine}; known: {', '.join(sorted(_SPECIAL))}")
    calls = _SPECIAL[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name in ("clone3", "openat2"):  # their arguments lie in memory: the C library falls back to the older call
        code += [(_EQUAL, 0, 1, calls[name]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += _without(calls["clone"], 0, _NAMESPACE_FLAGS)
    code += _only(calls["socket"], 0, _SOCKET_FAMILIES, errno.EAFNOSUPPORT)
    code += _only(calls["socketpair"], 0, (socket.AF_UNIX,), errno.EAFNOSUPPORT)
    code += _only(calls["personality"], 0, _PERSONALITIES, errno.EPERM)
    code += _never(calls["ioctl"], 1, _TERMINAL_INJECTION)
    for name in calls.keys() & _MODE_ARGUMENT.keys():
        code += _without(calls[name], _MODE_ARGUMENT[name], _SETUID_OR_SETGID)
    for name in calls.keys() & _FLAGS_ARGUMENT.keys():
        code += _without(calls[name], _FLAGS_ARGUMENT[name] + 1, _SETUID_OR_SETGID, if_any=_CREATES)
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
