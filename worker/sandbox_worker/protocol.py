"""What broker, zygote and agent say to each other; the codec is `messages`.

Broker to zygote: Configure once, then Fork. An agent that starts as a container says Ready or Failed on the hand-over
socket and gets Serve, once. Broker to agent: StandBy at most once, Bind once, then StartKernel, StartCommand, Signal,
Resize, ReadLog, Describe, Renew. Every request but Signal, Resize and Renew is answered by the message named in its
docstring or by Failed; Exited comes unasked. Whatever comes *from* an agent is hostile: the broker decodes it strictly
and believes only what concerns that worker.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

PORTS: tuple[str, ...] = ("shell", "iopub", "stdin", "control", "hb")
"""Order of a kernel's five sockets: port 1 to 5, and the order of the listeners passed along with StartKernel."""


LEASE_S = 450
"""For how long an agent counts on its broker after a word of it. After twice that in silence it ends its worker."""

AGENT_FILES = 1024
"""So many files an agent may open, however few its sandbox may."""

PYTHON = "{python}"
"""As a kernel's program: the Python of its worker, wherever that lies there."""

PREFIX = "{prefix}"
"""In a kernel's command: the directory that this Python and what comes with it is installed in."""

PROGRAM_PATH = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
"""Where a worker's processes look for programs; the broker's Python lies at the same place in an embedded one."""


@dataclass(frozen=True, kw_only=True)
class Configure:
    """To a new zygote: what the workers' root shows and what is imported before the first fork. Answer: Ready."""

    read_only_paths: tuple[str, ...]
    preload: tuple[str, ...]
    uid_base: int | None
    """First host uid of the workers' range; None when the broker is already in a user namespace of its own."""
    tmp_mib: int
    shm_mib: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """From the zygote: it can fork; from a container: it can serve.

    `start_mode` is `prebuilt` or `plain`; `notes` say what could not be done.
    """

    start_mode: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fork:
    """To the zygote, with the listening socket of the new agent. Answer: Forked with a pidfd."""

    worker: str


@dataclass(frozen=True, kw_only=True)
class Forked:
    """From the zygote: the worker's pid 1, as the host numbers it."""

    worker: str
    pid: int


@dataclass(frozen=True, kw_only=True)
class Serve:
    """To an agent that starts as a container, with its listener, bound by the host. No answer."""


@dataclass(frozen=True, kw_only=True)
class MountPoint:
    """Where the agent attaches one of the detached mounts that came with Bind."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Bind:
    """To a warm agent, with one mount descriptor for each of `mounts`: become a sandbox, for life. Answer: Bound."""

    mounts: tuple[MountPoint, ...]
    uid: int
    hostname: str
    rlimits: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class StandBy:
    """To a warm agent, with five listeners in the order of PORTS: get the process of the first kernel ready.

    `uid` and `rlimits` as in Bind, which comes later. Answer: StandingBy.
    """

    uid: int
    rlimits: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class StandingBy:
    """From the agent: there is a process that can be the first kernel, if this worker can have one."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """From the agent: mounts are attached, privileges are gone."""


@dataclass(frozen=True, kw_only=True)
class CurveKeys:
    """The CurveZMQ key pair of a kernel's sockets, Z85: 40 characters each. Clients need the public half only."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class StartKernel:
    """To the agent, with five listeners in the order of PORTS. Answer: Started.

    `argv` None forks the Python that is already loaded; otherwise it is executed with `{connection_file}` and PREFIX
    replaced, and PYTHON as its first element.
    """

    kernel: str
    argv: tuple[str, ...] | None
    env: dict[str, str]
    cwd: str
    prefix: str
    """Socket path prefix as the host sees it, for `%connect_info`."""
    key: str = field(repr=False)
    curve: CurveKeys | None = None
    """None: the sockets are not encrypted."""
    standby: bool = False
    """Whether the listeners are those that came with StandBy; if not, a process that stands by is of no more use."""


@dataclass(frozen=True, kw_only=True)
class TerminalSize:
    """How much a terminal shows, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class StartCommand:
    """To the agent, with standard input, output and error. Answer: Started.

    With `terminal` the command gets a terminal of that size, and two descriptors come along: a pipe with what is typed
    there, and one for what is shown.
    """

    command: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    terminal: TerminalSize | None = None


@dataclass(frozen=True, kw_only=True)
class Started:
    """From the agent: the process runs; `pid` is the worker's own number for it."""

    pid: int


@dataclass(frozen=True, kw_only=True)
class Signal:
    """To the agent: signal the process group of a kernel or command. No answer."""

    target: str
    number: int


@dataclass(frozen=True, kw_only=True)
class ReadLog:
    """To the agent: what did a running kernel or command write to its raw output? Answer: Log."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """From the agent: the end of it, at most 8 KiB."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Resize:
    """To the agent: the terminal of a command has another size. No answer."""

    target: str
    size: TerminalSize


@dataclass(frozen=True, kw_only=True)
class Describe:
    """To the agent: what runs? Answer: Description."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """From the agent: whether Bind was done, and the living kernels and commands."""

    bound: bool
    running: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Renew:
    """To the agent, each third of LEASE_S: its broker is there and knows it. No answer."""


@dataclass(frozen=True, kw_only=True)
class Exited:
    """From the agent, unasked: a kernel or command ended.

    `status` is the exit code, or the negative signal number; `disk_full` says that the sandbox's disk had no room left
    at that moment; `log` is the end of what the process wrote to its raw standard output and error.
    """

    target: str
    status: int
    disk_full: bool
    log: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An answer: what was asked did not happen, and why."""

    reason: str
    program_missing: bool = False
    directory_missing: bool = False


TO_ZYGOTE = (Configure, Fork)
FROM_ZYGOTE = (Ready, Forked, Failed)
TO_CONTAINER = (Serve,)
FROM_CONTAINER = (Ready, Failed)
TO_AGENT = (StandBy, Bind, StartKernel, StartCommand, Signal, Resize, ReadLog, Describe, Renew)
IN_TO_AGENT = (MountPoint, CurveKeys, TerminalSize)
"""What those contain."""
FROM_AGENT = (StandingBy, Bound, Started, Log, Description, Exited, Failed)
