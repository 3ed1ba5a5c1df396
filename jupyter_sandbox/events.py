"""Events: facts that happened, as frozen values, each with a schema of its own in `event_schemas`. Pure.

Audit, metrics and nobody else are made of them. No event holds code, a secret, a URL's path or query, or a host path;
what a client or a sandbox chose is bounded and never a name. Who emits does not know who reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

if TYPE_CHECKING:
    from jupyter_sandbox.specs import Restriction

NAMESPACE: Final = "https://events.jupyter-sandbox"
_MAX_WORDS: Final = 1_000


class Means(StrEnum):
    """How a client reaches a kernel."""

    REST = "rest"
    WEBSOCKET = "websocket"


class Direction(StrEnum):
    """Which way a file goes, seen from its sandbox."""

    IN = "in"
    OUT = "out"


class Origin(StrEnum):
    """Who made a sandbox, which decides what ends it: release and time, or the end of its last kernel."""

    CLAIM = "claim"
    KERNEL = "kernel"


class SandboxEnd(StrEnum):
    """Why a sandbox ended; `vacated`: the last kernel of a sandbox that was made for kernels has left it."""

    RELEASED = "released"
    EXPIRED = "expired"
    VACATED = "vacated"
    LOST = "lost"
    SERVER_STOPPED = "server_stopped"


class KernelEnd(StrEnum):
    """Why a kernel ended: it was asked to, its sandbox was lost, or what the broker says."""

    REQUESTED = "requested"
    LOST = "lost"
    FINISHED = "finished"
    MEMORY = "memory"
    DISK = "disk"
    SIGNAL = "signal"
    FAILED = "failed"
    UNKNOWN = "unknown"


class ExecutionEnd(StrEnum):
    """How an execution ended. A notebook's can also be aborted, because one before it failed, or go on unwatched."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    DIED = "died"
    OUTPUT_LIMIT = "output_limit"
    UNKNOWN = "unknown"
    ABORTED = "aborted"
    UNWATCHED = "unwatched"


class CommandOutcome(StrEnum):
    """How a command ended."""

    OK = "ok"
    ERROR = "error"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    DIED = "died"


def kernel_end(word: str) -> KernelEnd:
    """Return the broker's word for the end of a process, if it is one that we know."""
    return KernelEnd(word) if word in list(KernelEnd) else KernelEnd.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Code:
    """What may be told of code: how long it is, and what tells whether two are the same."""

    characters: int
    sha256: str

    @classmethod
    def of(cls, text: str) -> Code:
        """Measure code."""
        return cls(characters=len(text), sha256=hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact. Who emits it within a request may leave out `owner` and `request_id`: the journal knows them."""

    name: ClassVar[str]
    owner: str | None = None
    request_id: str | None = None

    @classmethod
    def schema_id(cls) -> str:
        """The id of its schema."""
        return f"{NAMESPACE}/{cls.name}/v1"


@dataclass(frozen=True, kw_only=True)
class SandboxClaimed(Event):
    """A sandbox got an owner. `timeout_s` None: it ends with its kernels."""

    name: ClassVar[str] = "sandbox_claimed"
    sandbox_id: str
    template: str
    origin: Origin
    timeout_s: float | None = None
    took_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxRenewed(Event):
    """A sandbox was given another time to live, from now on."""

    name: ClassVar[str] = "sandbox_renewed"
    sandbox_id: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxEndsSoon(Event):
    """The time of a sandbox is nearly over, and nobody has renewed it yet."""

    name: ClassVar[str] = "sandbox_ends_soon"
    sandbox_id: str
    left_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxPaused(Event):
    """Everything in a sandbox was frozen."""

    name: ClassVar[str] = "sandbox_paused"
    sandbox_id: str
    took_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxResumed(Event):
    """Everything in a sandbox goes on: its owner wanted that, or that a kernel in it ends."""

    name: ClassVar[str] = "sandbox_resumed"
    sandbox_id: str
    took_s: float


@dataclass(frozen=True, kw_only=True)
class SandboxRestricted(Event):
    """A sandbox may reach less than its template opens, or all of it again: addresses and ranges between spaces."""

    name: ClassVar[str] = "sandbox_restricted"
    sandbox_id: str
    denied: str
    excepted: str

    @classmethod
    def of(cls, owner: str | None, sandbox_id: str, restriction: Restriction) -> SandboxRestricted:
        """Return the event that tells of a restriction."""
        denied, excepted = (
            " ".join(str(target) for target in targets) for targets in (restriction.denied, restriction.excepted)
        )
        return cls(owner=owner, sandbox_id=sandbox_id, denied=denied, excepted=excepted)


@dataclass(frozen=True, kw_only=True)
class SandboxEnded(Event):
    """A sandbox is gone with its files. `message`: a sentence for people, if there is more to say."""

    name: ClassVar[str] = "sandbox_ended"
    sandbox_id: str
    template: str
    origin: Origin
    reason: SandboxEnd
    message: str | None = None
    lived_s: float


@dataclass(frozen=True, kw_only=True)
class ContextStarted(Event):
    """A kernel was started. `took_s`: with the claim of its sandbox, if there was one."""

    name: ClassVar[str] = "context_started"
    sandbox_id: str
    context_id: str
    kernel_name: str
    took_s: float


@dataclass(frozen=True, kw_only=True)
class ContextRestarted(Event):
    """A kernel was replaced by a new one; `reason` is why the one before it ended."""

    name: ClassVar[str] = "context_restarted"
    sandbox_id: str
    context_id: str
    kernel_name: str
    reason: KernelEnd
    took_s: float


@dataclass(frozen=True, kw_only=True)
class ContextEnded(Event):
    """A kernel is gone for good."""

    name: ClassVar[str] = "context_ended"
    sandbox_id: str
    context_id: str
    kernel_name: str
    reason: KernelEnd


@dataclass(frozen=True, kw_only=True)
class ExecutionStarted(Event):
    """The server accepted code to run. `timeout_s` None: it has no limit, as in a notebook."""

    name: ClassVar[str] = "execution_started"
    sandbox_id: str
    context_id: str
    execution_id: str
    means: Means
    code_characters: int
    code_sha256: str
    timeout_s: float | None = None
    detached: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecutionEnded(Event):
    """It is over. `waited_s`: for its turn; `duration_s` None: its turn never came. Outputs are counted, not told."""

    name: ClassVar[str] = "execution_ended"
    sandbox_id: str
    context_id: str
    execution_id: str
    means: Means
    outcome: ExecutionEnd
    waited_s: float
    duration_s: float | None
    output_bytes: int
    omitted_outputs: int
    omitted_bytes: int
    refused_messages: int


@dataclass(frozen=True, kw_only=True)
class CommandStarted(Event):
    """A command was started. Its words are measured as one text, with NUL between them."""

    name: ClassVar[str] = "command_started"
    sandbox_id: str
    command_id: str
    argv_characters: int
    argv_sha256: str
    timeout_s: float | None = None
    terminal: bool
    detached: bool


@dataclass(frozen=True, kw_only=True)
class CommandEnded(Event):
    """It is over. `output_bytes`: what it wrote, kept or not."""

    name: ClassVar[str] = "command_ended"
    sandbox_id: str
    command_id: str
    outcome: CommandOutcome
    exit_code: int | None
    duration_s: float
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class FileTransferred(Event):
    """Bytes of a file went in or out. `host` None: the client sent or got them; not `whole`: it broke off."""

    name: ClassVar[str] = "file_transferred"
    sandbox_id: str
    path: str
    direction: Direction
    size_bytes: int
    host: str | None = None
    whole: bool


@dataclass(frozen=True, kw_only=True)
class FileMoved(Event):
    """A client gave a file or directory another path."""

    name: ClassVar[str] = "file_moved"
    sandbox_id: str
    path: str
    target: str


@dataclass(frozen=True, kw_only=True)
class FileDeleted(Event):
    """A client deleted a file or directory; not `whole`: that failed or broke off, and part of it may be gone."""

    name: ClassVar[str] = "file_deleted"
    sandbox_id: str
    path: str
    recursive: bool
    whole: bool


@dataclass(frozen=True, kw_only=True)
class TokenIssued(Event):
    """A token that reaches one sandbox was issued. `issued_by`: the operator's token that asked for it, if one did."""

    name: ClassVar[str] = "token_issued"
    sandbox_id: str
    token_id: str
    scopes: str
    timeout_s: float
    issued_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenRevoked(Event):
    """A token of a sandbox was ended before its time."""

    name: ClassVar[str] = "token_revoked"
    sandbox_id: str
    token_id: str


@dataclass(frozen=True, kw_only=True)
class TemplateDefined(Event):
    """A template was made, or another put in its place."""

    name: ClassVar[str] = "template_defined"
    template: str
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class TemplateDeleted(Event):
    """A template was forgotten."""

    name: ClassVar[str] = "template_deleted"
    template: str


@dataclass(frozen=True, kw_only=True)
class RequestRefused(Event):
    """Something was not done: `code` is one of `errors`. `operation` None: the request was none of ours."""

    name: ClassVar[str] = "request_refused"
    code: str
    operation: str | None = None
    sandbox_id: str | None = None
    host: str | None = None


ALL: Final[tuple[type[Event], ...]] = tuple(Event.__subclasses__())
"""Every event there is, in the order of this module."""


class Emit(Protocol):
    """Where services tell what happened. It returns at once and never raises."""

    def __call__(self, event: Event, /) -> None:
        """Tell it to whoever reads."""


def ignore(_: Event, /) -> None:
    """What programs without a server do with events."""


def shortened(words: str | None) -> str | None:
    """Return a sentence as an event may hold it."""
    return None if words is None else words[:_MAX_WORDS]
