"""What the broker knows of one sandbox: its worker, its owner, what runs in it, and who is to be told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import launch, obituary
from jupyter_sandbox.broker import restriction_verbs, usage_verbs, verbs
from jupyter_sandbox.errors import InvalidRequestError, SandboxPausedError, StartError
from jupyter_sandbox.guards import processes
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.ledger import Record
from jupyter_sandbox.lifecycle import WorkerState
from jupyter_sandbox.specs import UNLIMITED, UNRESTRICTED, KernelStart
from sandbox_worker import protocol

if TYPE_CHECKING:
    from jupyter_sandbox.agents import AgentClient
    from jupyter_sandbox.capacity import Party
    from jupyter_sandbox.engines import Worker
    from jupyter_sandbox.guards import ids
    from jupyter_sandbox.host.kernel_sockets import Listeners
    from jupyter_sandbox.specs import Less, Restriction, Template


MAX_LOG: Final = 8192
"""Characters of a kernel's log that are passed on: more than an honest agent keeps is a lie."""
_NOBODY: Final = -1
_ENDING_SIGNALS: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
Event = verbs.ProcessExited | verbs.SandboxGone
Holder = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A running command: whom to tell its end, and the count of memory kills when it started."""

    tell: Holder
    kills_before: int


@dataclass(eq=False, kw_only=True)
class Sandbox:
    """One worker and, once claimed, what its owner has in it."""

    worker: Worker
    template: Template
    state: WorkerState = WorkerState.STARTING
    agent: AgentClient | None = None
    owner: int = _NOBODY
    on_behalf: str = ""
    """Which of its owners the client claimed it for, as `Claim` says."""
    created_at: str = ""
    cwd: str = HOME
    holder: Holder | None = None
    grace: asyncio.Task[None] | None = None
    """Ends it when nobody has adopted it in time since its holder has gone."""
    server: str = ""
    """The name of the server that may adopt it."""
    notes: dict[str, str] = field(default_factory=dict, repr=False)
    """See `adoption_verbs`: by the seat, the sandbox's own by the empty text."""
    kernels: dict[str, int] = field(default_factory=dict)
    """Seats of running kernels, with the count of memory kills when they started."""
    seats: set[str] = field(default_factory=set)
    """Seats of all its kernels, the ended ones too: their socket paths are theirs until the sandbox ends."""
    commands: dict[str, Command] = field(default_factory=dict)
    standby: Listeners | None = None
    """Where the process of its first kernel listens until there is one."""
    is_handed_over: bool = False
    """Whether its standby is just becoming a kernel, whose sockets are at the old place still."""
    ending: set[str] = field(default_factory=set)
    """Kernels and commands that we were asked to end."""
    kills: set[str] = field(default_factory=set)
    """Those of them that are killed when the sandbox goes on."""
    is_paused: bool = False
    """Whether it is frozen, or about to be: nothing is asked of its agent then."""
    restriction: Restriction = UNRESTRICTED
    """What of its template's policy it may not use."""
    is_unrecorded: bool = False
    """Whether the ledger says what it was before; see `recording`."""
    less: Less = UNLIMITED
    """What it has less of than its template's limits; the worker knows the limits that are left."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is frozen, thawed or ended, and while its network is opened or changed."""

    @property
    def id(self) -> ids.SandboxId:
        """The id."""
        return self.worker.id

    @property
    def party(self) -> Party:
        """Who has it, as far as places are shared out."""
        return self.owner, self.on_behalf

    @property
    def is_late(self) -> bool:
        """Whether it outlived its broker, and could not be taken over yet."""
        return self.state is WorkerState.STARTING and self.was_claimed

    @property
    def was_claimed(self) -> bool:
        """Whether it ever was somebody's."""
        return self.owner != _NOBODY

    def end_grace(self) -> None:
        """Let nothing wait any more for who adopts it."""
        if self.grace is not None:
            self.grace.cancel()

    def reach(self) -> AgentClient:
        """Return its agent; raises StartError when it is ending, SandboxPausedError when it cannot answer."""
        if self.agent is None:
            raise StartError(f"{self.id} is ending")
        if self.is_paused:
            raise SandboxPausedError(f"sandbox {self.id} is paused")
        return self.agent

    async def kill(self, target: str) -> None:
        """Kill a kernel or command; what is paused, as soon as it goes on. Quiet when it has ended."""
        self.ending.add(target)
        if self.is_paused:
            self.kills.add(target)
        elif self.agent is not None:
            await self.agent.signal(target, signal.SIGKILL)

    async def signal(self, target: str, number: int) -> None:
        """Signal a kernel or command; quiet when it has ended. See `kill`."""
        ending = processes.signal_number(number) in _ENDING_SIGNALS
        if target not in self.kernels and target not in self.commands:
            return
        if number == signal.SIGKILL:
            await self.kill(target)
            return
        agent = self.reach()
        if ending:
            self.ending.add(target)
        await agent.signal(target, number)

    def command_of(self, request: verbs.Kernel) -> tuple[str, ...] | None:
        """Return the judged command of a kernel; None when the Python that is loaded is forked."""
        if request.argv is not None:
            return processes.argv(request.argv)
        return launch.EXECUTED if self.template.start is KernelStart.EXEC else None

    def end_of(self, exited: protocol.Exited, kills_before: int, what: obituary.What) -> verbs.ProcessExited:
        """Return why a kernel or command ended; `kills_before`: memory kills of the worker when it started."""
        verdict = obituary.write(
            what=what,
            status=exited.status,
            limits=self.worker.limits,
            out_of_memory=self.worker.out_of_memory_kills() > kills_before,
            disk_full=exited.disk_full,
            requested=exited.target in self.ending,
            log=exited.log[:2048],
        )
        return verbs.ProcessExited(
            sandbox=self.id,
            target=exited.target,
            status=exited.status,
            reason=verdict.reason,
            message=verdict.message,
        )

    async def log_of(self, kernel: str) -> verbs.Log:
        """Return the end of what a running kernel wrote to its raw standard output and error. Raises SandboxError."""
        if kernel not in self.kernels:
            raise InvalidRequestError(f"no kernel {kernel[:60]!a} runs in sandbox {self.id}")
        said = await self.reach().ask(protocol.ReadLog(target=kernel), protocol.Log)
        return verbs.Log(text=said.text[:MAX_LOG])

    def usage(self) -> usage_verbs.UsageReport:
        """Return what its worker uses now, and may use."""
        used, limits = self.worker.usage(), self.worker.limits
        return usage_verbs.UsageReport(
            cpu_s=used.cpu_s,
            cpus=limits.cpus,
            memory_bytes=used.memory_bytes,
            memory_cache_bytes=used.memory_cache_bytes,
            memory_total_bytes=limits.memory_mib << 20,
            disk_bytes=used.disk_bytes,
            disk_total_bytes=used.disk_total_bytes,
        )

    def summary(self) -> verbs.Summary:
        """Return what lists show of it."""
        used = self.worker.usage()
        return verbs.Summary(
            sandbox=self.id,
            owner=self.owner,
            template=self.template.name,
            created_at=self.created_at,
            kernels=tuple(self.kernels)[:20],
            memory_bytes=used.memory_bytes or 0,
            disk_bytes=used.disk_bytes or 0,
            disk_total_bytes=used.disk_total_bytes,
            paused=self.is_paused,
        )

    def record(self, started: int, engine: str) -> Record:
        """Return what the ledger has to know of it; `started` is when its pid 1 did, `engine` which one made it."""
        network = restriction_verbs.network(self.restriction)
        return Record(
            id=self.id,
            template=self.template.name,
            slot=self.worker.slot,
            pid=self.worker.pid,
            started=started,
            owner=self.owner,
            on_behalf=self.on_behalf,
            workspace=self.cwd,
            created_at=self.created_at,
            seats=tuple(sorted(self.seats)),
            paused=self.is_paused,
            denied=network.denied,
            excepted=network.excepted,
            less=self.less,
            server=self.server,
            notes=dict(self.notes),
            engine=engine,
        )
