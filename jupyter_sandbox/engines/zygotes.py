"""Zygotes as the broker sees them: started for a template, asked to fork, replaced when old or dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import site
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sandbox_worker
from jupyter_sandbox.errors import IsolationUnavailableError, ProtocolError, StartError
from jupyter_sandbox.host.channel import Channel
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.specs import Template

PackageTimes = tuple[float, ...]
"""When the directories of packages were changed last."""

MAX_AGE_S: Final = 3600
MAX_FORKS: Final = 2000
_START_TIMEOUT_S: Final = 60
_FORK_TIMEOUT_S: Final = 15
_INSTALLED_S: Final = 5
"""Who installs packages has finished when nothing was changed for so long."""

log = logging.getLogger(__name__)


def shown_paths() -> tuple[str, ...]:
    """Return the host directories whose programs workers see."""
    return ("/usr", "/bin", "/lib", "/lib64", *environment_paths())


def environment_paths() -> tuple[str, ...]:
    """Return the host directories that hold this Python, its packages and the worker package.

    `/usr` is always shown; what lies below it or below another of the paths is left out.
    """
    candidates = {sys.base_prefix, sys.prefix, str(Path(sandbox_worker.__file__).parent)}
    candidates.add(str(Path(sys.executable).resolve().parent.parent))
    if site.ENABLE_USER_SITE and Path(site.getusersitepackages()).is_dir():
        candidates.add(site.getusersitepackages())
    paths: list[str] = []
    for path in sorted(part for candidate in candidates for part in _parts_to_show(Path(candidate))):
        if not any(Path(path).is_relative_to(other) for other in ["/usr", *paths]):
            paths.append(path)
    return tuple(paths)


def _parts_to_show(prefix: Path) -> list[str]:
    """Return `prefix`, or only its code when people keep more there than a Python: a home directory, or its .local."""
    home = Path.home()
    if home.is_relative_to(prefix) or prefix == home / ".local":
        return [str(prefix / part) for part in ("bin", "include", "lib", "lib64") if (prefix / part).is_dir()]
    return [str(prefix)]


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """A forked worker: pid 1 and its pidfd, the caller's to close."""

    pid: int
    pidfd: int
    packages: PackageTimes
    """When those that it has imported were changed last."""


class Zygote:
    """One zygote process and the channel to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, ready: protocol.Ready, template: Template
    ) -> None:
        """Use `start` instead."""
        self._template = template
        self._process = process
        self._channel = channel
        self._lock = asyncio.Lock()
        self._born = time.monotonic()
        self._packages = package_times()
        self._forks = 0
        self.ready = ready

    @classmethod
    async def start(cls, template: Template, uid_base: int | None) -> Zygote:
        """Start a zygote for `template` and wait until it can fork; raises IsolationUnavailableError or StartError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours, protocol.FROM_ZYGOTE)
        command = [sys.executable, "-P", "-m", "sandbox_worker.zygote"]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs.fileno(), env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
            )
        zygote: Zygote | None = None
        try:
            configure = protocol.Configure(
                read_only_paths=environment_paths(),
                preload=template.preload,
                uid_base=uid_base,
                tmp_mib=template.limits.tmp_mib,
                shm_mib=template.limits.shm_mib,
            )
            await channel.send(configure)
            async with asyncio.timeout(_START_TIMEOUT_S):
                answer = await channel.receive()
            match answer:
                case (protocol.Ready() as ready, []):
                    zygote = cls(process, channel, ready, template)
                    for note in ready.notes:
                        log.warning("zygote of template %s: %s", template.name, note)
                    return zygote
                case (protocol.Failed(reason=reason), []):
                    raise IsolationUnavailableError(
                        f"workers cannot be isolated on this machine: {reason}; `jupyter sandbox doctor` says more"
                    )
            raise StartError("the zygote ended while it was starting; the broker's log says why")
        except (OSError, TimeoutError) as error:
            raise StartError(f"the zygote did not start: {str(error) or 'time out'}") from error
        finally:
            if zygote is None:
                channel.close()
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    @property
    def pid(self) -> int:
        """The host pid."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.returncode is None and not self._channel.closed

    def serves(self, template: Template) -> bool:
        """Whether its forks are what `template` asks for: a template may have been replaced by another of that name."""
        return _baked(self._template) == _baked(template)

    def is_old(self) -> bool:
        """Whether its forks share too much for too long."""
        return time.monotonic() - self._born > MAX_AGE_S or self._forks >= MAX_FORKS

    def is_stale(self) -> bool:
        """Whether its forks have packages in memory that are others on the disk."""
        return are_stale(self._packages)

    def take_for_current(self) -> None:
        """Let packages as they are now not be a reason any more."""
        self._packages = package_times()

    async def fork(self, worker: str, listener: int) -> Fresh:
        """Fork a worker whose agent serves `listener`; raises StartError, and the zygote is then of no more use."""
        async with self._lock:
            try:
                await self._channel.send(protocol.Fork(worker=worker), [listener])
                async with asyncio.timeout(_FORK_TIMEOUT_S):
                    answer = await self._channel.receive()
            except (OSError, TimeoutError, ProtocolError) as error:
                self._channel.close()
                raise StartError(f"the zygote does not answer: {str(error) or 'time out'}") from error
            self._forks += 1
            packages = self._packages
            match answer:
                case (protocol.Forked(pid=pid), [pidfd]):
                    return Fresh(pid=pid, pidfd=pidfd, packages=packages)
                case (protocol.Failed(reason=reason), _):
                    raise StartError(f"no worker could be forked: {reason}")
            self._channel.close()
            raise StartError("the zygote is gone")

    async def stop(self) -> None:
        """End it when it has forked what it was asked for; its workers live on."""
        async with self._lock:
            self._channel.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Sight:
    """What was seen of packages the last time, to tell whether who changed them has finished.

    When that was, their times say, unless the clock was set back since: then it was when the change was first seen.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing was seen yet."""
        self._clock = clock
        self._seen: PackageTimes = ()
        self._since = 0.0

    def is_over(self, now: PackageTimes, wall_clock: float) -> bool:
        """Return whether packages whose times are `now` are as they are to be."""
        if now != self._seen:
            self._seen, self._since = now, self._clock()
        return wall_clock - max(now, default=0) > _INSTALLED_S or self._clock() - self._since > _INSTALLED_S


_sight = Sight()


def _baked(template: Template) -> tuple[tuple[str, ...], int, int]:
    """What of a template is the same for all forks of a zygote."""
    return template.preload, template.limits.tmp_mib, template.limits.shm_mib


def are_stale(imported: PackageTimes) -> bool:
    """Return whether packages were changed since; not while somebody is still at it."""
    now = package_times()
    return now != imported and _sight.is_over(now, datetime.now(UTC).timestamp())


def package_times() -> PackageTimes:
    """See PackageTimes."""
    return tuple(Path(path).stat().st_mtime for path in sys.path if path.endswith("-packages") and Path(path).is_dir())
