"""The broker's end of an agent's socket. What comes back is hostile: decoded strictly, bounded in time and size.

One request is answered at a time. A worker that breaks the protocol, or closes the connection, is lost: `on_lost` is
called once and every request from then on raises StartError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from jupyter_sandbox.errors import (
    ConflictError,
    InvalidRequestError,
    ProgramMissingError,
    ProtocolError,
    SandboxError,
    StartError,
)
from jupyter_sandbox.host import tasks
from jupyter_sandbox.host.channel import Channel
from sandbox_worker import messages, protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

ANSWER_TIMEOUT_S: Final = 15
MAX_LOG: Final = 2048

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class AgentClient:
    """A connection to the agent of one worker."""

    def __init__(
        self,
        channel: Channel,
        worker: str,
        *,
        on_exited: Callable[[protocol.Exited], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Use `channel`; call `on_exited` for each process that ended and `on_lost` when the agent is gone.

        `on_exited` raises ProtocolError for a process that was never started: such an agent lies.
        """
        self._channel = channel
        self._worker = worker
        self._on_exited = on_exited
        self._on_lost = on_lost
        self._lock = asyncio.Lock()
        self._answers: asyncio.Queue[object] = asyncio.Queue(maxsize=1)
        self._task = asyncio.create_task(self._read(), name=f"agent {worker}")

    @classmethod
    async def connect(
        cls,
        path: Path,
        worker: str,
        *,
        on_exited: Callable[[protocol.Exited], None],
        on_lost: Callable[[], None],
    ) -> AgentClient:
        """Connect to the agent that listens at `path`; raises StartError."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                channel = await Channel.connect(path, protocol.FROM_AGENT)
        except TimeoutError as error:
            raise StartError(f"the agent of {worker} accepted no connection in {ANSWER_TIMEOUT_S} s") from error
        except OSError as error:
            raise StartError(f"the agent of {worker} cannot be reached: {error}") from error
        return cls(channel, worker, on_exited=on_exited, on_lost=on_lost)

    @property
    def is_gone(self) -> bool:
        """Whether the agent has gone, or was given up."""
        return self._task.done()

    async def ask(self, request: object, kind: type[Answer], descriptors: Sequence[int] = ()) -> Answer:
        """Send `request` and return its answer of type `kind`; raises StartError.

        InvalidRequestError: the request does not fit into a message. Who is cancelled leaves when the answer has come:
        nobody else would know what it is for.
        """
        answer = await tasks.whole(self._exchange(request, descriptors))
        if isinstance(answer, protocol.Failed):
            kind_of_error: type[SandboxError] = ProgramMissingError if answer.program_missing else StartError
            if answer.directory_missing:
                kind_of_error = ConflictError
            raise kind_of_error(f"{self._worker}: {answer.reason[:500]}")
        if not isinstance(answer, kind):
            self._task.cancel()
            raise StartError(f"the agent of {self._worker} gave a wrong answer")
        return answer

    async def _exchange(self, request: object, descriptors: Sequence[int]) -> object:
        async with self._lock:
            if self.is_gone:
                raise StartError(f"the agent of {self._worker} is gone")
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._channel.send(request, descriptors)
                    return await self._answers.get()
            except TimeoutError as error:
                self._task.cancel()
                raise StartError(f"the agent of {self._worker} did not answer in {ANSWER_TIMEOUT_S} s") from error
            except messages.MessageError as error:
                raise InvalidRequestError(f"more than can be asked of {self._worker} at once: {error}") from error
            except OSError as error:
                raise StartError(f"the agent of {self._worker} cannot be asked: {error}") from error

    @contextlib.asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """Wait for what is being asked, and let nobody ask meanwhile."""
        async with self._lock:
            yield

    async def signal(self, target: str, number: int) -> None:
        """Signal a kernel or command of the worker; quiet when the agent is gone."""
        await self.tell(protocol.Signal(target=target, number=number))

    async def tell(self, order: protocol.Signal | protocol.Resize | protocol.Renew) -> None:
        """Send what has no answer; quiet when the agent is gone."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._channel.send(order)

    async def close(self) -> None:
        """Drop the connection; the worker lives on."""
        self._on_lost = lambda: None
        self._task.cancel()
        await asyncio.wait([self._task])
        self._channel.close()  # a task that had not begun has no `finally`

    async def _read(self) -> None:
        try:
            while (received := await self._channel.receive()) is not None:
                message, descriptors = received
                messages.close_all(descriptors)  # an agent has nothing to pass
                await asyncio.sleep(0)  # one that never pauses must not keep the loop from the others
                if isinstance(message, protocol.Exited):
                    self._on_exited(message)
                elif self._lock.locked() and self._answers.empty():
                    self._answers.put_nowait(message)
                else:
                    raise ProtocolError("an answer that nobody asked for")
        except ProtocolError as error:
            log.warning("worker %s broke the protocol and is given up: %s", self._worker, error)
        finally:
            self._channel.close()
            if self._answers.empty():
                self._answers.put_nowait(protocol.Failed(reason="the agent is gone"))
            self._on_lost()
