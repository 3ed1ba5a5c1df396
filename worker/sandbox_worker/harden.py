"""Take away, for ever, what a sandbox must not have: capabilities, new privileges, system calls, resources.

Called by the agent when it binds, before any code of a user exists in the worker. Order matters and is the order below:
a user namespace of its own (so that process limits count for this worker alone), capabilities, limits, seccomp. In a
container the first step is not ours to take: there the agent has one host uid and no capability from its start.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Final

from sandbox_worker import linux, seccomp
from sandbox_worker.protocol import AGENT_FILES

if TYPE_CHECKING:
    from collections.abc import Mapping

SANDBOX_UID: Final = 1000
"""The one user a sandbox sees, whatever its id is on the host."""

PROGRAM: Final = seccomp.program()


def drop_privileges(uid: int, rlimits: Mapping[str, int], namespace: int | None = None) -> None:
    """Become SANDBOX_UID in a user namespace, where `uid` of the zygote's namespace is the only one that exists.

    `namespace` is the descriptor of one that another process of this worker made by this function; None makes it.
    `rlimits` maps names such as `RLIMIT_NOFILE` to values. Raises OSError or ValueError; the caller must then exit.
    """
    if uid:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root after the change of uid
    if namespace is None:
        linux.unshare(linux.CLONE_NEWUSER)
        linux.write_id_maps("self", f"{SANDBOX_UID} {uid} 1", f"{SANDBOX_UID} {uid} 1")
    else:
        linux.setns(namespace, linux.CLONE_NEWUSER)
    restrict(rlimits)


def restrict(rlimits: Mapping[str, int]) -> None:
    """Give up capabilities, resources beyond `rlimits`, new privileges and system calls; the caller stays who it is.

    Raises OSError or ValueError; the caller must then exit.
    """
    linux.drop_capabilities()
    limit(0, rlimits)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.install_seccomp(PROGRAM)


def of_agent(rlimits: Mapping[str, int]) -> dict[str, int]:
    """Return the limits of an agent; its children have `rlimits` themselves, see `children.fork`.

    A tab of a notebook takes eight descriptors of its agent's: none of what the sandbox may open.
    """
    return {name: max(value, AGENT_FILES) if name == "RLIMIT_NOFILE" else value for name, value in rlimits.items()}


def limit(pid: int, rlimits: Mapping[str, int]) -> None:
    """Lower the resource limits of a process, of the caller by 0. Raises OSError or ValueError."""
    for name, value in rlimits.items():
        number = getattr(resource, name)
        hard = resource.prlimit(pid, number)[1]
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(pid, number, (lowered, lowered))
