"""User namespaces whose maps an idmapped mount takes. Needs root. Sources: mount_setattr(2), user_namespaces(7)."""

from __future__ import annotations

import os
import signal
from typing import Final

from jupyter_sandbox.host import forks
from sandbox_worker import linux

_TIMEOUT_S: Final = 10


def user_namespace(uid_map: str, gid_map: str) -> int:
    """Return a descriptor of a new user namespace with these maps, for `linux.set_mount_attributes`. Nobody is in it.

    Blocking: it forks. Its child is told when to end and does not wait for a pipe to close: a child that another thread
    forks meanwhile holds a copy of that, and two would wait for each other for ever. It ends with the caller's thread:
    it holds copies of all descriptors, and a broker's lock must be free for the next when one is killed.
    """
    parent = os.getpid()
    ready_reader, ready_writer = os.pipe2(os.O_CLOEXEC)
    done_reader, done_writer = os.pipe2(os.O_CLOEXEC)
    holder = forks.fork()
    if holder == 0:
        try:
            signal.alarm(_TIMEOUT_S)
            linux.unshare(linux.CLONE_NEWUSER)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # only now: new credentials take it back
            if os.getppid() == parent:
                os.write(ready_writer, b"!")
                os.read(done_reader, 1)
        finally:
            os._exit(0)
    try:
        os.close(ready_writer)
        os.read(ready_reader, 1)
        linux.write_id_maps(holder, uid_map, gid_map)
        return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.write(done_writer, b"!")
        for descriptor in (ready_reader, done_reader, done_writer):
            os.close(descriptor)
        os.waitpid(holder, 0)
