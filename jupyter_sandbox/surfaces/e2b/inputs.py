"""`process.Process/StreamInput`: what a command is to read, passed on as it comes from its client.

A client that sends faster than the command reads is made to wait: of a stream there is kept one message, and what waits
before the command. The end of a stream is the end of nothing else, whoever ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox.errors import BusyError, InvalidRequestError, UnknownCommandError
from jupyter_sandbox.pace import SILENCE_S
from jupyter_sandbox.surfaces.e2b import connect
from jupyter_sandbox.surfaces.e2b.process import ProcessHandler, given
from jupyter_sandbox.surfaces.e2b.rpc import MAX_OF_TURN, CallHandler
from jupyter_sandbox.web import MAX_BODY_BYTES, REST_PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from jupyter_sandbox.command import Command
    from jupyter_sandbox.incoming import Incoming

MAX_STREAMS: Final = 16
"""Of one sandbox."""
_ENDLESS: Final = 1 << 40
"""Bytes of a whole stream: nothing of it is kept."""
_EVENTS: Final = ("start", "data", "keepalive")
_OVER: Final = "process not found: it has ended"


class StreamInputHandler(ProcessHandler):
    """`StreamInput`."""

    is_paced = False

    def file_limit(self) -> int | None:
        """See ServiceHandler: a body that is a stream, of somebody who has the sandbox's token."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_stream = self.request.method == "POST" and kind == connect.STREAM
        return _ENDLESS if is_stream and self.held is not None else None

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Begin before the body has come."""
        await super().prepare()
        if self.incoming is not None and not self._finished:
            await self.require(self.resource, self.action)
            self.when_gone(self.incoming.begin(self._serve_stream(self.incoming)).cancel)

    @allow_unauthenticated
    async def post(self, *ids: str) -> None:
        """Serve."""
        if self.incoming is not None:
            await self.incoming.served()
        else:
            await self.serve(ids)

    async def on_post(self) -> None:
        """Refuse what is no stream."""
        self.set_status(415)
        self.finish()

    async def _serve_stream(self, incoming: Incoming) -> None:
        """Pass a stream on and say how that ended, though more may come: who hears it stops."""
        error = await self.failure(self._pass_on_in_time(incoming))
        answer = connect.end(error) if error else connect.envelope({}) + connect.end()
        self.set_header("Content-Type", connect.STREAM)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Length", str(len(answer)))
        with self._sending("The answer to a stream of input"):
            self.write(answer)
            await self.flush()
            async with asyncio.timeout(REST_PATIENCE_S):
                await incoming.ended()  # to hang up on who still sends can take the answer away from him
            self.finish(set_content_type=connect.STREAM)

    async def _pass_on_in_time(self, incoming: Incoming) -> None:
        """Pass a stream on, as long as its client gives it. Raises SandboxError, TimeIsOverError."""
        limit_s = connect.timeout_s(self.request.headers.get(connect.TIMEOUT_HEADER))
        try:
            async with asyncio.timeout(limit_s or None):
                with self._counted():
                    await self._pass_on(incoming)
        except TimeoutError:
            raise connect.TimeIsOverError from None

    async def _pass_on(self, incoming: Incoming) -> None:
        """Pass a stream on."""
        async with contextlib.aclosing(_messages(incoming)) as messages:
            command = self.running(await _start(messages))
            async with _while_it_may_read(command):
                async for message in messages:
                    event, value = _event(message)
                    if event == "start":
                        raise InvalidRequestError("the start of a stream comes once")
                    if event == "data":
                        if command.is_over:
                            raise UnknownCommandError(_OVER)
                        await self.services.commands.feed(command, given(value))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Hold one of the sandbox's places for streams; raises BusyError."""
        box = self.box
        if box.inputs >= MAX_STREAMS:
            raise BusyError(f"{MAX_STREAMS} streams of input are open in sandbox {box.sandbox_id}", retry_after_s=1)
        box.inputs += 1
        try:
            yield
        finally:
            box.inputs -= 1


METHODS: Final[dict[str, type[CallHandler]]] = {"StreamInput": StreamInputHandler}


async def _messages(incoming: Incoming) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the messages of a stream as they come; raises InvalidRequestError, BodyTooLargeError."""
    envelopes, count = connect.Envelopes(MAX_BODY_BYTES), 0
    async for piece in incoming:
        for message in envelopes.take(piece):
            yield message
            count += 1
            if count % MAX_OF_TURN == 0:
                await asyncio.sleep(0)
    envelopes.finish()


async def _start(messages: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    """Return what the first message says of the command; raises InvalidRequestError."""
    try:
        async with asyncio.timeout(SILENCE_S):
            event, value = _event(await anext(messages, {}))
    except TimeoutError:
        raise InvalidRequestError(f"no message came for {SILENCE_S} s") from None
    if event != "start":
        raise InvalidRequestError("the first message of a stream is its start")
    return value


def _event(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what a message is and what it says; raises InvalidRequestError."""
    found = [(name, message[name]) for name in _EVENTS if message.get(name) is not None]
    if len(found) != 1 or not isinstance(found[0][1], dict):
        raise InvalidRequestError(f"a message is one of {', '.join(_EVENTS)}")
    return found[0]


@contextlib.asynccontextmanager
async def _while_it_may_read(command: Command) -> AsyncIterator[None]:
    """Give a stream time as long as its command runs, and to end after that; raises UnknownCommandError."""

    async def see_its_end(time: asyncio.Timeout) -> None:
        await command.ended()
        time.reschedule(asyncio.get_running_loop().time() + SILENCE_S)

    try:
        async with asyncio.timeout(None) as time:
            watching = asyncio.create_task(see_its_end(time), name=f"input of {command.id}")
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError:
        raise UnknownCommandError(_OVER) from None
