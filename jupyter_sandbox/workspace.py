"""Show the notebook's directory inside a sandbox.

The caller passes a directory it opened with its own rights, so the broker never acts on a path that somebody else
chose. The owner's uid on the host and the sandbox's user are the same person inside (idmapped mounts with root, the
user namespace without): code may read what the owner may read of this one directory, and in `overlay` mode it writes
to the sandbox's disk only.

In the owner's home directory, names that begin with a dot stay hidden: keys and tokens live there. `/` is never shown.
Sources: mount_setattr(2), overlayfs in the kernel's documentation.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import pwd
import re
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import WorkspaceError
from jupyter_sandbox.host import idmaps
from jupyter_sandbox.specs import Share, Workspace, WorkspaceMode
from sandbox_worker import linux

if TYPE_CHECKING:
    from jupyter_sandbox.host.stage import Stage

TOP: Final = "/workspace"
KERNELSPEC: Final = "/run/kernelspec"
"""Where the directory of a kernelspec shows whose command names files in it."""
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f/\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_NAME_BYTES: Final = 128
_KEPT_NAMESPACES: Final = 64


def target(workspace: Workspace) -> str:
    """Return where the workspace shows inside the worker. Pure."""
    name = _UNSAFE.sub("_", workspace.name).encode()[:_MAX_NAME_BYTES].decode(errors="ignore").strip()
    return f"{TOP}/{name}" if name not in ("", ".", "..") else f"{TOP}/notebook"


class Mounter:
    """Makes detached mounts. Blocking: call it in a thread."""

    def __init__(self, stage: Stage, *, homes: tuple[Path, ...] | None) -> None:
        """`homes`: None for root; else the home directories of the one user we serve, in whose namespace we are."""
        self._stage = stage
        self._homes = homes
        self._namespaces: collections.OrderedDict[tuple[str, str], int] = collections.OrderedDict()
        self._namespaces_in_use = threading.Lock()

    def mount(self, workspace: Workspace, directory: int, layers: int, *, owner: int, uid: int) -> int:
        """Return a detached mount of `directory` as `workspace.mode` says, for a worker of host uid `uid`.

        `directory` was opened by a process of `owner`; `layers` is the disk's mount for an overlay. Raises
        WorkspaceError.
        """
        try:
            path = _identified(directory)
            homes = self._homes or _homes(owner)
            if path == "/" or any(home.is_relative_to(path) and str(home) != path for home in homes):
                raise WorkspaceError(f"{path} is not shown in a sandbox: homes lie below it; start elsewhere")
            if str(Path(path)) in map(str, homes) and workspace.mode is not WorkspaceMode.OVERLAY:
                raise WorkspaceError("a home directory is shown as `overlay` only, which hides its dot files")
            with contextlib.ExitStack() as undo:
                opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                undo.callback(os.close, opened)
                if not os.path.sameopenfile(opened, directory):
                    raise WorkspaceError("the notebook's directory was replaced meanwhile; try again")
                lower = linux.clone_mount(opened)
                undo.callback(os.close, lower)
                self._map_owner(lower, owner, uid, read_only=workspace.mode is not WorkspaceMode.READ_WRITE)
                if workspace.mode is WorkspaceMode.OVERLAY:
                    hidden = _hidden_names(opened) if path in map(str, homes) else []
                    return self._overlay(lower, layers, hidden)
                undo.pop_all()
                os.close(opened)
                return lower
        except OSError as error:
            raise WorkspaceError(f"the notebook's directory cannot be shown in the sandbox: {error}") from error

    def share(self, share: Share, *, owner: int, uid: int) -> int:
        """Return a detached mount of an operator's directory, with the rights of `owner`; raises WorkspaceError."""
        try:
            opened = os.open(share.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mount = linux.clone_mount(opened)
            finally:
                os.close(opened)
            self._map_owner(mount, owner, uid, read_only=not share.writable)
        except OSError as error:
            raise WorkspaceError(f"the template's share {share.target} cannot be mounted: {error}") from error
        return mount

    def _map_owner(self, mount: int, owner: int, uid: int, *, read_only: bool) -> None:
        attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
        attributes |= linux.MOUNT_ATTR_RDONLY if read_only else 0
        if self._homes is not None:
            linux.set_mount_attributes(mount, attributes)
            return
        group = pwd.getpwuid(owner).pw_gid if _known(owner) else owner
        with self._namespaces_in_use:
            namespace = self._namespace(f"{owner} {uid} 1", f"{group} {uid} 1")
            linux.set_mount_attributes(mount, attributes | linux.MOUNT_ATTR_IDMAP, user_namespace=namespace)

    def _namespace(self, uid_map: str, gid_map: str) -> int:
        """Return the user namespace with these maps; the last ones are kept, since making one forks this process."""
        maps = (uid_map, gid_map)
        if maps not in self._namespaces:
            self._namespaces[maps] = idmaps.user_namespace(uid_map, gid_map)
        self._namespaces.move_to_end(maps)
        if len(self._namespaces) > _KEPT_NAMESPACES:
            os.close(self._namespaces.popitem(last=False)[1])
        return self._namespaces[maps]

    def _overlay(self, lower: int, layers: int, hidden: list[str]) -> int:
        """Put the layers together, the upper ones from the mount `layers`, which cannot be used for it again."""
        for name in hidden:  # a whiteout: the overlay shows nothing of that name, and the layer is out of reach
            os.mknod(f"upper/{name}", stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=layers)
        with self._stage.attached(lower=lower, disk=layers) as stage:
            options: dict[str, str | None] = {
                "source": "workspace",
                "lowerdir": f"{stage}/lower",
                "upperdir": f"{stage}/disk/upper",
                "workdir": f"{stage}/disk/work",
            }
            if self._homes is not None:
                options["userxattr"] = None
            attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
            return linux.new_filesystem("overlay", options, attributes)


def _identified(directory: int) -> str:
    """Return the path of an open directory; raises WorkspaceError for anything that does not prove a right to read."""
    flags = fcntl.fcntl(directory, fcntl.F_GETFL)
    if flags & os.O_PATH or not stat.S_ISDIR(os.fstat(directory).st_mode):
        raise WorkspaceError("the workspace must be a directory opened for reading")
    path = os.readlink(f"/proc/self/fd/{directory}")
    if not path.startswith("/") or path.endswith(" (deleted)"):
        raise WorkspaceError("the notebook's directory does not exist any more")
    return path


def _hidden_names(directory: int) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(".")]


def _homes(uid: int) -> tuple[Path, ...]:
    return (Path(pwd.getpwuid(uid).pw_dir).resolve(),) if _known(uid) else ()


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
