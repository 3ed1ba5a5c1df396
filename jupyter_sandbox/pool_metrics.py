"""How many workers there are, as the broker says: asked when somebody looks at the metrics, and not before.

Prometheus's collectors cannot wait, and the event loop must not. So a look shows what the look before it has learnt,
and asks for the next one in the background; a server at which nobody looks asks nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.metrics import PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_FRESH_S: Final = 1.0
_TIMEOUT_S: Final = 5.0

log = logging.getLogger(__name__)


class PoolMetrics(Collector):
    """See the module. Who looks from outside the event loop sees what is known, and asks nothing."""

    def __init__(self, ask: Callable[[], Awaitable[verbs.StatusReport]]) -> None:
        """`ask` asks the broker, without starting one."""
        self._ask = ask
        self._known: verbs.StatusReport | None = None
        self._is_up = False
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")

    def note(self, report: verbs.StatusReport) -> None:
        """Show this from now on."""
        self._known, self._is_up = report, True

    def describe(self) -> list[GaugeMetricFamily]:
        """Return what there will be, without values."""
        return [
            GaugeMetricFamily(f"{PREFIX}_broker_up", "Whether a broker answered when it was asked last"),
            GaugeMetricFamily(
                f"{PREFIX}_workers",
                "Workers: idle, claimed, or passing (they start or end)",
                labels=["template", "state"],
            ),
            GaugeMetricFamily(f"{PREFIX}_workers_max", "Workers that may exist at once", labels=["template"]),
            GaugeMetricFamily(
                f"{PREFIX}_template_failing",
                "Whether claims are refused because workers do not start",
                labels=["template"],
            ),
        ]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known, and see to it that the next look knows more."""
        up, workers, most, failing = self.describe()
        up.add_metric([], float(self._is_up))
        for each in self._known.workers if self._known and self._is_up else ():
            workers.add_metric([each.name, "idle"], each.warm)
            workers.add_metric([each.name, "claimed"], each.claimed)
            workers.add_metric([each.name, "passing"], max(0, each.total - each.warm - each.claimed))
            most.add_metric([each.name], each.max_total)
            failing.add_metric([each.name], float(each.starts != "closed"))
        yield from (up, workers, most, failing)
        self._refresh()

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    def _refresh(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        is_asking = self._asking is not None and not self._asking.done()
        if loop.time() - self._asked_at < (_TIMEOUT_S if is_asking else _FRESH_S):
            return
        self._asked_at = loop.time()
        self._asking = loop.create_task(self._learn(), name="pool metrics", context=contextvars.Context())

    async def _learn(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                self.note(await self._ask())
        except (SandboxError, TimeoutError) as error:
            log.debug("the broker did not say how many workers there are (%s)", type(error).__name__)
            self._is_up = False


def _ask() -> Awaitable[verbs.StatusReport]:
    return client.call(verbs.Status(), verbs.StatusReport, start=False)


POOL: Final = PoolMetrics(_ask)
REGISTRY.register(POOL)
