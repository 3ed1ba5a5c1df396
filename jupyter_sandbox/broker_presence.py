"""A server's presence at its broker: a connection that stays, so that the broker and its warm workers stay, too.

Without one a broker goes when nothing was claimed for a minute (`BrokerApp.idle_exit_s`), and the next kernel waits
seconds for another broker and its zygote.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.host.channel import Channel

_LOOK_S: Final = 5
"""How often to look for a next broker once there is none. Looking starts none: who needs it does."""
_BEGIN_S: Final = 3
"""How long an end waits for a beginning: a broker that is just starting can be told to go when it serves."""


class BrokerPresence:
    """See the module."""

    def __init__(self, hear: Callable[[verbs.StatusReport], object], refused: Callable[[Exception], object]) -> None:
        """`hear` gets what each broker says of itself, `refused` why there is none, or why one says nothing."""
        self._hear = hear
        self._refused = refused
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the broker if need be, then stay with it, and with those after it."""
        self._task = asyncio.create_task(self._stay(), name="presence at the broker")

    async def end(self) -> None:
        """Leave; quiet when it never began."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                await self._begun.wait()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _stay(self) -> None:
        told, starts = "", True
        while True:
            try:
                await self._attend(await client.connect(start=starts))
                told = ""
            except BrokerUnavailableError as error:
                if starts:
                    self._refused(error)
            except Exception as error:  # noqa: BLE001 - without a presence the server would serve all the same
                if str(error) != told:
                    self._refused(error)
                told = str(error)
            starts = False
            self._begun.set()
            await asyncio.sleep(_LOOK_S)

    async def _attend(self, channel: Channel) -> None:
        """Stay until the broker goes. Raises SandboxError unless it says what it is."""
        try:
            status, _ = await client.ask(channel, verbs.Status(), verbs.StatusReport)
            self._hear(status)
            self._begun.set()
            with contextlib.suppress(OSError):
                await channel.arrival()
        finally:
            channel.close()
