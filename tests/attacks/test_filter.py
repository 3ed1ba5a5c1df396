"""The system call filter, judged by running its program on an attacker's calls: this kernel has no say."""

from __future__ import annotations

import errno
import functools
import socket
import struct

import pytest

from sandbox_worker import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@functools.cache
def instructions(machine):
    return list(struct.iter_unpack("HBBI", seccomp.program(machine)))


def judge(machine, number, *arguments, architecture=None):
    """Return ALLOW, KILL or the errno that `seccomp.program` returns for a call."""
    data = struct.pack(
        "<iIQ6Q", number, architecture or AUDIT[machine], 0, *[a & (1 << 64) - 1 for a in (*arguments, *[0] * 6)][:6]
    )
    code, accumulator, at = instructions(machine), 0, 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x06:
            return value & 0xFFFF if value & 0xFFFF0000 == 0x00050000 else value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x25: accumulator > value,
                0x45: bool(accumulator & value),
            }
            at += true if holds[operation] else false


# on x86_64, on aarch64
DANGEROUS = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268),
    "unshare": (272, 97), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "bpf": (321, 280), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "init_module": (175, 105), "finit_module": (313, 273), "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "syslog": (103, 116), "sethostname": (170, 161),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "fanotify_init": (300, 262), "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442), "move_pages": (279, 239),
    "vmsplice": (278, 75),
}  # fmt: skip


@pytest.mark.parametrize("machine", AUDIT)
@pytest.mark.parametrize("name", DANGEROUS)
def test_filter_refuses(machine, name):
    assert judge(machine, DANGEROUS[name][0 if machine == "x86_64" else 1]) in (errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("machine", AUDIT)
def test_filter_judges_namespace_flags_of_clone(machine):
    clone = 56 if machine == "x86_64" else 220
    assert judge(machine, clone, 0x3D0F00) == ALLOW, "a thread"
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(machine, clone, flag | 17) == errno.EPERM
    assert judge(machine, 435) == errno.ENOSYS


@pytest.mark.parametrize("machine", AUDIT)
def test_filter_kills_another_architecture_and_refuses_numbers_it_does_not_know(machine):
    assert judge(machine, 11, architecture=0x40000003) == KILL  # i386
    assert judge(machine, 0x40000000 + 272) == errno.ENOSYS  # x32
    for number in (463, 500, 1000, 0x7FFFFFFF):
        assert judge(machine, number) == errno.ENOSYS


@pytest.mark.parametrize("machine", AUDIT)
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_filter_lets_no_odd_socket_family_pass(machine, call):
    """socketpair makes a socket of its family too (AF_TIPC supports it) and loads that family's module."""
    number = {"socket": (41, 198), "socketpair": (53, 199)}[call][0 if machine == "x86_64" else 1]
    assert judge(machine, number, socket.AF_UNIX, 1, 0) == ALLOW
    for family in (17, 21, 29, 30, 31, 38, 40, 41, 43, 44):  # packet rds can tipc bluetooth alg vsock kcm smc xdp
        assert judge(machine, number, family, 1, 0) == errno.EAFNOSUPPORT, family


@pytest.mark.parametrize("machine", AUDIT)
def test_filter_refuses_terminal_injection_in_every_disguise(machine):
    ioctl = 16 if machine == "x86_64" else 29
    for request in (0x5412, 0x541C, 0x100005412, 0xFFFFFFFF00005412):
        assert judge(machine, ioctl, 0, request) == errno.EPERM
    assert judge(machine, ioctl, 0, 0x5413) == ALLOW


@pytest.mark.parametrize("machine", AUDIT)
def test_filter_refuses_setuid_bits(machine):
    """A workspace in mode `rw` is the host's directory: see test_read_write_plants_no_setuid_program_on_the_host."""
    x86 = machine == "x86_64"
    calls = {
        "fchmod": ((91, 52), (3, 0o4755)),
        "fchmodat": ((268, 53), (3, 0, 0o4755)),
        "fchmodat2": ((452, 452), (3, 0, 0o2755)),
        "openat": ((257, 56), (3, 0, 0o101, 0o4755)),
        "mkdirat": ((258, 34), (3, 0, 0o2755)),
        "mknodat": ((259, 33), (3, 0, 0o104755)),
    }
    if x86:
        calls |= {
            "chmod": ((90, 0), (0, 0o4755)),
            "open": ((2, 0), (0, 0o101, 0o4755)),
            "creat": ((85, 0), (0, 0o4755)),
            "mkdir": ((83, 0), (0, 0o2755)),
            "mknod": ((133, 0), (0, 0o104755)),
        }
    assert [
        name
        for name, (numbers, arguments) in calls.items()
        if judge(machine, numbers[0 if x86 else 1], *arguments) == ALLOW
    ] == []
