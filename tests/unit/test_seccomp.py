"""The system call filter, run by a small BPF interpreter: what passes, what is refused and how, on both machines."""

from __future__ import annotations

import errno
import platform
import socket
import struct

import pytest

from sandbox_worker import linux, seccomp
from sandbox_worker.syscalls import _TABLE, JUDGED, allowed

pytestmark = pytest.mark.unit

ALLOW, KILL = "allow", "kill the process"
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SPECIAL = {"x86_64": {"clone": 56, "clone3": 435, "socket": 41, "ioctl": 16, "personality": 135}}
SPECIAL["aarch64"] = {"clone": 220, "clone3": 435, "socket": 198, "ioctl": 29, "personality": 92}
NUMBERS = {
    machine: {
        fields[0]: int(fields[column]) for fields in (row.split(":") for row in _TABLE.split()) if fields[column] != "-"
    }
    | JUDGED[machine]
    for machine, column in (("x86_64", 1), ("aarch64", 2))
}
FORBIDDEN = {  # from the kernel's unistd.h, not from our table
    "x86_64": {
        "ptrace": 101,
        "mount": 165,
        "umount2": 166,
        "pivot_root": 155,
        "chroot": 161,
        "unshare": 272,
        "setns": 308,
        "init_module": 175,
        "finit_module": 313,
        "delete_module": 176,
        "kexec_load": 246,
        "bpf": 321,
        "perf_event_open": 298,
        "keyctl": 250,
        "add_key": 248,
        "request_key": 249,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "userfaultfd": 323,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "pidfd_getfd": 438,
        "open_by_handle_at": 304,
        "name_to_handle_at": 303,
        "reboot": 169,
        "swapon": 167,
        "settimeofday": 164,
        "clock_settime": 227,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsmount": 432,
        "mount_setattr": 442,
        "acct": 163,
        "quotactl": 179,
        "iopl": 172,
        "ioperm": 173,
        "syslog": 103,
        "kcmp": 312,
        "fanotify_init": 300,
        "vhangup": 153,
        "lookup_dcookie": 212,
    },
    "aarch64": {
        "ptrace": 117,
        "mount": 40,
        "umount2": 39,
        "pivot_root": 41,
        "chroot": 51,
        "unshare": 97,
        "setns": 268,
        "init_module": 105,
        "bpf": 280,
        "perf_event_open": 241,
        "keyctl": 219,
        "io_uring_setup": 425,
        "userfaultfd": 282,
        "process_vm_readv": 270,
        "pidfd_getfd": 438,
        "open_by_handle_at": 265,
        "reboot": 142,
        "open_tree": 428,
        "fsopen": 430,
        "mount_setattr": 442,
        "syslog": 116,
        "kcmp": 272,
    },
}
MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def run(program: bytes, *, call: int, architecture: int, arguments: tuple[int, ...] = ()) -> str | int:
    """Run a classic BPF program on a `struct seccomp_data`; return ALLOW, KILL or the errno. linux/filter.h."""
    code = list(struct.iter_unpack("HBBI", program))
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<iIQ6Q", call, architecture, 0xDEAD, *(value & (1 << 64) - 1 for value in padded))
    accumulator, counter = 0, 0
    for _ in range(len(code) + 1):  # jumps go forward only
        operation, if_true, if_false, value = code[counter]
        counter += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15 | 0x25 | 0x35 | 0x45:
                holds = {
                    0x15: accumulator == value,
                    0x25: accumulator > value,
                    0x35: accumulator >= value,
                    0x45: accumulator & value != 0,
                }[operation]
                counter += if_true if holds else if_false
            case 0x06:
                action, number = value & 0xFFFF0000, value & 0xFFFF
                if action == 0x00050000:
                    return number
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}[action]
            case _:
                raise AssertionError(f"instruction {operation:#x} at {counter - 1} is none that we use")
    raise AssertionError("the program did not return")


@pytest.fixture(scope="module")
def verdict():
    programs = {machine: seccomp.program(machine) for machine in ARCHITECTURES}

    def judge(machine: str, call: int | str, *arguments: int, architecture: int | None = None) -> str | int:
        number = NUMBERS[machine][call] if isinstance(call, str) else call
        chosen = ARCHITECTURES[machine] if architecture is None else architecture
        return run(programs[machine], call=number, architecture=chosen, arguments=arguments)

    return judge


@MACHINES
def test_every_call_of_the_table_is_judged_as_the_table_says(verdict, machine):
    special = set(JUDGED[machine].values())
    for number in range(seccomp._LAST_KNOWN + 1):
        if number not in special:
            expected = ALLOW if number in allowed(machine) else errno.EPERM
            assert verdict(machine, number) == expected, number


@MACHINES
@pytest.mark.parametrize(
    "name", ["read", "write", "execve", "mmap", "futex", "openat", "mkdirat", "exit_group", "wait4", "kill"]
)
def test_everyday_calls_pass(verdict, machine, name):
    assert verdict(machine, name) == ALLOW


@pytest.mark.parametrize(("machine", "name"), [(machine, name) for machine in FORBIDDEN for name in FORBIDDEN[machine]])
def test_ways_out_are_refused(verdict, machine, name):
    assert verdict(machine, FORBIDDEN[machine][name]) == errno.EPERM


@MACHINES
@pytest.mark.parametrize("number", [463, 500, 1023, 0x7FFFFFFF])
def test_calls_of_the_future_do_not_exist(verdict, machine, number):
    assert verdict(machine, number) == errno.ENOSYS


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 59, 0x40000000 + 101])
def test_x32_calls_do_not_exist(verdict, number):
    assert verdict("x86_64", number) == errno.ENOSYS


@MACHINES
def test_a_negative_call_does_not_exist(verdict, machine):
    assert verdict(machine, -1) == errno.ENOSYS


@MACHINES
@pytest.mark.parametrize("architecture", [0, 0x40000003, 0x40000028, 0xC0000016])
def test_another_architecture_is_killed_whatever_it_calls(verdict, machine, architecture):
    for call in ("read", "clone", "socket", "ioctl"):
        assert verdict(machine, call, architecture=architecture) == KILL


def test_the_two_machines_do_not_pass_for_each_other(verdict):
    assert verdict("x86_64", 0, architecture=ARCHITECTURES["aarch64"]) == KILL
    assert verdict("aarch64", 63, architecture=ARCHITECTURES["x86_64"]) == KILL


@MACHINES
def test_clone_makes_processes_and_threads(verdict, machine):
    assert verdict(machine, "clone", 17) == ALLOW
    assert verdict(machine, "clone", 0x003D0F00) == ALLOW  # pthread_create
    assert verdict(machine, "clone", 0x01200011) == ALLOW  # fork


@MACHINES
@pytest.mark.parametrize(
    "flag",
    [
        linux.CLONE_NEWNS,
        linux.CLONE_NEWCGROUP,
        linux.CLONE_NEWUTS,
        linux.CLONE_NEWIPC,
        linux.CLONE_NEWUSER,
        linux.CLONE_NEWPID,
        linux.CLONE_NEWNET,
    ],
)
def test_clone_makes_no_namespace(verdict, machine, flag):
    assert verdict(machine, "clone", flag) == errno.EPERM
    assert verdict(machine, "clone", flag | 17) == errno.EPERM
    assert verdict(machine, "clone", flag | 0x003D0F00) == errno.EPERM


@MACHINES
def test_clone3_does_not_exist_so_that_the_c_library_uses_clone(verdict, machine):
    assert verdict(machine, "clone3", 0x7FFF00000000, 88) == errno.ENOSYS


@MACHINES
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK])
def test_usual_socket_families_pass(verdict, machine, family):
    assert verdict(machine, "socket", family, 1, 0) == ALLOW


@MACHINES
@pytest.mark.parametrize("family", [0, 3, 4, 5, 9, 15, 17, 21, 29, 31, 38, 40, 44, 45, 0xFFFFFFFF])
def test_other_socket_families_are_not_supported(verdict, machine, family):
    assert verdict(machine, "socket", family, 1, 0) == errno.EAFNOSUPPORT


@MACHINES
def test_high_bits_of_a_socket_family_do_not_hide_it(verdict, machine):
    assert verdict(machine, "socket", (1 << 32) | 17, 3, 0) == errno.EAFNOSUPPORT  # the kernel takes an int


@MACHINES
@pytest.mark.parametrize("request_number", [0x5412, 0x541C, (1 << 32) | 0x5412, (1 << 63) | 0x541C])
def test_text_is_not_pushed_into_a_terminal(verdict, machine, request_number):
    assert verdict(machine, "ioctl", 0, request_number, 0) == errno.EPERM


@MACHINES
@pytest.mark.parametrize("request_number", [0x5401, 0x5413, 0x541B, 0])
def test_other_ioctls_pass(verdict, machine, request_number):
    assert verdict(machine, "ioctl", 0, request_number, 0) == ALLOW


@MACHINES
def test_the_descriptor_of_an_ioctl_is_not_taken_for_its_request(verdict, machine):
    assert verdict(machine, "ioctl", 0x5412, 0x5401, 0) == ALLOW


@MACHINES
def test_personality_stays_usual(verdict, machine):
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert verdict(machine, "personality", value) == ALLOW
    for value in (0x40000, 0x400000, 0x40008, 1):  # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, ...
        assert verdict(machine, "personality", value) == errno.EPERM


@MACHINES
def test_the_program_fits_into_the_kernel_s_limit(machine):
    assert len(seccomp.program(machine)) // 8 <= 4096  # BPF_MAXINSNS


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="header numbers of x86_64")
def test_the_table_has_the_numbers_of_this_machine():
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(NUMBERS["x86_64"]["getpid"]) == os.getpid()
    assert libc.syscall(NUMBERS["x86_64"]["getuid"]) == os.getuid()
    assert libc.syscall(NUMBERS["x86_64"]["getppid"]) == os.getppid()


@MACHINES
def test_no_number_is_in_the_table_twice(machine):
    numbers = [number for name, number in NUMBERS[machine].items()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("numbers", [[], [0], [1, 2, 3], [5, 1, 2, 9, 7, 8], list(range(0, 40, 2))])
def test_ranges_cover_exactly_the_numbers(numbers):
    covered = [number for first, last in seccomp._ranges(numbers) for number in range(first, last + 1)]
    assert covered == sorted(numbers)
