"""Linux system calls that Python 3.11 does not offer: namespaces, mounts by descriptor, capabilities, prctl.

Thin and literal: one function per call, `OSError` with the call's name on failure, no policy. It knows nothing of
sandboxes. Sources: the man pages of the calls named in each function. Mounts use the descriptor API (`fsopen`,
`open_tree`, `move_mount`) because a mount that was never attached to a path vanishes with its last descriptor: a killed
process leaves none behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOATIME: Final = 1024
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_IDMAP: Final = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x00200000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# Calls newer than 5.1 have one number on every architecture; the older ones do not.
_PIVOT_ROOT, _SECCOMP, _CAPSET, _RENAMEAT2 = {"x86_64": (155, 317, 126, 316), "aarch64": (41, 277, 91, 276)}.get(
    platform.machine(), (-1, -1, -1, -1)
)
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_FSPICK, _OPENAT2, _MOUNT_SETATTR = 433, 437, 442

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE, _FSCONFIG_CMD_RECONFIGURE = 0, 1, 6, 7

AT_FDCWD: Final = -100
RENAME_NOREPLACE: Final = 1

IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_UNMOUNT: Final = 0x2000
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x01000000
IN_EXCL_UNLINK: Final = 0x04000000
IN_ISDIR: Final = 0x40000000

RESOLVE_BENEATH: Final = 0x08
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_XDEV: Final = 0x01

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *args: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *args), what)


def _text(value: str | None) -> ctypes.c_char_p:
    return ctypes.c_char_p(None if value is None else os.fsencode(value))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    what = f"mount {fstype or source or ''} on {target}"
    _check(_libc.mount(_text(source), _text(target), _text(fstype), ctypes.c_ulong(flags), _text(data)), what)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_text(target), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _syscall("pivot_root", _PIVOT_ROOT, _text(new_root), _text(put_old))


def prctl(option: int, value: int = 0, extra: int = 0) -> int:
    """prctl(2)."""
    zero = ctypes.c_ulong(0)
    return _check(
        _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(extra), zero, zero), f"prctl {option}"
    )


def set_process_name(name: str) -> None:
    """Set the calling thread's name, at most 15 bytes, as `ps` shows it."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def drop_capabilities() -> None:
    """Empty the bounding, ambient, inheritable, permitted and effective sets, for ever. capabilities(7)."""
    capability = 0
    while _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == 0:
        capability += 1
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _syscall("capset", _CAPSET, ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))


def install_seccomp(program: bytes) -> None:
    """Install a BPF filter (`struct sock_filter` array) on the calling thread. seccomp(2); needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _syscall("seccomp", _SECCOMP, ctypes.c_uint(1), ctypes.c_uint(0), ctypes.c_char_p(filter_program))


def loopback_up() -> None:
    """Bring `lo` up in the current network namespace. netdevice(7), SIOCSIFFLAGS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))


def write_id_maps(pid: int | str, uid_map: str, gid_map: str) -> None:
    """Write the maps of a user namespace. user_namespaces(7)."""
    process = Path("/proc") / str(pid)
    (process / "setgroups").write_text("deny")
    (process / "uid_map").write_text(uid_map)
    (process / "gid_map").write_text(gid_map)


def new_filesystem(fstype: str, options: dict[str, str | None], attributes: int = 0) -> int:
    """Make a file system and return a descriptor of its detached mount. fsopen(2), fsconfig(2), fsmount(2).

    An option whose value is None is a flag. The caller owns the descriptor; closing it unmounts, unless it was moved.
    """
    context = _syscall(f"fsopen {fstype}", _FSOPEN, _text(fstype), ctypes.c_uint(1))
    try:
        _set_options(fstype, context, options)
        _fsconfig(f"create {fstype}", context, _FSCONFIG_CMD_CREATE, None, None)
        return _syscall(f"fsmount {fstype}", _FSMOUNT, context, ctypes.c_uint(1), ctypes.c_uint(attributes))
    finally:
        os.close(context)


def reconfigure(mount_point: str, options: dict[str, str | None]) -> None:
    """Change options of the file system mounted at `mount_point`; others stay. fspick(2), fsconfig(2)."""
    at = ctypes.c_int(AT_FDCWD)
    context = _syscall(f"fspick {mount_point}", _FSPICK, at, _text(mount_point), ctypes.c_uint(1))
    try:
        _set_options(mount_point, context, options)
        _fsconfig(f"reconfigure {mount_point}", context, _FSCONFIG_CMD_RECONFIGURE, None, None)
    finally:
        os.close(context)


def _set_options(what: str, context: int, options: dict[str, str | None]) -> None:
    for key, value in options.items():
        command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
        _fsconfig(f"{what} option {key}", context, command, key, value)


def _fsconfig(what: str, context: int, command: int, key: str | None, value: str | None) -> None:
    try:
        _syscall(what, _FSCONFIG, context, ctypes.c_uint(command), _text(key), _text(value), ctypes.c_int(0))
    except OSError as error:
        try:
            detail = os.read(context, 4096).decode(errors="replace").strip()
        except OSError:
            raise error from None
        raise OSError(error.errno, f"{what}: {detail or os.strerror(error.errno or 0)}") from error


def clone_mount(directory_fd: int, path: str = "", *, recursive: bool = False) -> int:
    """Return a descriptor of a detached bind mount of `path` below `directory_fd`. open_tree(2).

    Before Linux 6.15 `directory_fd` must lie on a mount of the caller's own mount namespace, else EINVAL.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW
    flags |= _AT_RECURSIVE if recursive else 0
    return _syscall("open_tree", _OPEN_TREE, ctypes.c_int(directory_fd), _text(path), ctypes.c_uint(flags))


def set_mount_attributes(
    mount_fd: int, attributes: int, *, user_namespace: int = 0, recursive: bool = False, path: str = ""
) -> None:
    """Add attributes to a mount; with MOUNT_ATTR_IDMAP, map ids by `user_namespace`. mount_setattr(2)."""
    argument = struct.pack("QQQQ", attributes, 0, 0, user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall(
        "mount_setattr",
        _MOUNT_SETATTR,
        ctypes.c_int(mount_fd),
        _text(path),
        ctypes.c_uint(flags),
        ctypes.c_char_p(argument),
        ctypes.c_size_t(len(argument)),
    )


def attach_mount(mount_fd: int, target: str) -> None:
    """Attach a detached mount at `target` in this mount namespace. move_mount(2)."""
    _syscall(
        f"move_mount to {target}",
        _MOVE_MOUNT,
        ctypes.c_int(mount_fd),
        _text(""),
        ctypes.c_int(AT_FDCWD),
        _text(target),
        ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
    )


def open_beneath(directory_fd: int, path: str, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open `path`, which cannot leave `directory_fd` and may hold no symlink. openat2(2)."""
    how = struct.pack(
        "QQQ",
        flags | os.O_CLOEXEC,
        mode,
        resolve | RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    )
    return _syscall(
        "openat2",
        _OPENAT2,
        ctypes.c_int(directory_fd),
        _text(path),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )


def rename(old_directory: int, old: str, new_directory: int, new: str, flags: int = 0) -> None:
    """Rename `old` in one directory to `new` in another. renameat2(2)."""
    _syscall(
        "renameat2",
        _RENAMEAT2,
        ctypes.c_int(old_directory),
        _text(old),
        ctypes.c_int(new_directory),
        _text(new),
        ctypes.c_uint(flags),
    )


def inotify() -> int:
    """Return a non-blocking descriptor that tells what happens where watches are put. inotify(7)."""
    return _check(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)), "inotify_init1")


def add_watch(inotify_fd: int, path: str, mask: int) -> int:
    """Watch `path`; return the number of the watch, the same as before if there is one. inotify_add_watch(2)."""
    number = _libc.inotify_add_watch(ctypes.c_int(inotify_fd), _text(path), ctypes.c_uint32(mask))
    return _check(number, "inotify_add_watch")


def remove_watch(inotify_fd: int, number: int) -> None:
    """Watch no longer. inotify_rm_watch(2)."""
    _check(_libc.inotify_rm_watch(ctypes.c_int(inotify_fd), ctypes.c_int(number)), "inotify_rm_watch")
