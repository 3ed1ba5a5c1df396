"""The verb that changes what a sandbox may reach, and how restrictions are written in messages: see `verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import restrictions

if TYPE_CHECKING:
    from jupyter_sandbox.specs import Restriction


@dataclass(frozen=True, kw_only=True)
class Network:
    """A restriction (see `specs.Restriction`) as addresses and ranges, at most 64 of each."""

    denied: tuple[str, ...]
    excepted: tuple[str, ...]

    def judge(self) -> Restriction:
        """Return what it says; raises InvalidRequestError."""
        return restrictions.judge(self.denied, self.excepted)


OPEN: Final = Network(denied=(), excepted=())
"""All that the template opens."""


@dataclass(frozen=True, kw_only=True)
class Restrict:
    """Let a sandbox reach less than its template opens; what was said before is forgotten. Answer: Done.

    When it is refused, the sandbox reaches no more than before, and perhaps less: ask again.
    """

    sandbox: str
    network: Network


def network(restriction: Restriction) -> Network:
    """Return a restriction as it is written."""
    return Network(
        denied=tuple(str(target) for target in restriction.denied),
        excepted=tuple(str(target) for target in restriction.excepted),
    )


REQUESTS = (Restrict,)
