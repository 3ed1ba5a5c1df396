"""What an engine is: the driver that makes and destroys workers. Engines are strangers to each other.

An engine takes and gives back whatever a worker needs on the host; it does not know owners, leases or clients.
Everything said to a running worker goes through its agent (`jupyter_sandbox.agents`), the same way for every engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jupyter_sandbox.disks import Disk
    from jupyter_sandbox.guards.ids import SandboxId
    from jupyter_sandbox.ledger import Record
    from jupyter_sandbox.specs import Limits, Template


@dataclass(frozen=True, kw_only=True)
class Remains:
    """Something that is on the host for a worker, whether that lives or not."""

    what: str
    """In words."""
    made_for: str
    """The worker's id, or a kernel's seat."""
    remove: Callable[[], Awaitable[object] | object]
    """Quiet when it is gone."""
    is_freed_later: bool = False
    """Whether the kernel of the machine frees it by itself, a moment after the worker has ended."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a worker uses now, its processor time since it was made; None where the host cannot tell.

    `memory_cache_bytes`: how much of its memory is files that were read or written.
    """

    cpu_s: float | None
    memory_bytes: int | None
    memory_cache_bytes: int | None
    disk_bytes: int | None
    disk_total_bytes: int


class Worker(Protocol):
    """One isolation unit of an engine."""

    id: SandboxId
    limits: Limits
    uid: int
    """Host uid of everything inside."""
    inner_uid: int
    """The same as the agent's namespace numbers it before it is bound."""
    slot: int
    """Its place in the uid range; kept in the ledger."""
    pid: int
    disk: Disk | None
    """None after a recovery."""

    async def attach(self, mounts: Mapping[str, int]) -> dict[str, int]:
        """Attach detached mounts, descriptors by their target, where the agent may not; return those left for it.

        Called once, before Bind is sent; the descriptors stay the caller's. Raises StartError.
        """

    def rlimits(self) -> dict[str, int]:
        """Return the resource limits that the agent sets."""

    def is_current(self) -> bool:
        """Return whether it is still what its engine would make; asked as long as it is warm."""

    def out_of_memory_kills(self) -> int:
        """Return how often the kernel killed a process of this worker for memory."""

    def usage(self) -> Usage:
        """Return current figures."""

    def network_namespace(self) -> int:
        """Return a new descriptor of its network namespace, certainly its own; raises StartError when it has ended."""

    async def gone(self) -> None:
        """Wait until the worker has ended, by itself or by `Engine.destroy`."""


class Engine(Protocol):
    """Makes workers."""

    name: str

    async def start(self) -> None:
        """Take what all workers share; raises IsolationUnavailableError that says what to change."""

    async def create(self, sandbox: SandboxId, template: Template) -> Worker:
        """Make a warm worker whose agent listens at `Places.agent_socket`; leaves nothing behind when it raises."""

    async def recover(self, record: Record, template: Template) -> Worker | None:
        """Return the worker that a dead broker left, or None when it does not live.

        Raises OSError when the machine does not let us tell now: nothing of it is given back, and its slot is kept.
        """

    async def destroy(self, worker: Worker) -> None:
        """End a worker, paused or not, and give back all it took; quiet when done twice."""

    async def narrow(self, worker: Worker, limits: Limits) -> None:
        """Hold a warm worker to lower limits than it was made with, before it is bound; they are its own then.

        Raises SandboxError; NotSupportedError for what cannot be held on this machine.
        """

    async def pause(self, worker: Worker) -> None:
        """Let no process of a worker run, its agent among them; quiet when none does.

        Raises SandboxError; they run on then. NotSupportedError: it cannot be done on this machine.
        """

    async def resume(self, worker: Worker) -> None:
        """Let every process of a worker go on; quiet when they do. Raises SandboxError."""

    async def remains(self) -> list[Remains]:
        """Return what is on the host for workers, whether they live or not; first what keeps the rest in use."""

    async def forget(self, template: Template) -> None:
        """Give back what is kept ready for a template that is no more. Its workers live on."""

    async def languages(self) -> tuple[str, ...]:
        """Return the names of the languages for which its workers have kernels."""

    async def stop(self) -> None:
        """Give back what all workers share. Workers live on."""

    def notes(self) -> list[str]:
        """Return what this machine keeps the engine from doing, for people."""
