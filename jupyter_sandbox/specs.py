"""The frozen values that the rest of the package passes around: limits, policies, templates, workspaces. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Final


class WorkspaceMode(StrEnum):
    """How the notebook's directory shows in a sandbox."""

    NONE = "none"
    READ_ONLY = "ro"
    OVERLAY = "overlay"
    """Readable; what is written goes to the sandbox's own disk and never to the host."""
    READ_WRITE = "rw"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps of one worker."""

    memory_mib: int = 1024
    cpus: float = 2.0
    processes: int = 256
    """Processes and threads together."""
    open_files: int = 4096
    disk_mib: int = 1024
    disk_inodes: int = 65536
    tmp_mib: int = 256
    """Size of /tmp; it lives in memory and counts against memory_mib."""
    shm_mib: int = 64


@dataclass(frozen=True, kw_only=True)
class Less:
    """What one sandbox gets less of than its template's `Limits`; None: all of it.

    Disks are not among them: they are there, with their size, before a sandbox is claimed.
    """

    memory_mib: int | None = None
    cpus: float | None = None
    processes: int | None = None
    open_files: int | None = None


UNLIMITED: Final = Less()


@dataclass(frozen=True, kw_only=True)
class Share:
    """A host directory that every sandbox of a template sees; operators use it for data sets."""

    source: str
    target: str
    writable: bool = False


class Transport(StrEnum):
    """What a rule lets pass."""

    TCP = "tcp"
    UDP = "udp"


Target = IPv4Network | IPv6Network
"""Where a rule leads. Names will be another member of this union; whoever acts on a target says which it knows."""


@dataclass(frozen=True, kw_only=True)
class EgressRule:
    """A target that workers may open connections to; nothing else of it, and nobody comes in."""

    to: Target
    first_port: int
    last_port: int
    """The same as `first_port` for one port."""
    protocol: Transport = Transport.TCP


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the network of a worker is. Without rules: its own loopback and nothing else."""

    egress: tuple[EgressRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """What of its policy one sandbox may not use: a target that is `denied` and not `excepted` from that.

    It only takes away: whatever is excepted, the policy has to let it pass.
    """

    denied: tuple[Target, ...] = ()
    excepted: tuple[Target, ...] = ()


UNRESTRICTED: Final = Restriction()


class KernelStart(StrEnum):
    """How a worker starts Python kernels that need no arguments of their own."""

    FORK = "fork"
    """Of a process that has everything loaded: fast, but hash seed and address layout are those of its siblings."""
    EXEC = "exec"
    """A new Python, that shares nothing with others."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A named immutable recipe for workers."""

    name: str
    description: str = ""
    limits: Limits = Limits()
    preload: tuple[str, ...] = ()
    """Modules that the zygote imports before it forks."""
    environment: tuple[tuple[str, str], ...] = ()
    shares: tuple[Share, ...] = ()
    policy: Policy = Policy()
    min_idle: int = 1
    """Warm workers to keep ready."""
    max_total: int = 200
    """Workers of this template that may exist at once, warm ones included."""
    start: KernelStart = KernelStart.FORK


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The most that a template may have which is defined while the broker runs."""

    limits: Limits = Limits(
        memory_mib=8192,
        cpus=8.0,
        processes=1024,
        open_files=16384,
        disk_mib=16384,
        disk_inodes=1 << 20,
        tmp_mib=1024,
        shm_mib=1024,
    )
    min_idle: int = 16
    max_total: int = 200


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What a claim wants to see of the notebook's directory."""

    mode: WorkspaceMode
    name: str
    """Last component of the directory's name: it shows as /workspace/<name>."""
