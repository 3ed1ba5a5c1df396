"""Give detached mounts a path for a moment, which no other process of the host sees.

overlayfs takes its layers by path, and Linux before 6.15 clones no mount that lies nowhere. A stage is a directory in a
mount namespace of our own, so a process that is killed meanwhile takes the attached mounts with it.
Sources: move_mount(2), open_tree(2), mount_namespaces(7).
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_worker import linux

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stage:
    """A directory with room for the mounts of one user at a time. Blocking: use it in a thread."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which exists and holds nothing else."""
        self._directory = directory
        self._in_use = threading.Lock()

    @contextlib.contextmanager
    def attached(self, **mounts: int) -> Iterator[Path]:
        """Attach detached `mounts` at their names below the yielded directory. Each can be attached only once."""
        with self._in_use, contextlib.ExitStack() as undo:
            for name, mount in mounts.items():
                place = self._directory / name
                place.mkdir(exist_ok=True)
                linux.attach_mount(mount, str(place))
                undo.callback(linux.umount, str(place))
            yield self._directory

    def left(self) -> list[str]:
        """Return the names of mounts that are attached though nobody uses the stage: one could not be taken away."""
        with self._in_use:
            return [Path(target).name for target in self._targets()]

    def clear(self) -> None:
        """Take them away."""
        with self._in_use:
            for target in self._targets():
                linux.umount(target)

    def _targets(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        targets = [line.split()[4] for line in lines]
        return [target for target in targets if Path(target).parent == self._directory]
