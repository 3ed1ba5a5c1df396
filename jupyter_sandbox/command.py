"""One command: what is wanted, what it wrote, how it ended, who follows it. It knows no broker and no descriptors."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import request_ids
from jupyter_sandbox.command_output import Piece, Stream, Tail
from jupyter_sandbox.events import Code, CommandEnded, CommandOutcome, CommandStarted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from jupyter_sandbox.owners import Owner
    from sandbox_worker.protocol import TerminalSize

PIECE_BYTES: Final = 1 << 16
_LAG_BYTES: Final = 1 << 18
"""A command waits while the fastest of those who follow it has so much still to take."""


class CommandState(StrEnum):
    """Where a command is in its life."""

    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class NewCommand:
    """What is wanted. A detached command goes on without its client and can be followed later.

    `cwd` None: where the sandbox's kernels start. `timeout_s` None: as long as its sandbox lives. `max_output_bytes`:
    how much of each stream is kept. `tag`: a word of the client's own.
    """

    argv: tuple[str, ...] = field(repr=False)
    cwd: str | None = None
    env: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float | None = None
    max_output_bytes: int
    terminal: TerminalSize | None = None
    with_input: bool = False
    detached: bool = False
    tag: str | None = None


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How it ended: `exit_code` or `signal`, both None when nobody knows; `message` is for people.

    `is_out_of_memory`: it was killed because its sandbox needed more memory than it may have.
    """

    outcome: CommandOutcome
    exit_code: int | None = None
    signal: str | None = None
    message: str | None = None
    is_out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class CommandView:
    """A command as its owner sees it. `end` is None while it runs; `streams` are how many bytes of each came."""

    id: str
    sandbox_id: str
    pid: int
    wanted: NewCommand
    state: CommandState
    end: CommandEnd | None
    started_at: datetime
    ended_at: datetime | None
    duration_s: float | None
    kept: Mapping[Stream, Piece]
    """What is kept of each stream; see `view`."""
    written: Mapping[Stream, int]


def end_of(status: int, message: str, *, is_out_of_memory: bool = False) -> CommandEnd:
    """Return how a command ended by itself or by a signal; `status` is its exit code or the negative signal number."""
    if status == 0:
        return CommandEnd(outcome=CommandOutcome.OK, exit_code=0)
    if status > 0:
        return CommandEnd(outcome=CommandOutcome.ERROR, exit_code=status, message=message)
    return CommandEnd(
        outcome=CommandOutcome.SIGNALLED,
        signal=signal_name(-status),
        message=message,
        is_out_of_memory=is_out_of_memory,
    )


def signal_name(number: int) -> str:
    """Return how a signal is called, SIG and all."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Command:
    """One of them, while it runs and after."""

    def __init__(self, command_id: str, pid: int, owner: Owner, sandbox_id: str, wanted: NewCommand) -> None:
        """It has just started."""
        self.id, self.pid, self.owner, self.sandbox_id, self.wanted = command_id, pid, owner, sandbox_id, wanted
        streams = (Stream.STDOUT, Stream.STDERR) if wanted.terminal is None else (Stream.TERMINAL,)
        self.tails = {stream: Tail(wanted.max_output_bytes) for stream in streams}
        self.is_cancelled = asyncio.Event()
        """Set when its client wants its end."""
        self.on_room: Callable[[], object] = lambda: None  # called when who follows it has taken something
        self._followers: list[Follower] = []
        self._end: CommandEnd | None = None
        self._ended = asyncio.Event()
        self._started_at = datetime.now(UTC)
        self._ended_at: datetime | None = None
        self._began = asyncio.get_running_loop().time()
        self._took = 0.0
        self._request_id = request_ids.current()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and nothing more of its output will come."""
        return self._end is not None

    @property
    def is_detached(self) -> bool:
        """Whether it goes on without its client, and is kept."""
        return self.wanted.detached

    @property
    def kept_bytes(self) -> int:
        """How much is kept of it."""
        return sum(tail.end - tail.start for tail in self.tails.values()) + sum(map(len, self.wanted.argv))

    # -- what a client does with it

    def cancel(self) -> None:
        """Ask for its end: it is killed."""
        self.is_cancelled.set()

    async def ended(self) -> CommandView:
        """Wait for its end."""
        await self._ended.wait()
        return self.view()

    def follow(self) -> Follower:
        """Return what is kept of its output and what comes, until its end."""
        follower = Follower(self)
        self._followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Somebody does not follow it any more."""
        if follower in self._followers:
            self._followers.remove(follower)
            self.on_room()

    def view(self, *, with_output: bool = True) -> CommandView:
        """Return what its owner sees; `kept` is empty without the output."""
        return CommandView(
            id=self.id,
            sandbox_id=self.sandbox_id,
            pid=self.pid,
            wanted=self.wanted,
            state=CommandState.RUNNING if self._end is None else CommandState.ENDED,
            end=self._end,
            started_at=self._started_at,
            ended_at=self._ended_at,
            duration_s=self._took if self._ended_at else None,
            kept={stream: self._kept(stream) for stream in self.tails} if with_output else {},
            written={stream: tail.end for stream, tail in self.tails.items()},
        )

    def start_event(self) -> CommandStarted:
        """Return what is told of it when it has started."""
        code = Code.of("\0".join(self.wanted.argv))
        return CommandStarted(
            **self._about(),
            argv_characters=code.characters,
            argv_sha256=code.sha256,
            timeout_s=self.wanted.timeout_s,
            terminal=self.wanted.terminal is not None,
            detached=self.wanted.detached,
        )

    def end_event(self, end: CommandEnd) -> CommandEnded:
        """Return what is told of it when it is over."""
        return CommandEnded(
            **self._about(),
            outcome=end.outcome,
            exit_code=end.exit_code,
            duration_s=self._took,
            output_bytes=sum(tail.end for tail in self.tails.values()),
        )

    def _about(self) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "request_id": self._request_id,
            "sandbox_id": self.sandbox_id,
            "command_id": self.id,
        }

    def _kept(self, stream: Stream) -> Piece:
        tail, limit = self.tails[stream], self.wanted.max_output_bytes
        offset, data = tail.since(tail.end - limit, limit)  # more may be there, for who follows
        return Piece(stream=stream, offset=offset, data=data)

    # -- what its pipes and its end do with it

    def put(self, stream: Stream, data: bytes) -> None:
        """It wrote something."""
        tail = self.tails[stream]
        tail.put(data)
        tail.trim(self._foremost(stream))
        for follower in self._followers:
            follower.news.set()

    def is_followed(self) -> bool:
        """Whether somebody takes what it writes as it comes."""
        return bool(self._followers)

    def is_held_up(self, stream: Stream) -> bool:
        """Whether it is to wait for those who follow it: for the fastest, the others may lose the oldest."""
        return bool(self._followers) and self.tails[stream].end - self._foremost(stream) >= _LAG_BYTES

    def end(self, end: CommandEnd) -> None:
        """It has ended. Quiet when it had before."""
        if self._end is None:
            self._end, self._ended_at = end, datetime.now(UTC)
            self._took = asyncio.get_running_loop().time() - self._began
            self._ended.set()
            for follower in self._followers:
                follower.news.set()

    def _foremost(self, stream: Stream) -> int:
        return max((follower.taken[stream] for follower in self._followers), default=self.tails[stream].end)


class Follower:
    """Somebody who takes the output of a command as it comes. Iterate it once, and close it."""

    def __init__(self, command: Command) -> None:
        """Use `Command.follow`."""
        self._command = command
        self._is_closed = False
        self.news = asyncio.Event()
        self.taken = {stream: tail.start for stream, tail in command.tails.items()}
        """Up to where it has each stream."""

    def close(self) -> None:
        """Take no more; who iterates comes to an end."""
        self._is_closed = True
        self._command.leave(self)
        self.news.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Yield the pieces of each stream in order."""
        while not self._is_closed:
            self.news.clear()
            pieces = self._next()
            for piece in pieces:
                yield piece
                self.taken[piece.stream] = piece.offset + len(piece.data)
                self._command.on_room()
            if not pieces:
                if self._command.is_over:
                    return
                await self.news.wait()

    def _next(self) -> list[Piece]:
        found = []
        for stream, tail in self._command.tails.items():
            offset, data = tail.since(self.taken[stream], PIECE_BYTES)
            if data:
                found.append(Piece(stream=stream, offset=offset, data=data))
        return found
