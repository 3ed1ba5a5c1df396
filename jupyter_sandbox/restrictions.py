"""What one sandbox may not reach of what its template opens: judged, and written for people. Pure."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import ConflictError, InvalidRequestError
from jupyter_sandbox.guards import networks
from jupyter_sandbox.specs import Restriction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_sandbox.specs import Policy, Target

MAX_TARGETS: Final = 64
EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


def judge(denied: Sequence[str], excepted: Sequence[str]) -> Restriction:
    """Return the restriction that is meant; raises InvalidRequestError.

    Ranges that overlap or touch are put together, as nftables needs it, so there may be fewer then.
    """
    return Restriction(denied=_targets(denied), excepted=_targets(excepted))


def within(policy: Policy, restriction: Restriction, template: str) -> None:
    """Raise ConflictError for a target that is excepted though `policy`, of that template, opens nothing of it."""
    for target in restriction.excepted:
        if not any(_overlap(target, rule.to) for rule in policy.egress):
            raise ConflictError(f"template {template} opens nothing of {words(target)}, and no sandbox gets more")


def is_closed(restriction: Restriction) -> bool:
    """Whether nothing at all can be reached with it."""
    return not restriction.excepted and tuple(str(target) for target in restriction.denied) == EVERYWHERE


def words(target: Target) -> str:
    """Return a target as people write it: one address without the length of a prefix."""
    return str(target.network_address) if target.num_addresses == 1 else str(target)


def _targets(values: Sequence[str]) -> tuple[Target, ...]:
    if len(values) > MAX_TARGETS:
        raise InvalidRequestError(f"at most {MAX_TARGETS} targets can be denied, and as many excepted")
    judged = [networks.target(value) for value in values]
    fours = [network for network in judged if isinstance(network, IPv4Network)]
    sixes = [network for network in judged if isinstance(network, IPv6Network)]
    return (*ipaddress.collapse_addresses(fours), *ipaddress.collapse_addresses(sixes))


def _overlap(one: Target, other: Target) -> bool:
    return one.version == other.version and one.overlaps(other)
