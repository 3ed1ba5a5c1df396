"""The namespaces a broker lives in: nobody else sees its mounts, and without root it is root of its own."""

from __future__ import annotations

import os

from jupyter_sandbox.errors import IsolationUnavailableError
from sandbox_worker import linux


def enter() -> bool:
    """Enter the mount namespace, and without root the user namespace, of the broker; return whether this is root.

    Raises IsolationUnavailableError that says what to change on this machine.
    """
    privileged = os.geteuid() == 0
    uid, gid = os.geteuid(), os.getegid()
    try:
        if privileged:
            linux.unshare(linux.CLONE_NEWNS)
        else:
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
            linux.write_id_maps("self", f"0 {uid} 1", f"0 {gid} 1")
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    except OSError as error:
        raise IsolationUnavailableError(
            f"this machine lets us make no namespaces ({error}). "
            + (
                "Inside a container, run it with --privileged or use the host."
                if privileged
                else "Run as root, or allow them: `sysctl -w kernel.unprivileged_userns_clone=1` (Debian), "
                "`sysctl -w user.max_user_namespaces=10000`, or on Ubuntu 24.04 and newer "
                "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            )
        ) from error
    return privileged
