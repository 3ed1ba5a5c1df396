"""Limits on memory, processor and processes of one worker by control groups, version 1 or 2; they freeze it, too.

`find` reads how this host is set up and what we may do there; a `Hierarchy` makes and removes one group for each
worker. Where groups cannot be made (no root, no delegation) there is no hierarchy and the engine falls back to
rlimits, which `doctor` tells. Sources: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.specs import Limits

_PARENT: Final = "jupyter-sandbox"
_OURSELVES: Final = "jupyter-sandbox-broker"
_CPU_PERIOD_US: Final = 100_000
_V1_CONTROLLERS: Final = ("memory", "cpu", "pids")
_V1_ACCOUNT: Final = "cpuacct"
"""Counts processor time; nearly always mounted together with `cpu`."""
_FREEZER: Final = "freezer"
"""The controller of version 1 that is used where there is one; in version 2 every group has a freezer."""
_FREEZE_S: Final = 5.0
_LOOK_S: Final = 0.002


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Where groups are made: for version 2 one parent directory, for version 1 one for each controller."""

    version: int
    parents: dict[str, Path]

    def create(self, name: str, limits: Limits) -> Group:
        """Make the group `name` with `limits`; raises OSError, leaving nothing behind."""
        group = self.group(name)
        try:
            self._make_parents()
            for directory in group.directories():
                directory.mkdir(exist_ok=True)
            self.hold(group, limits)
        except OSError:
            group.remove()
            raise
        return group

    def _make_parents(self) -> None:
        """Make anew what another of our processes removed as it left: `doctor`, or a broker that came before."""
        for parent in set(self.parents.values()):
            parent.mkdir(parents=True, exist_ok=True)
            if self.version == 2:
                _hand_down(parent.parent, parent)  # which changes nothing where it was done

    def hold(self, group: Group, limits: Limits) -> None:
        """Hold `group` to `limits`, which are lower than those before if there were any; raises OSError."""
        for file, value in _settings(self.version, limits):
            controller, _, _ = file.partition(".")
            path = group.paths[controller if self.version == 1 else "unified"] / file
            if path.exists() or not file.startswith(("memory.swap", "memory.memsw")):
                path.write_text(value)

    def group(self, name: str) -> Group:
        """Return the group `name`, which need not exist."""
        return Group(version=self.version, paths={key: parent / name for key, parent in self.parents.items()})

    def names(self) -> set[str]:
        """Return the names of all groups that exist."""
        found: set[str] = set()
        for parent in self.parents.values():
            with contextlib.suppress(FileNotFoundError):
                found |= {entry.name for entry in os.scandir(parent) if entry.is_dir()}
        return found

    def remove_parents(self) -> None:
        """Remove the directories that held the groups, if none is left."""
        for parent in set(self.parents.values()):
            for directory in (parent, parent.parent):
                with contextlib.suppress(OSError):
                    directory.rmdir()


@dataclass(frozen=True, kw_only=True)
class Group:
    """The control group of one worker."""

    version: int
    paths: dict[str, Path]

    def directories(self) -> set[Path]:
        """Return the group's directories."""
        return set(self.paths.values())

    def add(self, pid: int) -> None:
        """Move a process, with all it will fork, into the group."""
        for directory in self.directories():
            (directory / "cgroup.procs").write_text(str(pid))

    def out_of_memory_kills(self) -> int:
        """Return how often the kernel killed a process of this group for its limit of memory.

        Version 1 counts those among them that were killed because the host had none left.
        """
        if self.version == 1:
            return self._number("memory", "memory.oom_control", "oom_kill") or 0
        at_limit, killed = (self._number("memory", "memory.events", key) or 0 for key in ("oom", "oom_kill"))
        return min(at_limit, killed)

    @property
    def can_freeze(self) -> bool:
        """Whether the processes of the group can be frozen: Linux 5.2 has it for version 2."""
        return self._freezer is not None

    def freeze(self, timeout_s: float = _FREEZE_S) -> None:
        """Let no process of the group run, until `thaw`. Raises OSError or TimeoutError; they run on then.

        What is inside a system call that cannot be interrupted finishes that first.
        """
        file = self._freezer
        if file is None:
            raise FileNotFoundError("the group has no freezer")
        deadline = time.monotonic() + timeout_s
        try:
            file.write_text("FROZEN" if self.version == 1 else "1")
            while not self._is_frozen(file):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not every process could be frozen within {timeout_s} s")
                time.sleep(_LOOK_S)
        except OSError:
            with contextlib.suppress(OSError):
                self.thaw()
            raise

    def thaw(self) -> None:
        """Let every process of the group go on; quiet when they do, or the group has gone. Raises OSError."""
        if (file := self._freezer) is not None:
            file.write_text("THAWED" if self.version == 1 else "0")

    @property
    def _freezer(self) -> Path | None:
        directory = self.paths.get(_FREEZER if self.version == 1 else "unified")
        file = directory / ("freezer.state" if self.version == 1 else "cgroup.freeze") if directory else None
        return file if file is not None and file.exists() else None

    def _is_frozen(self, file: Path) -> bool:
        if self.version == 1:
            return file.read_text().strip() == "FROZEN"
        return "frozen 1" in file.with_name("cgroup.events").read_text().splitlines()

    def cpu_s(self) -> float | None:
        """Return the processor time of all its processes, those that ended too, in seconds; None when unknown."""
        if self.version == 1:
            used_ns = self._number(_V1_ACCOUNT if _V1_ACCOUNT in self.paths else "cpu", "cpuacct.usage")
            return None if used_ns is None else used_ns / 1e9
        used_us = self._number("cpu", "cpu.stat", "usage_usec")
        return None if used_us is None else used_us / 1e6

    def memory_bytes(self) -> int | None:
        """Return what the group uses now; None when unknown."""
        return self._number("memory", "memory.usage_in_bytes" if self.version == 1 else "memory.current")

    def memory_cache_bytes(self) -> int | None:
        """Return how much of that is files that were read or written; None when unknown."""
        return self._number("memory", "memory.stat", "total_cache" if self.version == 1 else "file")

    def _number(self, controller: str, file: str, key: str | None = None) -> int | None:
        """Return the number in a file of the group, or that of a line in it; None when there is none."""
        directory = self.paths.get(controller if self.version == 1 else "unified")
        if directory is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            for line in (directory / file).read_text().splitlines():
                name, _, value = line.partition(" ")
                if key is None:
                    return int(name)
                if name == key:
                    return int(value)
        return None

    def processes(self) -> set[int]:
        """Return the pids of what is in the group."""
        found: set[int] = set()
        for directory in self.directories():
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (directory / "cgroup.procs").read_text().split()}
        return found

    def destroy(self) -> None:
        """End what is in the group, frozen or not, and remove it; raises OSError when it stays.

        For a group that nobody owns.
        """
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    if pid in self.processes():  # else the pid is another's by now
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)
        with contextlib.suppress(OSError):
            self.thaw()  # or what is frozen never learns that it was killed
        self.remove()

    def remove(self, timeout_s: float = 2) -> None:
        """Remove the group once its processes are gone; raises OSError when they stay."""
        deadline = time.monotonic() + timeout_s
        for directory in self.directories():
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
                else:
                    break


def find(instance: str, *, root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> Hierarchy | None:
    """Return the hierarchy in which we may make groups, below a parent named after `instance`, or None."""
    memberships = _memberships(Path("/proc/self/cgroup").read_text() if own is None else own)
    if (root / "cgroup.controllers").exists():
        return _find_v2(root, memberships.get("", "/"), instance)
    for own_groups in (False, True):  # the root of each controller is the same for every broker, whoever starts it
        bases = {
            controller: root / controller / (memberships.get(controller, "/").lstrip("/") if own_groups else "")
            for controller in (*_V1_CONTROLLERS, _V1_ACCOUNT)
        }
        parents = {key: base / _PARENT / instance for key, base in bases.items() if (base / "cgroup.procs").exists()}
        account = parents.pop(_V1_ACCOUNT, None)
        if len(parents) == len(_V1_CONTROLLERS) and _makeable(parents.values()):
            if account and not bases[_V1_ACCOUNT].samefile(bases["cpu"]) and _makeable([account]):
                parents[_V1_ACCOUNT] = account
            return Hierarchy(version=1, parents=parents | _freezer_parent(root, memberships, instance))
    return None


def of_process(pid: int, *, root: Path = Path("/sys/fs/cgroup")) -> Group | None:
    """Return the group that somebody else made for `pid`, to read what it uses or thaw it; None if it is not found.

    The caller must hold the process by a pidfd, or the pid may be another's by now.
    """
    try:
        memberships = _memberships(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return None
    if (root / "cgroup.controllers").exists():
        version, paths = 2, {"unified": root / memberships.get("", "/").lstrip("/")}
    else:
        keys = ("memory", "cpu", _V1_ACCOUNT, _FREEZER)
        version, paths = 1, {key: root / key / memberships.get(key, "/").lstrip("/") for key in keys}
    found = {key: path for key, path in paths.items() if path.is_dir()}
    return Group(version=version, paths=found) if found else None


def _freezer_parent(root: Path, memberships: dict[str, str], instance: str) -> dict[str, Path]:
    """Return the parent of groups in the freezer of version 1, if groups can be made there."""
    for base in (root / _FREEZER, root / _FREEZER / memberships.get(_FREEZER, "/").lstrip("/")):
        parent = base / _PARENT / instance
        if (base / "cgroup.procs").exists() and _makeable([parent]):
            return {_FREEZER: parent}
    return {}


def _find_v2(root: Path, own: str, instance: str) -> Hierarchy | None:
    """Use the root of the hierarchy when we may, else our own delegated group, if nobody else is in it."""
    for base in (root, root / own.removesuffix(f"/{_OURSELVES}").lstrip("/")):
        parent = base / _PARENT / instance
        if not _makeable([parent]):
            continue
        try:
            _step_aside(base)
            _hand_down(base, base / _PARENT, parent)
        except OSError:
            with contextlib.suppress(OSError):
                parent.rmdir()
                parent.parent.rmdir()
            continue
        return Hierarchy(version=2, parents={"unified": parent})
    return None


def _hand_down(*directories: Path) -> None:
    for directory in directories:
        (directory / "cgroup.subtree_control").write_text("+memory +cpu +pids")


def _step_aside(base: Path) -> None:
    """Leave `base` for a group below it, if only this process is there: who hands controllers down has no processes."""
    if (base / "cgroup.procs").read_text().split() == [str(os.getpid())]:
        (base / _OURSELVES).mkdir(exist_ok=True)
        (base / _OURSELVES / "cgroup.procs").write_text(str(os.getpid()))


def _memberships(text: str) -> dict[str, str]:
    """Return our group by controller (`""` is version 2) from the text of /proc/self/cgroup."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _makeable(parents: Iterable[Path]) -> bool:
    try:
        for parent in parents:
            parent.mkdir(parents=True, exist_ok=True)
            if not os.access(parent, os.W_OK | os.X_OK):
                return False
    except OSError:
        return False
    return True


def _settings(version: int, limits: Limits) -> list[tuple[str, str]]:
    """Return the files of a group and their values, in the order in which they must be written."""
    memory = str(limits.memory_mib << 20)
    quota = str(int(limits.cpus * _CPU_PERIOD_US))
    if version == 1:
        return [
            ("memory.limit_in_bytes", memory),
            ("memory.memsw.limit_in_bytes", memory),
            ("cpu.cfs_period_us", str(_CPU_PERIOD_US)),
            ("cpu.cfs_quota_us", quota),
            ("pids.max", str(limits.processes)),
        ]
    return [
        ("memory.max", memory),
        ("memory.swap.max", "0"),
        ("cpu.max", f"{quota} {_CPU_PERIOD_US}"),
        ("pids.max", str(limits.processes)),
    ]
