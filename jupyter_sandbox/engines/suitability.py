"""Whether a container engine can hold workers, and what it does less well than it could, judged from its words. Pure.

Source: Docker Engine API 1.41, SystemInfo. Podman answers the same with fewer fields; what is absent is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ANY_LIMIT: Final = 1 << 20
"""The most open files that Linux lets a process have, unless it is told otherwise; more is no limit."""
_OWN_KERNEL: Final = ("runsc", "kata")
"""Parts of the names of runtimes, and of their programs."""
_SYS_RESOURCE: Final = 24
"""Number of CAP_SYS_RESOURCE; capabilities(7)."""


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Something that is less than it could be, and what would mend it."""

    fact: str
    remedy: str


def summary(version: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Return what the engine is, in a line."""
    return (
        f"container engine {version.get('Version')}, storage {info.get('Driver')}, "
        f"control groups version {info.get('CgroupVersion') or 1}, runtime {info.get('DefaultRuntime')}"
    )


def refusal(info: Mapping[str, Any], runtime: str = "") -> str | None:
    """Return why no worker can be made with this engine, or None. `runtime`: the one to use, empty for the default."""
    options = _security_options(info)
    if "rootless" in options:
        return "the container engine runs without root, so workers could have no host users of their own"
    if options and "seccomp" not in options:
        return "the container engine filters no system calls (no seccomp)"
    runtimes = info.get("Runtimes") or {}
    if runtime and runtimes and runtime not in runtimes:
        return f"the container engine has no runtime {runtime!r}; it has: {', '.join(sorted(runtimes))}"
    used = runtime or str(info.get("DefaultRuntime") or "")
    program = str((runtimes.get(used) or {}).get("path") or "")
    if any(name in words for name in _OWN_KERNEL for words in (used, program)):
        return (
            f"the runtime {used!r} gives containers a kernel of their own, into which nothing can be mounted from "
            "outside; use runc or crun"
        )
    return None


def is_podman(version: Mapping[str, Any]) -> bool:
    """Return whether the engine is Podman, which takes a system call profile as a path only."""
    return any("podman" in str(component.get("Name")).lower() for component in version.get("Components") or ())


def remaps(info: Mapping[str, Any]) -> bool:
    """Return whether the engine gives containers other uids on the host than they see."""
    return "userns" in _security_options(info)


def processors(info: Mapping[str, Any]) -> int:
    """Return how many processors the engine's machine has, 0 if it does not say."""
    count = info.get("NCPU")
    return count if isinstance(count, int) and count > 0 else 0


def capabilities(status: str) -> int | None:
    """Return the effective capabilities that `/proc/PID/status` tells, as a bit mask; None when it does not."""
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), None)


def highest(status: str, limits: str) -> tuple[int, int]:
    """Return the highest limits of open files and of processes that an engine can set; the texts are of its process.

    Without CAP_SYS_RESOURCE these are its own: `/proc/PID/limits`.
    """
    held = capabilities(status)
    hard = {"Max open files": ANY_LIMIT, "Max processes": ANY_LIMIT}
    if held is not None and not held >> _SYS_RESOURCE & 1:
        for line in limits.splitlines():
            name, words = line[:25].strip(), line[25:].split()
            if name in hard and len(words) > 1 and words[1].isdigit():
                hard[name] = min(ANY_LIMIT, int(words[1]))
    return hard["Max open files"], hard["Max processes"]


def weaknesses(version: Mapping[str, Any], info: Mapping[str, Any], capabilities: int | None) -> list[Weakness]:
    """Return what is weaker than it could be. `capabilities`: the daemon's effective set, None when unknown.

    Podman looks for files of control groups of version 1 only, and has no daemon that takes containers along.
    """
    found = []
    if is_podman(version):
        unknown = ("CpuCfsQuota", "SwapLimit") if _is_unified(info) else ()
        info = {key: value for key, value in info.items() if key not in (*unknown, "LiveRestoreEnabled")}
    options = _security_options(info)
    if options and not options & {"apparmor", "selinux"}:
        fact = "neither AppArmor nor SELinux confines containers here; the other walls stand"
        found.append(Weakness(fact=fact, remedy="use a kernel with AppArmor or SELinux, and install its profiles"))
    for field, what in {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "processor"}.items():
        if info.get(field) is False:
            found.append(Weakness(fact=f"no limit of {what} can be set", remedy="enable that control group controller"))
    if info.get("SwapLimit") is False:
        remedy = "use a host without swap, or one with systemd" if _is_unified(info) else "boot with `swapaccount=1`"
        found.append(Weakness(fact="swap is not limited", remedy=remedy))
    if capabilities is not None and not capabilities >> _SYS_RESOURCE & 1:
        fact = "the engine lacks CAP_SYS_RESOURCE: no limit of a worker can be above the engine's own"
        found.append(Weakness(fact=fact, remedy="give it that capability, if a template needs more open files"))
    if info.get("LiveRestoreEnabled") is False:
        fact = "sandboxes end when the container engine is restarted"
        found.append(Weakness(fact=fact, remedy='set `"live-restore": true` in its daemon.json (docs/docker.md)'))
    return found


def _is_unified(info: Mapping[str, Any]) -> bool:
    """Return whether control groups are those of version 2."""
    return str(info.get("CgroupVersion")) == "2"


def _security_options(info: Mapping[str, Any]) -> set[str]:
    """Return the names of `["name=seccomp,profile=default", "name=rootless", ...]`."""
    names = set()
    for option in info.get("SecurityOptions") or ():
        fields = dict(part.partition("=")[::2] for part in str(option).split(","))
        names.add(fields.get("name", str(option)))
    return names
