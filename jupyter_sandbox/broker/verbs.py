"""The broker's fixed verbs, with their answers and events, as frozen messages; the codec is `sandbox_worker.messages`.

Arguments are ids, names and open descriptors, never a host path, a flag or a command line for the host. Every request
is answered by the message its docstring names, or by Refused. Events come unasked on the connection that holds the
sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jupyter_sandbox.broker import adoption_verbs, restriction_verbs, template_verbs, usage_verbs
from jupyter_sandbox.specs import UNLIMITED, Less
from sandbox_worker.protocol import CurveKeys, TerminalSize  # noqa: TC001 - the decoder looks them up


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel to start behind the sockets of `seat`.

    `argv` None: the Python that the zygote has loaded; else a command inside the worker. `curve` None: no encryption.
    """

    seat: str
    argv: tuple[str, ...] | None
    env: dict[str, str]
    cwd: str | None
    key: str = field(repr=False)
    curve: CurveKeys | None = None
    note: str = field(default="", repr=False)
    """What the server that asks wants to read when it has been started anew; see `adoption_verbs`."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Take a sandbox; this connection becomes its lease and its end the sandbox's end. Answer: Claimed.

    For a workspace mode other than `none` the directory comes along, opened for reading by the caller; with
    `kernelspec` so does, after it, the directory of the kernelspec. `kernel`: its first kernel, started before the
    answer; if it cannot start there is no sandbox either. `on_behalf`: which of its owners the caller asks for.
    """

    template: str
    workspace_mode: str
    workspace_name: str
    kernelspec: bool = False
    kernel: Kernel | None = None
    on_behalf: str = ""
    server: str = ""
    """The name of the server that may adopt it when this connection has ended; empty: nobody may, as said above."""
    note: str = field(default="", repr=False)
    network: restriction_verbs.Network = restriction_verbs.OPEN
    """What it may not reach, in force before anything of the owner runs in it; see `restriction_verbs.Restrict`."""
    less: Less = UNLIMITED
    """What it gets less of than its template's limits, in force before, too."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The sandbox is the caller's; `cwd` is where its kernels start. `kernel`: the first one, if one was asked for."""

    sandbox: str
    cwd: str
    created_at: str
    kernel: KernelStarted | None = None


@dataclass(frozen=True, kw_only=True)
class Attach:
    """Take over the lease of a sandbox whose holder's connection, or whose broker, died. Answer: Attached."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class Attached:
    """This connection is the lease now; `running` are the seats of the kernels that live."""

    running: tuple[str, ...]
    paused: bool = False
    network: restriction_verbs.Network = restriction_verbs.OPEN


@dataclass(frozen=True, kw_only=True)
class StartKernel(Kernel):
    """Start a kernel in a sandbox. Answer: KernelStarted."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class KernelStarted:
    """The kernel's sockets are at `<prefix>-1` to `<prefix>-5`; clients may connect at once."""

    prefix: str
    is_forked: bool
    """Whether it is the Python that the zygote has loaded."""


@dataclass(frozen=True, kw_only=True)
class SignalKernel:
    """Signal the process group of a kernel or command. Answer: Done."""

    sandbox: str
    target: str
    number: int


@dataclass(frozen=True, kw_only=True)
class VacateSeat:
    """Give up the seat of a kernel that has ended and will not start again. Answer: Done, also when it has none."""

    sandbox: str
    seat: str


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Run a command with the descriptors that come along: standard input, output and error. Answer: CommandStarted.

    With `terminal` they are two pipes: what is typed at a terminal of that size, and what is shown. The command belongs
    to this connection: its end is told here, and may be before the answer; it ends when the connection does.
    """

    sandbox: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    terminal: TerminalSize | None = None


@dataclass(frozen=True, kw_only=True)
class CommandStarted:
    """The command runs, named `command` in ProcessExited, SignalKernel and ResizeTerminal, and `pid` in the sandbox."""

    command: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class ResizeTerminal:
    """Give the terminal of a command another size. Answer: Done, also when it has none or has ended."""

    sandbox: str
    command: str
    size: TerminalSize


@dataclass(frozen=True, kw_only=True)
class ListKernels:
    """Ask which kernels run in a sandbox. Answer: Kernels."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The seats of the kernels that run."""

    kernels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReadLog:
    """Ask for the end of what a running kernel wrote to its raw standard output and error. Answer: Log."""

    sandbox: str
    kernel: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """The words of a worker, so hostile: whoever shows them escapes them."""

    text: str


@dataclass(frozen=True, kw_only=True)
class OpenDisk:
    """Open the sandbox's files for the host. Answer: Done, with a directory descriptor that follows no symlinks."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Freeze everything that runs in a sandbox, until Resume or its end. Answer: Done, also when it is paused.

    Until then whatever needs a process of it is refused; OpenDisk, Release and the end of a kernel or command are not.
    """

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Let everything in a sandbox go on where it was. Answer: Done, also when it is not paused."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """Destroy a sandbox. Answer: Done."""

    sandbox: str


@dataclass(frozen=True, kw_only=True)
class List:
    """List the caller's sandboxes whose id is greater than `after`, in order. Answer: Listing.

    With `left_by` only its own ones that a server of that name has left and nobody has adopted.
    """

    after: str
    left_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One sandbox in a Listing."""

    sandbox: str
    owner: int
    template: str
    created_at: str
    kernels: tuple[str, ...]
    memory_bytes: int
    disk_bytes: int
    disk_total_bytes: int
    paused: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A page of sandboxes; `more` when there are others after the last."""

    sandboxes: tuple[Summary, ...]
    more: bool


@dataclass(frozen=True, kw_only=True)
class Status:
    """Ask how the broker is. Answer: StatusReport."""


@dataclass(frozen=True, kw_only=True)
class WorkersReport:
    """How many workers there are of a template; `total`: those that start or end, too; `starts`: a BreakerState.

    `is_filling`: fewer are there than always stand by, and the others are on their way.
    """

    name: str
    warm: int
    claimed: int
    total: int
    max_total: int
    starts: str = "closed"
    is_filling: bool = False


@dataclass(frozen=True, kw_only=True)
class StatusReport:
    """What the broker is and has. `workers`: of the first 100 templates by name."""

    pid: int
    version: str
    engine: str
    templates: tuple[str, ...]
    warm: int
    claimed: int
    notes: tuple[str, ...]
    workers: tuple[WorkersReport, ...] = ()
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reap:
    """Destroy what nobody owns, or with `dry_run` only say what that is. Answer: Reaped."""

    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """What was found, in words."""

    found: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Retire:
    """Say goodbye: exit as soon as no sandbox is claimed and nobody else is connected. Answer: Done."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """It happened."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """It did not happen; `code` is one of `jupyter_sandbox.errors`."""

    code: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessExited:
    """Event: a kernel or command ended. `reason` is a word for programs, `message` a sentence for people."""

    sandbox: str
    target: str
    status: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SandboxGone:
    """Event: the whole sandbox ended without having been released."""

    sandbox: str
    message: str


REQUESTS = (
    Claim,
    Attach,
    StartKernel,
    SignalKernel,
    VacateSeat,
    RunCommand,
    ListKernels,
    ReadLog,
    ResizeTerminal,
    OpenDisk,
    Pause,
    Resume,
    Release,
    List,
    Status,
    Reap,
    Retire,
    *adoption_verbs.REQUESTS,
    *restriction_verbs.REQUESTS,
    *template_verbs.REQUESTS,
    *usage_verbs.REQUESTS,
)
EVENTS = (ProcessExited, SandboxGone)
ANSWERS = (
    Claimed,
    Attached,
    KernelStarted,
    CommandStarted,
    Kernels,
    Log,
    Listing,
    StatusReport,
    Reaped,
    Done,
    Refused,
    *adoption_verbs.ANSWERS,
    *template_verbs.ANSWERS,
    *usage_verbs.ANSWERS,
    *EVENTS,
)
