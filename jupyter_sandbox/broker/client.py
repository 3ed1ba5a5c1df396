"""The other end of the broker's socket: one connection for each request, and one that is the lease of a sandbox.

It belongs to no event loop: jupyter_client calls provisioners from several. When no broker runs, `connect` starts one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from jupyter_sandbox import errors
from jupyter_sandbox.broker import restriction_verbs, starting, verbs
from jupyter_sandbox.host import places, tasks
from jupyter_sandbox.host.channel import Channel
from jupyter_sandbox.specs import UNLIMITED, UNRESTRICTED, WorkspaceMode
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jupyter_sandbox.specs import Less, Restriction

_START_TIMEOUT_S: Final = 90
_ANSWER_TIMEOUT_S: Final = 60
_KILLED_S: Final = 5.0
"""How long to wait for the end of what was killed."""
_RETRIES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait for a broker that another process starts, or that ends, before trying to start one again."""

Answer = TypeVar("Answer")


async def connect(*, start: bool = True) -> Channel:
    """Return a connection to this user's broker, starting it if need be; raises SandboxError."""
    where = places.find()
    deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
    for retry_s in itertools.chain(_RETRIES_S, itertools.repeat(_RETRIES_S[-1])):
        try:
            channel = await Channel.connect(where.socket, verbs.ANSWERS)
            if places.SOCKET_VARIABLE not in os.environ and channel.peer_uid() not in (0, os.getuid()):
                channel.close()
                raise errors.BrokerUnavailableError("the broker's socket was made by another user; remove it")
            return channel
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not start or places.SOCKET_VARIABLE in os.environ:
                absence = errors.BrokerUnavailableError(starting.absence())
                absence.is_absent = True
                raise absence from error
            await starting.once(where.socket, deadline, retry_s)
        except PermissionError as error:
            raise errors.BrokerUnavailableError(
                "this user may not use the broker's socket; see BrokerApp.socket_mode"
            ) from error
        except OSError as error:
            raise errors.BrokerUnavailableError(f"what lies at the broker's socket path is none: {error}") from error
    raise AssertionError("there is always another try")


async def next_broker() -> Channel:
    """Return a connection to the broker that comes after one that died, starting it if need be.

    Raises BrokerUnavailableError, whatever keeps it from starting: an engine that is away now may come back.
    """
    try:
        return await connect()
    except errors.BrokerUnavailableError:
        raise
    except errors.SandboxError as error:
        raise errors.BrokerUnavailableError(f"the next broker does not start: {error}") from error


async def ask(
    channel: Channel,
    request: object,
    kind: type[Answer],
    descriptors: Sequence[int] = (),
    hear: Callable[[object], None] = lambda _event: None,
) -> tuple[Answer, list[int]]:
    """Send `request`; return its answer of type `kind` and the descriptors with it. Raises SandboxError.

    `hear` gets the events that come before.
    """
    try:
        await channel.send(request, descriptors)
        while True:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                received = await channel.receive()
            if received is None or not isinstance(received[0], verbs.EVENTS):
                break
            messages.close_all(received[1])
            hear(received[0])
    except TimeoutError as error:
        raise errors.BrokerUnavailableError(f"the broker did not answer in {_ANSWER_TIMEOUT_S} s") from error
    except OSError as error:
        raise errors.BrokerUnavailableError(f"the broker went away: {error}") from error
    except messages.MessageError as error:
        raise errors.InvalidRequestError(str(error)) from error
    if received is None:
        raise errors.BrokerUnavailableError("the broker went away", retry_after_s=1)
    answer, passed = received
    if isinstance(answer, kind):
        return answer, passed
    messages.close_all(passed)
    if isinstance(answer, verbs.Refused):
        raise errors.from_code(answer.code, answer.message, answer.retry_after_s)
    raise errors.ProtocolError(f"the broker answered with {type(answer).__name__}")


async def call(request: object, kind: type[Answer], descriptors: Sequence[int] = (), *, start: bool = True) -> Answer:
    """Ask on a connection of its own. Raises SandboxError."""
    channel = await connect(start=start)
    try:
        answer, passed = await ask(channel, request, kind, descriptors)
        messages.close_all(passed)
        return answer
    finally:
        channel.close()


async def open_disk(sandbox: str) -> int:
    """Return a new directory descriptor of a sandbox's files, for `host.beneath` only. Raises SandboxError."""
    channel = await connect(start=False)
    try:
        _, passed = await ask(channel, verbs.OpenDisk(sandbox=sandbox), verbs.Done)
    finally:
        channel.close()
    if len(passed) != 1:
        messages.close_all(passed)
        raise errors.ProtocolError(f"the broker passed {len(passed)} descriptors for one disk")
    return passed[0]


@dataclass(frozen=True, kw_only=True)
class Keepsake:
    """The name of the server that may adopt a sandbox, empty if none may, and its note about it."""

    server: str = ""
    note: str = field(default="", repr=False)


NO_KEEPSAKE: Final = Keepsake()


class Lease:
    """A claimed sandbox: the connection that keeps it alive, and what was heard on it."""

    def __init__(self, channel: Channel, sandbox: str, cwd: str, template: str, created_at: str) -> None:
        """Use `claim` instead."""
        self._channel = channel
        self.sandbox = sandbox
        self.cwd = cwd
        self.template = template
        self.claimed_at = _time(created_at)
        self._claimed = time.monotonic()
        self.exits: dict[str, verbs.ProcessExited] = {}
        """The end of each kernel and command, by its seat or id, until it is started again."""
        self.loss: str | None = None
        """Why the whole sandbox is gone; None while it is not."""
        self.tenants: set[str] = set()
        """Seats of the kernels that live, or will live again, in the sandbox."""
        self.first: verbs.KernelStarted | None = None
        """The kernel that was claimed along."""
        self.is_paused = False
        """Whether everything in it is frozen, by `pause`."""
        self.restriction = UNRESTRICTED
        """What it may not reach though its template opens it: from its claim on, or by `restrict`."""
        self._changing = asyncio.Lock()
        self.is_kept = False
        """Whether the sandbox stays when the last tenant has left it."""
        self._is_reattaching = False
        self._at_end: dict[str, Callable[[], object]] = {}
        self._unwatch: Callable[[], None] | None = None

    @classmethod
    async def claim(
        cls,
        template: str,
        workspace_mode: str = WorkspaceMode.NONE,
        workspace_name: str = "",
        directory: int | None = None,
        kernelspec: int | None = None,
        kernel: verbs.Kernel | None = None,
        *,
        on_behalf: str = "",
        keepsake: Keepsake = NO_KEEPSAKE,
        restriction: Restriction = UNRESTRICTED,
        less: Less = UNLIMITED,
    ) -> Lease:
        """Claim a sandbox that shows the open directories, of the notebook and of the kernelspec.

        With `kernel` that is started in it: all or nothing. `on_behalf`: see verbs.Claim; `keepsake`: for the time when
        the server, if this is one, has been started anew. Raises SandboxError.
        """
        channel = await connect()
        request = verbs.Claim(
            template=template,
            workspace_mode=workspace_mode,
            workspace_name=workspace_name,
            kernelspec=kernelspec is not None,
            kernel=kernel,
            on_behalf=on_behalf,
            server=keepsake.server,
            note=keepsake.note,
            network=restriction_verbs.network(restriction),
            less=less,
        )
        shown = [descriptor for descriptor in (directory, kernelspec) if descriptor is not None]
        early: list[object] = []  # a kernel may end before we hear that it started
        try:
            claimed, _ = await ask(channel, request, verbs.Claimed, shown, early.append)
            if (claimed.kernel is None) != (kernel is None):
                raise errors.ProtocolError("the broker's answer does not tell of the kernel that was claimed along")
        except BaseException:
            channel.close()
            raise
        lease = cls(channel, claimed.sandbox, claimed.cwd, template, claimed.created_at)
        lease.restriction = restriction
        for event in early:
            lease.hear_of(event)
        if kernel is not None:
            lease.first = claimed.kernel
            lease.tenants.add(kernel.seat)
        return lease

    @property
    def is_connected(self) -> bool:
        """Whether the broker is still there, as far as `listen` has seen."""
        return not self._channel.closed

    @property
    def age_s(self) -> float:
        """How long it has been claimed."""
        return time.monotonic() - self._claimed

    def listen(self) -> None:
        """Take in what has arrived, without waiting."""
        while not self._channel.closed:
            try:
                received = self._channel.receive_now()
            except BlockingIOError:
                return
            except errors.ProtocolError:
                received = None
            if received is None:
                self.close()
                self._tell(*self._at_end)
                return
            event, descriptors = received
            messages.close_all(descriptors)
            self.hear_of(event)

    def hear_of(self, event: object) -> None:
        """Take in an event."""
        if isinstance(event, verbs.ProcessExited):
            self.exits[event.target] = event
            self._tell(event.target)
        elif isinstance(event, verbs.SandboxGone):
            self.loss = event.message
            self._tell(*self._at_end)

    def call_at_end(self, target: str, callback: Callable[[], object] | None) -> None:
        """Call back when a kernel or command has ended, also with its sandbox, or when the broker has: as it is told.

        The running loop listens then. With None nobody is called any more.
        """
        if callback is None:
            self._at_end.pop(target, None)
        else:
            self._at_end[target] = callback
            if target in self.exits or self.loss is not None or not self.is_connected:
                self._tell(target)
        self._watch()

    def _tell(self, *targets: str) -> None:
        for target in targets:
            if callback := self._at_end.get(target):
                callback()

    def _watch(self) -> None:
        """Let the loop listen exactly while somebody wants to be called and the broker is there."""
        if bool(self._at_end) and self.is_connected:
            self._unwatch = self._unwatch or self._channel.watch(self.listen)
        elif self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    async def hear(self, timeout_s: float) -> None:
        """Wait at most so long for something to arrive, then take in what did."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(timeout_s):
                await self._channel.arrival()
        self.listen()

    async def vacate(self, seat: str) -> None:
        """Give a kernel's seat back, and end the kernel if it still lives; raises SandboxError."""
        request = verbs.VacateSeat(sandbox=self.sandbox, seat=seat)
        try:
            await call(request, verbs.Done, start=False)
        except errors.StartError:
            kill = verbs.SignalKernel(sandbox=self.sandbox, target=seat, number=signal.SIGKILL)
            await call(kill, verbs.Done, start=False)
            deadline = time.monotonic() + _KILLED_S
            while self.is_connected and seat not in self.exits and (left_s := deadline - time.monotonic()) > 0:
                await self.hear(left_s)
            await call(request, verbs.Done, start=False)

    async def pause(self) -> float | None:
        """Freeze everything in the sandbox; return how long that took, seconds, or None if it was paused before.

        Raises SandboxError; it runs on then.
        """
        return await tasks.whole(self._change(verbs.Pause(sandbox=self.sandbox), is_paused=True))

    async def resume(self) -> float | None:
        """Let everything in the sandbox go on; return how long that took, or None if it did before.

        Raises SandboxError; it is as before then.
        """
        return await tasks.whole(self._change(verbs.Resume(sandbox=self.sandbox), is_paused=False))

    async def restrict(self, restriction: Restriction) -> None:
        """Let the sandbox reach less than its template opens, whatever was said before.

        Raises SandboxError; it reaches no more than before then.
        """
        await tasks.whole(self._restrict(restriction))

    async def _restrict(self, restriction: Restriction) -> None:
        async with self._changing:
            wanted = restriction_verbs.network(restriction)
            await call(restriction_verbs.Restrict(sandbox=self.sandbox, network=wanted), verbs.Done, start=False)
            self.restriction = restriction

    async def _change(self, request: verbs.Pause | verbs.Resume, *, is_paused: bool) -> float | None:
        async with self._changing:
            began = time.monotonic()
            await call(request, verbs.Done, start=False)
            was_paused, self.is_paused = self.is_paused, is_paused
            return None if was_paused is is_paused else time.monotonic() - began

    async def reattach(self) -> None:
        """After the broker died: find the sandbox with the next broker. Sets `loss` when it is gone.

        Kernels that ended meanwhile get their end. Quiet when another tenant is at it. Raises BrokerUnavailableError
        when no broker can be started.
        """
        if self._is_reattaching:
            return
        self._is_reattaching = True
        try:
            await self._attach(await next_broker())
        finally:
            self._is_reattaching = False

    async def _attach(self, channel: Channel) -> None:
        try:
            attached, _ = await ask(channel, verbs.Attach(sandbox=self.sandbox), verbs.Attached)
        except errors.UnknownSandboxError:
            channel.close()
            self.loss = "The sandbox was lost together with its broker. Its files are gone; a restart gets a new one."
            return
        except BaseException:
            channel.close()
            raise
        self._channel = channel
        self.is_paused, self.restriction = attached.paused, attached.network.judge()
        self._watch()
        for seat in self.tenants - set(attached.running) - set(self.exits):
            self.exits[seat] = verbs.ProcessExited(
                sandbox=self.sandbox,
                target=seat,
                status=1,
                reason="unknown",
                message="The kernel ended while its broker was away.",
            )

    def close(self) -> None:
        """Give the sandbox back; the broker destroys it."""
        self._channel.close()
        self._watch()


def _time(text: str) -> datetime:
    """Return the time that the broker wrote down."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
