"""Which sandboxes E2B's SDKs want to see, in which order, and from where on. Pure.

A filter that were passed over would show what nobody asked for, so what is not known is refused.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from jupyter_sandbox import sandbox
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.events import Origin
from jupyter_sandbox.guards import shapes
from jupyter_sandbox.sandbox import Filter, SandboxState
from jupyter_sandbox.surfaces.e2b import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jupyter_sandbox.sandbox import SandboxView

_ONCE: Final = frozenset({"order", "startedAfter", "template", "limit", "nextToken"})
_KNOWN: Final = _ONCE | {"state", "metadata"}
_STATES: Final = {"running": SandboxState.READY, "paused": SandboxState.PAUSED}
_ORDER: Final = shapes.Choice(("asc", "desc"))
_LIMIT: Final = shapes.Whole(minimum=1, maximum=1000)
_USUAL_LIMIT: Final = 100
_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_MOST_METADATA: Final = 64
_LONGEST_MOMENT: Final = 40
_TOKEN: Final = re.compile(r"(?P<moment>[0-9]{1,16})-(?P<sandbox>[0-9a-f]{20})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One page that is wanted: `after` is where the one before ended."""

    wanted: Filter
    limit: int
    after: tuple[datetime, str] | None
    is_newest_first: bool

    def of(self, views: Iterable[SandboxView]) -> tuple[list[SandboxView], str]:
        """Return the page, and the word for the next one, empty when there is none."""
        found, has_more = sandbox.page(
            views,
            self.wanted,
            self.limit,
            place=sandbox.by_time,
            after=self.after,
            is_backward=self.is_newest_first,
        )
        return found, token(found[-1]) if has_more else ""


def judge(query: Mapping[str, Sequence[str]], template_of: Callable[[str], str]) -> Listing:
    """Return what is meant by a query; `template_of` knows ours by the client's name. Raises InvalidRequestError."""
    if unknown := heapq.nsmallest(3, (name[:40] for name in query if name not in _KNOWN)):
        raise InvalidRequestError(f"{', '.join(unknown)!a} is no filter here; see docs/e2b.md")
    said = {name: values for name, values in query.items() if any(values)}
    for name in _ONCE & said.keys():
        if len(said[name]) > 1:
            raise InvalidRequestError(f"{name} may be said once")
    once = {name: said[name][0] for name in _ONCE & said.keys()}
    limit = once.get("limit", str(_USUAL_LIMIT))
    return Listing(
        wanted=Filter(
            states=_states(said.get("state", ())),
            template=template_of(once["template"]) if "template" in once else None,
            metadata=_metadata(said.get("metadata", ())),
            origin=Origin.CLAIM,  # those of notebooks have no time limit, which SDKs cannot show
            made_from=_moment(once["startedAfter"]) if "startedAfter" in once else None,
        ),
        limit=_LIMIT.judge(int(limit) if _DIGITS.fullmatch(limit) else limit, "limit"),
        after=_after(once["nextToken"]) if "nextToken" in once else None,
        is_newest_first=_ORDER.judge(once.get("order", "desc"), "order") == "desc",
    )


def token(view: SandboxView) -> str:
    """Return the word for the page behind a sandbox."""
    return f"{(view.created_at - _EPOCH) // _UNIT}-{words.sandbox_id(view.id)}"


def _after(text: str) -> tuple[datetime, str]:
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise InvalidRequestError("nextToken is none that was given out here")
    return _EPOCH + int(found["moment"]) * _UNIT, words.our_id(found["sandbox"])


def _states(values: Sequence[str]) -> frozenset[str]:
    named = {name for value in values for name in value.split(",")}
    if not named <= _STATES.keys():
        raise InvalidRequestError(f"state can be {' or '.join(_STATES)}")
    return frozenset(_STATES[name] for name in named or _STATES)


def _metadata(values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs, each of whose names and values is quoted once more, inside."""
    try:
        pairs = parse_qsl("&".join(values), keep_blank_values=True, max_num_fields=_MOST_METADATA)
    except ValueError:
        raise InvalidRequestError(f"metadata may name {_MOST_METADATA} pairs") from None
    return tuple((unquote(name), unquote(value)) for name, value in pairs)


def _moment(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text) if len(text) <= _LONGEST_MOMENT else None
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise InvalidRequestError("startedAfter must be a moment in ISO 8601, with its time zone")
    return when
