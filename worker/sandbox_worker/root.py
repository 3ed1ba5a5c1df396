"""The file system a worker sees: a minimal read-only root around the host's own Python.

`build` makes the tree once per zygote; `specialize` gives each worker its private parts (proc, tmp, shm, pts).
Nothing of the host is visible but /usr (with /lib, /bin, ...), a few public files of /etc, and the Python environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox_worker import linux
from sandbox_worker.harden import SANDBOX_UID

if TYPE_CHECKING:
    from collections.abc import Sequence

_ETC: Final = (
    "R",
    "alternatives",
    "ca-certificates",
    "fonts",
    "java-*-openjdk",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "protocols",
    "services",
    "ssl",
)
"""Patterns. Debian keeps part of R and of Java there."""
_ETC_WRITTEN: Final = {
    "passwd": "root:x:0:0:root:/nonexistent:/bin/false\n"
    f"sandbox:x:{SANDBOX_UID}:{SANDBOX_UID}:sandbox:/sandbox:/bin/bash\n",
    "group": f"root:x:0:\nsandbox:x:{SANDBOX_UID}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "resolv.conf": "",
    "hostname": "sandbox\n",
}
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_MASKED: Final = ("kcore", "keys", "timer_list", "sched_debug", "kallsyms", "sysrq-trigger")
_PRIVATE_TMP: Final = ("/tmp/", "/run/", "/dev/shm/")
_STASH: Final = "/.stash"
STAGE: Final = "/sys"
"""Where the tree is built: a directory that every host has and every user may pass. Covered in our namespace only."""


def build(root: str, read_only_paths: Sequence[str]) -> None:
    """Make the tree at `root`, an empty directory, in a mount namespace of the caller's own.

    `read_only_paths` are absolute host paths shown at the same place. Those below a directory that every worker gets
    fresh (/tmp) are kept aside as well, for `specialize` to show them again.
    """
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=16m")
    _bind_read_only("/usr", root + "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        host = Path("/", name)
        if host.is_symlink():
            Path(root, name).symlink_to(os.readlink(host))
        elif host.is_dir():
            _bind_read_only(str(host), f"{root}/{name}")
    for path in read_only_paths:
        _bind_read_only(path, root + path)
    for index, path in enumerate(_stashed(read_only_paths)):
        _bind_read_only(path, f"{root}{_STASH}/{index}")
    _build_etc(Path(root, "etc"))
    for name in ("proc", "sys", "tmp", "run", "var/tmp", "sandbox", "home/user", "workspace"):
        Path(root, name).mkdir(parents=True, exist_ok=True)
    _build_dev(Path(root, "dev"))
    # A new proc can be mounted only where an unobstructed one is already visible; each worker covers this one.
    linux.mount("/proc", root + "/proc", None, linux.MS_BIND | linux.MS_REC)


def _build_etc(etc: Path) -> None:
    etc.mkdir()
    for host in sorted(found for pattern in _ETC for found in Path("/etc").glob(pattern)):
        if host.exists():
            _bind_read_only(str(host.resolve()), str(etc / host.name))
    for name, text in _ETC_WRITTEN.items():
        (etc / name).write_text(text)


def _build_dev(dev: Path) -> None:
    for name in ("pts", "shm"):
        (dev / name).mkdir(parents=True)
    for name in _DEVICES:
        (dev / name).touch()
        linux.mount(f"/dev/{name}", str(dev / name), None, linux.MS_BIND)
    for name, target in {"fd": "/proc/self/fd", "ptmx": "pts/ptmx"}.items():
        (dev / name).symlink_to(target)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")


def specialize(read_only_paths: Sequence[str], *, tmp_mib: int, shm_mib: int) -> None:
    """Give the current mount namespace, a copy of the zygote's, its own proc, tmp, run, shm and pts."""
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", "/proc", "proc", flags | linux.MS_NOEXEC)
    for name in _MASKED:
        if Path("/proc", name).exists():
            linux.mount("/dev/null", f"/proc/{name}", None, linux.MS_BIND)
    for name in ("sys", "irq", "bus", "fs"):  # without root, some of it would be ours to write
        if Path("/proc", name).is_dir():
            linux.mount(f"/proc/{name}", f"/proc/{name}", None, linux.MS_BIND)
            linux.mount(None, f"/proc/{name}", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
    linux.mount("tmpfs", "/tmp", "tmpfs", flags, f"mode=1777,size={tmp_mib}m,nr_inodes={tmp_mib * 64}")
    linux.mount("tmpfs", "/run", "tmpfs", flags | linux.MS_NOEXEC, "mode=1777,size=1m,nr_inodes=256")
    linux.mount("tmpfs", "/dev/shm", "tmpfs", flags, f"mode=1777,size={shm_mib}m,nr_inodes=4096")
    linux.mount("tmpfs", "/workspace", "tmpfs", flags, "mode=755,size=64k,nr_inodes=64")  # mount points, see `seal`
    linux.mount(
        "devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,max=64"
    )
    _show_stashed(read_only_paths)


def prepare_zygote(read_only_paths: Sequence[str]) -> None:
    """Give the zygote itself a writable /tmp for imports, with the stashed paths shown again."""
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777,size=64m")
    _show_stashed(read_only_paths)


def seal() -> None:
    """Make the worker's root read-only and hide the stash."""
    if Path(_STASH).is_dir():
        linux.mount("tmpfs", _STASH, "tmpfs", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV, "mode=000,size=4k")
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    for path in ("/", "/workspace"):
        linux.mount(None, path, None, flags)


def _stashed(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if path.startswith(_PRIVATE_TMP)]


def _show_stashed(paths: Sequence[str]) -> None:
    for index, path in enumerate(_stashed(paths)):
        Path(path).mkdir(parents=True, exist_ok=True)
        linux.mount(f"{_STASH}/{index}", path, None, linux.MS_BIND)


def _bind_read_only(source: str, target: str) -> None:
    """Bind `source` at `target`, keeping what the source mount forbids, and make that one mount read-only."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    linux.mount(source, target, None, linux.MS_BIND)
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID
    status = os.statvfs(target)
    for name, flag in (("ST_NODEV", linux.MS_NODEV), ("ST_NOEXEC", linux.MS_NOEXEC), ("ST_NOATIME", linux.MS_NOATIME)):
        if status.f_flag & getattr(os, name):
            flags |= flag
    if status.f_flag & os.ST_RELATIME:
        flags |= 1 << 21
    linux.mount(None, target, None, flags)
