"""What the container of a worker looks like, as data for the Docker API. Pure.

`container_config` is the whole of it: nothing else decides what a container may do. The system call profile comes from
the same table as the filter that the agent installs when it is bound; it is the first of two nets, since the profile's
format cannot say all that the filter can. Sources: Docker Engine API 1.41 (ContainerCreate), seccomp profiles of the
OCI runtime specification.
"""

from __future__ import annotations

import errno
import json
import platform
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.engines.held import NO_CORE
from jupyter_sandbox.engines.suitability import ANY_LIMIT
from sandbox_worker import syscalls
from sandbox_worker.protocol import AGENT_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.specs import Limits, Template

INSTANCE: Final = "jupyter-sandbox.instance"
SANDBOX: Final = "jupyter-sandbox.sandbox"
TEMPLATE: Final = "jupyter-sandbox.template"
VERSION: Final = "jupyter-sandbox.version"
"""Labels of our containers: what is ours on this machine is what carries them."""

HOSTNAME: Final = "sandbox"
HAND_OVER: Final = "/hand-over"
"""Where the container sees its hand-over directory; `sandbox_worker.container` knows it too."""

SEALED: Final = ("/", "/sys", "/workspace", "/dev/mqueue", "/proc/acpi", "/proc/asound", "/proc/scsi")
"""Mounts that become read-only, nosuid and nodev when the worker is bound, where they exist: the engine makes them less
strict."""

PUBLIC_FILES: Final = ("passwd", "group", "hosts", "hostname", "resolv.conf")
"""Files of /etc that are made for each worker and lie in its hand-over directory while it starts."""

_AGENT_OOM_SCORE: Final = 100
_MASKED: Final = (
    "/dev/mqueue",
    "/proc/acpi",
    "/proc/asound",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys",
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys")
_ARCHITECTURES: Final = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"], "aarch64": ["SCMP_ARCH_AARCH64"]}
"""Calls of another architecture kill the calling *thread* here, which leaves a process hanging. The agent's filter
kills the process for 32-bit calls and knows no x32 calls, so these must get past this net to be refused by that one."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this machine and the operator add to a container."""

    image: str
    instance: str
    version: str
    runtime: str = ""
    """Empty: the daemon's default."""
    open_files: int = ANY_LIMIT
    """Highest limit of open files that the daemon can set: it may lack the capability to raise its own."""
    processes: int = ANY_LIMIT
    """Likewise for processes of one user."""
    processors: int = 0
    """How many the machine has, 0 if unknown: the daemon refuses a container that may use more."""
    profile: str = ""
    """Path of a file with `seccomp_profile`, for a daemon that reads no profile from the request (Podman)."""
    remaps: bool = False
    """Whether the daemon would give containers other uids on the host than they see (userns-remap)."""


def public_files(uid: int) -> dict[str, str]:
    """Return the text of each of PUBLIC_FILES for a worker of host uid `uid`."""
    return {
        "passwd": f"root:x:0:0:root:/nonexistent:/bin/false\nsandbox:x:{uid}:{uid}:sandbox:/sandbox:/bin/bash\n",
        "group": f"root:x:0:\nsandbox:x:{uid}:\n",
        "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
        "hostname": f"{HOSTNAME}\n",
        "resolv.conf": "",
    }


def container_config(*, sandbox: str, template: Template, uid: int, hand_over: str, host: Host) -> dict[str, Any]:
    """Return the body of ContainerCreate for a worker.

    `uid`: host uid of everything inside; `hand_over`: host path of the worker's hand-over directory.
    """
    limits = template.limits
    tmpfs = "rw,nosuid,nodev,mode=1777"
    return {
        "Image": host.image,
        "Entrypoint": ["python", "-P", "-m", "sandbox_worker"],
        "Cmd": list(template.preload),
        "User": f"{uid}:{uid}",
        "WorkingDir": "/",
        "Hostname": HOSTNAME,
        "Tty": False,
        "OpenStdin": False,
        "NetworkDisabled": True,
        "Labels": {
            INSTANCE: host.instance,
            SANDBOX: sandbox,
            TEMPLATE: template.name,
            VERSION: host.version,
        },
        "HostConfig": {
            "AutoRemove": False,  # daemons end such containers when they restart, in spite of live-restore
            "Binds": [
                f"{hand_over}:{HAND_OVER}:ro",
                *(f"{hand_over}/{name}:/etc/{name}:ro" for name in PUBLIC_FILES),
            ],
            "CapAdd": [],
            "CapDrop": ["ALL"],
            "CgroupnsMode": "private",
            "Devices": [],
            "Init": False,  # the agent reaps
            "IpcMode": "private",
            "LogConfig": {"Type": "none", "Config": {}},
            "MaskedPaths": list(_MASKED),
            "NetworkMode": "none",
            "OomScoreAdj": _AGENT_OOM_SCORE,  # kernels raise theirs: a full memory limit takes them first
            "Privileged": False,
            "ReadonlyPaths": list(_READ_ONLY),
            "ReadonlyRootfs": True,
            "RestartPolicy": {"Name": "no"},
            "SecurityOpt": ["no-new-privileges", f"seccomp={host.profile or json.dumps(seccomp_profile())}"],
            "Sysctls": {"net.ipv4.ping_group_range": "1 0"},  # the kernel's default: nobody; Docker's is everybody
            "Tmpfs": {
                "/tmp": f"{tmpfs},exec,size={limits.tmp_mib}m",  # noqa: S108
                "/run": f"{tmpfs},noexec,size=1m",
                "/dev/shm": f"{tmpfs},exec,size={limits.shm_mib}m",  # noqa: S108
                "/workspace": "rw,nosuid,nodev,noexec,mode=755,size=64k",
                "/var/tmp": "ro,nosuid,nodev,noexec,mode=755,size=4k",  # noqa: S108 - Podman makes it writable else
            },
            "Ulimits": [
                _ulimit("core", NO_CORE),
                _ulimit("nofile", min(max(limits.open_files, AGENT_FILES), host.open_files)),
                _ulimit("nproc", min(limits.processes, host.processes)),
            ],
            **resources(limits, host),
            **({"UsernsMode": "host"} if host.remaps else {}),  # uids are unique on the host; disk and shares need them
            **({"Runtime": host.runtime} if host.runtime else {}),
        },
    }


def resources(limits: Limits, host: Host) -> dict[str, Any]:
    """Return what of `limits` its control group holds: part of ContainerCreate, and what ContainerUpdate takes."""
    memory = limits.memory_mib << 20
    return {
        "Memory": memory,
        # Memory and swap together: not a page of swap. Without the byte more, systemd is not told that there shall be
        # none on control groups of version 2, and allows all of it when it reloads (moby#51446).
        "MemorySwap": memory + 1,
        "NanoCpus": int(min(limits.cpus, host.processors or limits.cpus) * 1e9),
        "PidsLimit": limits.processes,
    }


def inode_limits(limits: Limits) -> dict[str, int]:
    """Return how many files each of the container's temporary file systems may hold.

    They are set from outside when the worker is bound, since Podman knows no such option of a tmpfs.
    """
    return {"/tmp": limits.tmp_mib * 64, "/run": 256, "/dev/shm": 4096, "/workspace": 64}  # noqa: S108


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def seccomp_profile(machine: str = platform.machine()) -> dict[str, Any]:
    """Return the profile for `machine`; raises ValueError for one without a table.

    Weaker than the agent's filter in three points: an `ioctl` is not judged, what is refused fails with EPERM whatever
    the reason, and whether a call is newer than the table is the daemon's judgement.
    """
    if machine not in syscalls.JUDGED:
        raise ValueError(f"no system call table for {machine}; known: {', '.join(sorted(syscalls.JUDGED))}")
    calls = syscalls.JUDGED[machine]
    rules = [
        _allow(syscalls.allowed_names(machine)),
        _allow(["ioctl"]),
        _allow_without("clone", 0, syscalls.NAMESPACE_FLAGS),
    ]
    rules += [_allow_value("socket", 0, family) for family in syscalls.SOCKET_FAMILIES]
    rules += [_allow_value("socketpair", 0, socket.AF_UNIX)]
    rules += [_allow_value("personality", 0, value) for value in syscalls.PERSONALITIES]
    for name, argument in syscalls.MODE_ARGUMENT.items():
        if name in calls:
            rules.append(_allow_without(name, argument, syscalls.SETUID_OR_SETGID))
    for name, argument in syscalls.FLAGS_ARGUMENT.items():
        if name in calls:  # two rules of one call: either is enough
            rules.append(_allow_without(name, argument + 1, syscalls.SETUID_OR_SETGID))
            rules.append(_allow_without(name, argument, syscalls.CREATES))
    rules.append({"names": list(syscalls.ABSENT), "action": "SCMP_ACT_ERRNO", "errnoRet": int(errno.ENOSYS)})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": int(errno.EPERM),
        "architectures": _ARCHITECTURES[machine],
        "syscalls": rules,
    }


def _allow(names: Iterable[str]) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW"}


def _allow_value(name: str, argument: int, value: int) -> dict[str, Any]:
    compared = {"index": argument, "value": int(value), "op": "SCMP_CMP_EQ"}
    return _allow([name]) | {"args": [compared]}


def _allow_without(name: str, argument: int, bits: int) -> dict[str, Any]:
    compared = {"index": argument, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return _allow([name]) | {"args": [compared]}
