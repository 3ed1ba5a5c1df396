"""How much an owner may hold: sandboxes, contexts, bytes of files. Services ask before they make something.

It knows limits and what is being made, not what exists: that is said by who asks.
"""

from __future__ import annotations

import collections
import contextlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from traitlets import Dict, Int, TraitError, validate
from traitlets.config import Configurable

from jupyter_sandbox import owners
from jupyter_sandbox.errors import QuotaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.owners import Owner

_RETRY_S: Final = 5


class Held(StrEnum):
    """What there is a quota of."""

    SANDBOXES = "sandboxes"
    CONTEXTS = "contexts"
    FILES = "file_mib"


class Quotas(Configurable):
    """The quotas of all owners of a server. They hold for everybody but who logs in to the server as its only owner."""

    sandboxes = Int(20, min=0, help="How many sandboxes an owner may hold, those of notebooks among them.").tag(
        config=True
    )
    contexts = Int(100, min=0, help="How many kernels in sandboxes an owner may hold.").tag(config=True)
    file_mib = Int(
        16_384,
        min=0,
        help="How many MiB the server writes into an owner's sandboxes that live, over REST and from URLs. Deleting "
        "gives nothing back, ending the sandbox does.",
    ).tag(config=True)
    owners = Dict(
        help='Other quotas for owners that are named: `{"alice": {"sandboxes": 3, "contexts": 10, "file_mib": 1024}}`.'
    ).tag(config=True)

    def __init__(self, **kwargs: object) -> None:
        """Nothing is being made."""
        super().__init__(**kwargs)
        self._making: collections.Counter[tuple[Owner, Held]] = collections.Counter()

    @validate("owners")
    def _judge(self, proposal: dict[str, dict[str, object]]) -> dict[str, object]:
        value = proposal["value"]
        for name, quotas in value.items():
            if not isinstance(quotas, dict) or not set(quotas) <= set(Held) or not all(map(_is_limit, quotas.values())):
                raise TraitError(f"Quotas.owners: {name!r} needs numbers for {', '.join(Held)}")
        return value

    def limit(self, owner: Owner, what: Held) -> int | None:
        """Return how much an owner may hold; None: there is no limit."""
        if owner == owners.EVERYBODY:
            return None
        quotas: dict[str, int] = self.owners.get(owners.name_of(owner), {})
        usual: int = getattr(self, what)
        return quotas.get(what, usual)

    @contextlib.contextmanager
    def room(self, owner: Owner, what: Held, held: int) -> Iterator[None]:
        """Keep room for one more while it is made; `held` is without those that are being made. Raises QuotaError."""
        limit, key = self.limit(owner, what), (owner, what)
        if limit is not None and held + self._making[key] >= limit:
            raise QuotaError(f"you may hold {limit} {what}, and do", retry_after_s=_RETRY_S)
        self._making[key] += 1
        try:
            yield
        finally:
            self._making[key] -= 1
            if not self._making[key]:
                del self._making[key]

    def check_bytes(self, owner: Owner, size: int) -> None:
        """Raise QuotaError when an owner may not have so many bytes of files written."""
        limit = self.limit(owner, Held.FILES)
        if limit is not None and size > limit << 20:
            raise QuotaError(
                f"you may have {limit} MiB of files written into sandboxes that live", retry_after_s=_RETRY_S
            )


def _is_limit(value: object) -> bool:
    return type(value) is int and value >= 0
