"""One sandbox: what is wanted, how its owner sees it, which are listed. It knows no broker's verbs and no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from jupyter_sandbox.specs import UNLIMITED, UNRESTRICTED

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from jupyter_sandbox.broker.client import Lease
    from jupyter_sandbox.events import Origin
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.specs import Less, Restriction
    from jupyter_sandbox.terms import Term


class SandboxState(StrEnum):
    """What an owner can do with a sandbox: everything, what needs no process of it, or wait."""

    READY = "ready"
    PAUSED = "paused"
    ENDING = "ending"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is wanted. Two claims with the same idempotency key must be equal."""

    template: str
    timeout_s: float
    metadata: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    is_renewed_by_use: bool = False
    """Whether its time begins anew whenever a client uses it."""
    network: Restriction = UNRESTRICTED
    """What it may not reach of what its template opens."""
    less: Less = UNLIMITED
    """What it gets less of than its template's limits."""


@dataclass(frozen=True, kw_only=True)
class SandboxView:
    """A sandbox as its owner sees it. `contexts` are kernel ids; `expires_at` is None for a kernel's sandbox."""

    id: str
    template: str
    state: SandboxState
    origin: Origin
    created_at: datetime
    expires_at: datetime | None
    metadata: dict[str, str]
    contexts: tuple[str, ...]
    network: Restriction = UNRESTRICTED
    less: Less = UNLIMITED


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which sandboxes of an owner are listed: all those that have everything that is named here."""

    states: frozenset[str] | None = None
    """Any one of these."""
    template: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None
    made_from: datetime | None = None
    """Made then, or later."""

    def fits(self, view: SandboxView) -> bool:
        """Whether a sandbox is one of them."""
        return (
            (self.states is None or view.state in self.states)
            and self.template in (None, view.template)
            and self.origin in (None, view.origin)
            and (self.made_from is None or view.created_at >= self.made_from)
            and all(view.metadata.get(name) == value for name, value in self.metadata)
        )


Place = TypeVar("Place", str, "tuple[datetime, str]")
"""Where a sandbox is in a list: no two are at one, and none ever moves."""


def by_id(view: SandboxView) -> str:
    """Return a sandbox's place among ids."""
    return view.id


def by_time(view: SandboxView) -> tuple[datetime, str]:
    """Return a sandbox's place in time."""
    return view.created_at, view.id


def page(
    views: Iterable[SandboxView],
    wanted: Filter,
    limit: int,
    *,
    place: Callable[[SandboxView], Place],
    after: Place | None = None,
    is_backward: bool = False,
) -> tuple[list[SandboxView], bool]:
    """Return at most `limit` of those that are wanted, in the order of their places, and whether there are more.

    `after` is where the page before ended; nothing needs to be there any more.
    """
    found = sorted((view for view in views if wanted.fits(view)), key=place, reverse=is_backward)
    if after is not None:
        found = [view for view in found if (place(view) < after if is_backward else place(view) > after)]
    return found[:limit], len(found) > limit


@dataclass(eq=False, kw_only=True)
class Sandbox:
    """A sandbox and what is known of it here. `term` None: it has no time limit."""

    lease: Lease
    owner: Owner | None
    origin: Origin
    claim: Claim | None = None
    key: str | None = None
    term: Term | None = None
    expires_at: datetime | None = None
    kernels: tuple[str, ...] = ()
    parts: dict[str, str] = field(default_factory=dict)
    """What services keep of it for the next start of the server, by their names."""
    noted_until: float = 0
    """The end that was noted last, on our clock."""
    is_unnoted: bool = False
    """Whether something changed that the next start of the server has to know."""
    noting: asyncio.Task[None] | None = None
    reattaching: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The id."""
        return self.lease.sandbox

    def view(self, state: SandboxState, expires_at: datetime | None) -> SandboxView:
        """Return it as its owner sees it."""
        return SandboxView(
            id=self.id,
            template=self.lease.template,
            state=state,
            origin=self.origin,
            created_at=self.lease.claimed_at,
            expires_at=expires_at,
            metadata=dict(self.claim.metadata) if self.claim else {},
            contexts=self.kernels,
            network=self.lease.restriction,
            less=self.claim.less if self.claim else UNLIMITED,
        )
