"""How often an owner may ask: a bucket for each owner and kind of request, emptied by asking and filled by time.

Time is monotonic. Names of header fields are those of the IETF's draft "RateLimit header fields for HTTP".
"""

from __future__ import annotations

import collections
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from traitlets import Int
from traitlets.config import Configurable

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.owners import Owner

_WINDOW_S: Final = 60
_MAX_BUCKETS: Final = 4096
"""Of owners who asked last; who is forgotten begins anew with a full bucket."""


@dataclass(frozen=True)
class Bucket:
    """How many requests are left, and when that was so."""

    left: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a request is within the rate, and what to tell its client."""

    name: str
    quota: int
    bucket: Bucket
    retry_after_s: int | None
    """When to ask again; None: it may go on."""

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer."""
        full_in_s = math.ceil((self.quota - self.bucket.left) * _WINDOW_S / self.quota)
        fields = {
            "RateLimit-Policy": f'"{self.name}";q={self.quota};w={_WINDOW_S}',
            "RateLimit": f'"{self.name}";r={int(self.bucket.left)};t={full_in_s}',
        }
        return fields if self.retry_after_s is None else fields | {"Retry-After": str(self.retry_after_s)}


def judge(name: str, quota: int, bucket: Bucket | None, now: float) -> Verdict:
    """Take one request out of the bucket, if it has one; None: a full one. `quota` requests come back in a minute."""
    per_s = quota / _WINDOW_S
    left = quota if bucket is None else min(quota, bucket.left + max(0.0, now - bucket.at) * per_s)
    if left >= 1:
        return Verdict(name=name, quota=quota, bucket=Bucket(left - 1, now), retry_after_s=None)
    wait_s = max(1, math.ceil((1 - left) / per_s))
    return Verdict(name=name, quota=quota, bucket=Bucket(left, now), retry_after_s=wait_s)


class Rates(Configurable):
    """The rates of all owners of a server. They hold for everybody but who logs in to the server as its only owner."""

    reads_per_minute = Int(
        6_000, min=1, help="How many requests an owner may make in a minute that only look. As many may come at once."
    ).tag(config=True)
    writes_per_minute = Int(
        1_200, min=1, help="How many requests an owner may make in a minute that make, change or end something."
    ).tag(config=True)
    executions_per_minute = Int(
        3_000, min=1, help="How many executions, and connections to kernels, an owner may begin in a minute."
    ).tag(config=True)

    def __init__(self, clock: Callable[[], float] = time.monotonic, **kwargs: object) -> None:
        """All buckets are full."""
        super().__init__(**kwargs)
        self._clock = clock
        self._buckets: collections.OrderedDict[tuple[Owner, str], Bucket] = collections.OrderedDict()

    def take(self, owner: Owner, action: str) -> Verdict:
        """Count a request; `action` is Jupyter's word: read, write or execute."""
        quotas = {"read": self.reads_per_minute, "execute": self.executions_per_minute}
        key = owner, action
        verdict = judge(action, quotas.get(action, self.writes_per_minute), self._buckets.get(key), self._clock())
        self._buckets[key] = verdict.bucket
        self._buckets.move_to_end(key)
        while len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return verdict
