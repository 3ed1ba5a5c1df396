"""Where things lie on the host: one directory tree for each Python environment and user.

A broker serves kernels from the environment it was started in, so two environments have two brokers. The run
directory is short, because unix socket paths are, and the owner's alone.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jupyter_core.paths import jupyter_data_dir

from jupyter_sandbox.errors import BrokerUnavailableError

SOCKET_VARIABLE: Final = "JUPYTER_SANDBOX_SOCKET"
"""Names the socket of a broker that somebody else runs; clients then never start one."""
DIRECTORY_VARIABLE: Final = "JUPYTER_SANDBOX_DIR"
"""Names a directory for everything of a broker, instead of the usual places. Keep it short: sockets lie in it."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """The paths of one broker."""

    run: Path
    """Sockets and ledger; goes away with a reboot, as workers do."""
    images: Path
    """Virtual disks while they are being made; below it, what is kept for ever."""
    socket: Path

    @property
    def instance(self) -> str:
        """A name for this tree that no other tree on this machine has."""
        return hashlib.sha256(bytes(self.run)).hexdigest()[:12]

    @property
    def lock(self) -> Path:
        """Held by the one broker that may use this tree."""
        return self.run / "lock"

    @property
    def ledger(self) -> Path:
        """One record for each worker."""
        return self.run / "ledger"

    @property
    def templates(self) -> Path:
        """Templates that were defined while a broker ran."""
        return self.images / "templates"

    @property
    def log(self) -> Path:
        """The broker's own log, of bounded size."""
        return self.run / "broker.log"

    @property
    def stage(self) -> Path:
        """Where mounts have a path for a moment, inside a mount namespace that the host does not see."""
        return self.run / "stage"

    @property
    def profile(self) -> Path:
        """The system call profile of containers, for a container engine that reads it from a file."""
        return self.run / "seccomp.json"

    def kernel_sockets(self, seat: str) -> Path:
        """Return the path prefix of a kernel's sockets."""
        return self.run / "k" / seat

    def agent_socket(self, sandbox: str) -> Path:
        """Return where the broker reaches a worker's agent."""
        return self.run / "a" / sandbox.removeprefix("sbx_")

    def hand_over(self, sandbox: str) -> Path:
        """Return the directory that a container of a worker sees until it has its listener."""
        return self.run / "h" / sandbox.removeprefix("sbx_")


def find() -> Places:
    """Return the places of this user's broker for this Python environment."""
    uid = os.getuid()
    tag = hashlib.sha256(f"{uid} {Path(sys.prefix).resolve()}".encode()).hexdigest()[:8]
    named, everything = os.environ.get(SOCKET_VARIABLE), os.environ.get(DIRECTORY_VARIABLE)
    if everything:
        base, images = Path(everything), Path(everything, "images")
    elif uid == 0:
        base, images = Path("/run/jupyter-sandbox"), Path("/var/lib/jupyter-sandbox")
    else:
        given = os.environ.get("XDG_RUNTIME_DIR")
        base = Path(given, "jsb") if given else Path(f"/tmp/jupyter-sandbox-{uid}")  # noqa: S108 - checked by `make`
        images = Path(jupyter_data_dir(), "sandbox")
    run = base / tag
    return Places(run=run, images=images / tag, socket=Path(named) if named else run / "broker")


def own_log() -> Path | None:
    """Return the log of this user's own broker, if there is one: those that run in the foreground have none."""
    log = find().log
    return log if SOCKET_VARIABLE not in os.environ and log.exists() else None


def make(places: Places) -> None:
    """Make the directories; refuses those that another user could have put there. Raises BrokerUnavailableError.

    As root the ways to the sockets may be passed by everybody, since clients and workers' namespaces are other
    users; what lies there is protected by its own permissions.
    """
    passable = 0o711 if os.getuid() == 0 else 0o700
    places.run.mkdir(mode=passable, parents=True, exist_ok=True)
    places.images.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (places.run.parent, places.run, places.images):
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise BrokerUnavailableError(f"others may write to the broker's directory {directory}; remove it")
    places.run.parent.chmod(passable)
    for directory in (places.run / "k", places.run / "a", places.run / "h", places.stage):
        directory.mkdir(mode=passable, exist_ok=True)
