"""What E2B's SDKs say of a sandbox's network, as a restriction, and the way back. Pure.

Here a template opens the network, so nothing that is asked for gives more. What cannot be obeyed is refused.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import restrictions
from jupyter_sandbox.errors import InvalidRequestError, NotSupportedError
from jupyter_sandbox.guards import shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_sandbox.specs import Restriction

_TARGETS: Final = shapes.Items(
    shape=shapes.Text(min_length=1, max_length=253), min_items=0, max_items=restrictions.MAX_TARGETS
)
_FLAG: Final = shapes.Nullable(shapes.Flag())
_EVERYTHING: Final = IPv4Network("0.0.0.0/0")
"""`ALL_TRAFFIC` of the SDKs; where it is denied, that is not meant to leave IPv6 open."""
_ADDRESS: Final = re.compile(r"[0-9.]+(/[0-9.]*)?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:./]*")
"""Whatever looks like an address or a range, good or not; other words are names."""
_KNOWN: Final = frozenset({"allowOut", "denyOut", "allowPublicTraffic"})


def judge(network: object, internet: object) -> Restriction:
    """Return what is meant by a table, None if there is none, and by `allow_internet_access`.

    Raises InvalidRequestError; NotSupportedError for names of hosts and whatever else needs somebody between.
    """
    if network is None:
        network = {}
    if not isinstance(network, dict):
        raise InvalidRequestError("network must be an object")
    _FLAG.judge(network.get("allowPublicTraffic"), "allowPublicTraffic")  # nobody comes in, whatever it says
    denied, excepted = _targets(network, "denyOut"), _targets(network, "allowOut")
    others = sorted(
        name[:40] for name, value in network.items() if name not in _KNOWN and value not in (None, [], {}, "")
    )
    if others:
        raise NotSupportedError(f"{', '.join(others[:3])!a} of a network is not supported here; see docs/e2b.md")
    judged = restrictions.judge(denied, excepted)
    if _FLAG.judge(internet, "allow_internet_access") is False or _EVERYTHING in judged.denied:
        return restrictions.judge(restrictions.EVERYWHERE, excepted)
    return judged


def shown(restriction: Restriction) -> dict[str, Any]:
    """Return how a sandbox tells of it; nothing, when it reaches all that its template opens."""
    lists = {
        "allowOut": [restrictions.words(target) for target in restriction.excepted],
        "denyOut": [restrictions.words(target) for target in restriction.denied],
    }
    if not any(lists.values()):
        return {"allowInternetAccess": None}
    return {"allowInternetAccess": False if restrictions.is_closed(restriction) else None, "network": lists}


def _targets(network: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = network.get(name)
    targets: tuple[str, ...] = _TARGETS.judge([] if given is None else given, name)
    if not all(_ADDRESS.fullmatch(target) for target in targets):
        raise NotSupportedError(f"{name} can hold addresses and ranges only: names of hosts are not supported here")
    return targets
