"""What the broker says of itself, asked once for all who want to know at the same time."""

from __future__ import annotations

import asyncio
from typing import Final

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import BrokerUnavailableError

_CHECK_S: Final = 5


class BrokerHealth:
    """See the module."""

    def __init__(self) -> None:
        """Nobody has asked."""
        self._asking: asyncio.Task[verbs.StatusReport] | None = None

    async def report(self) -> verbs.StatusReport:
        """Return it; raises SandboxError unless a broker answers.

        One that is not there is started, as by a claim.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(client.call(verbs.Status(), verbs.StatusReport))
        try:
            async with asyncio.timeout(_CHECK_S):
                return await asyncio.shield(self._asking)
        except TimeoutError as error:
            raise BrokerUnavailableError(f"no broker answered within {_CHECK_S} s") from error
