"""A command that runs in a sandbox, as who asked for it has it: our ends of its streams, and the word of its end.

The streams are pipes that are made here, and of each the sandbox gets one end: nothing that it can do to its end makes
a read or write of ours wait. The connection is the command's life, see `verbs.RunCommand`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import ProtocolError

if TYPE_CHECKING:
    from jupyter_sandbox.host.channel import Channel
    from sandbox_worker.protocol import TerminalSize

_SEND_S: Final = 1.0
"""A broker that takes nothing for so long is asked for nothing: the end of a command must not wait for it."""


class RunningCommand:
    """One command. `input` takes what it reads; `outputs` give what it writes: of a terminal one, else out and error.

    Descriptors are non-blocking and ours; who closes `input` sets it to None. Close the command to end it.
    """

    def __init__(self, channel: Channel, sandbox: str) -> None:
        """Use `start` instead."""
        self._channel, self._sandbox = channel, sandbox
        self._sending = asyncio.Lock()
        self._exited: verbs.ProcessExited | None = None
        self.id, self.pid = "", 0
        self.input: int | None = None
        self.outputs: tuple[int, ...] = ()

    @classmethod
    async def start(cls, request: verbs.RunCommand, *, with_input: bool) -> RunningCommand:
        """Start a command. Without input it reads the end at once. Raises SandboxError, leaving nothing behind."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            self = cls(await client.connect(start=False), request.sandbox)
            undo.callback(self.close)
            source, self.input = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, source)
            passed = [source]
            for _ in range(2 if request.terminal is None else 1):
                output, sink = os.pipe2(os.O_CLOEXEC)
                self.outputs += (output,)
                theirs.callback(os.close, sink)
                passed.append(sink)
            for ours in (self.input, *self.outputs):
                os.set_blocking(ours, False)
            if not with_input:
                self.close_input()
            started, _ = await client.ask(self._channel, request, verbs.CommandStarted, passed, self._hear)
            self.id, self.pid = started.command, started.pid
            undo.pop_all()
        return self

    async def ended(self) -> verbs.ProcessExited | None:
        """Wait for its end; None: the broker went away, and the command with it. For one caller."""
        while self._exited is None:
            try:
                received = await self._channel.receive()
            except (OSError, ProtocolError):
                received = None
            if received is None:
                return None
            self._hear(received[0])
        return self._exited

    async def signal(self, number: int) -> None:
        """Signal its process group; quiet when it has ended. Kernels of the sandbox are not concerned."""
        await self._send(verbs.SignalKernel(sandbox=self._sandbox, target=self.id, number=number))

    async def resize(self, size: TerminalSize) -> None:
        """Give its terminal another size; quiet when it has none or has ended."""
        await self._send(verbs.ResizeTerminal(sandbox=self._sandbox, command=self.id, size=size))

    def close_input(self) -> None:
        """Let it read the end of its input; quiet when done twice."""
        if self.input is not None:
            os.close(self.input)
            self.input = None

    def close(self) -> None:
        """Close everything, which ends it if it still runs. Nobody may wait in `ended` any more."""
        self._channel.close()
        self.close_input()
        for output in self.outputs:
            os.close(output)
        self.outputs = ()

    def _hear(self, event: object) -> None:
        """Take in an event; answers to `signal` and `resize` say nothing."""
        if isinstance(event, verbs.ProcessExited):
            self._exited = event

    async def _send(self, request: object) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SEND_S), self._sending:
                await self._channel.send(request)
