"""What sandboxes use: `GET /sandboxes/{id}/metrics`, and of several `GET /sandboxes/metrics`.

Nothing is recorded: there is one figure, that of now.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import usage_service
from jupyter_sandbox.errors import InvalidRequestError, UnknownSandboxError
from jupyter_sandbox.surfaces.e2b import words
from jupyter_sandbox.surfaces.e2b.control import ControlHandler

if TYPE_CHECKING:
    from jupyter_sandbox.usage_service import Load

_MOST: Final = 100
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class MetricsHandler(ControlHandler):
    """`GET /sandboxes/{id}/metrics`."""

    operation = "get_usage"

    async def on_get(self, theirs: str) -> None:
        """Tell what a sandbox uses, if now is in the time that is asked for."""
        owner = await self.owner("sandboxes", "read")
        sandbox = self.services.sandboxes.find(owner, words.our_id(theirs))
        now = datetime.now(UTC)
        start, end = self._moment("start"), self._moment("end")
        if (start is not None and start > now.timestamp()) or (end is not None and end < int(now.timestamp())):
            self.answer(200, [])
            return
        found = await usage_service.loads([sandbox.id])
        self.answer(200, [metric(load, now) for load in found.values()])

    def _moment(self, name: str) -> int | None:
        given = self.get_query_argument(name, "")
        if given and not _SECONDS.fullmatch(given):
            raise InvalidRequestError(f"{name} is a moment in seconds since 1970")
        return int(given) if given else None


class AllMetricsHandler(ControlHandler):
    """`GET /sandboxes/metrics`."""

    operation = "get_usage"

    async def on_get(self) -> None:
        """Tell what sandboxes use that are named; those that are not there, or not the owner's, are left out."""
        owner = await self.owner("sandboxes", "read")
        asked = [words.our_id(theirs) for theirs in self.get_query_argument("sandbox_ids", "").split(",") if theirs]
        if len(asked) > _MOST:
            raise InvalidRequestError(f"at most {_MOST} sandboxes may be named")
        living = []
        for sandbox_id in dict.fromkeys(asked):
            try:
                living.append(self.services.sandboxes.find(owner, sandbox_id).id)
            except UnknownSandboxError:
                continue
        found = await usage_service.loads(living)
        now = datetime.now(UTC)
        self.answer(200, {"sandboxes": {words.sandbox_id(each): metric(load, now) for each, load in found.items()}})


def metric(load: Load, now: datetime) -> dict[str, Any]:
    """Return what a sandbox uses in E2B's words: SDKs want numbers, so what is unknown is 0."""
    report = load.report
    return {
        "timestamp": words.moment(now),
        "timestampUnix": int(now.timestamp()),
        "cpuCount": max(1, round(report.cpus)),
        "cpuUsedPct": round(load.cpu_percent or 0.0, 2),
        "memUsed": report.memory_bytes or 0,
        "memTotal": report.memory_total_bytes,
        "memCache": report.memory_cache_bytes or 0,
        "diskUsed": report.disk_bytes or 0,
        "diskTotal": report.disk_total_bytes,
    }
