"""The life of a worker as one table. Pure; `docs/architecture.md` shows the same table, generated from here."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    WARM = "warm"
    CLAIMED = "claimed"
    DOOMED = "doomed"
    GONE = "gone"


TRANSITIONS: Final[dict[WorkerState, frozenset[WorkerState]]] = {
    WorkerState.STARTING: frozenset({WorkerState.WARM, WorkerState.DOOMED}),
    WorkerState.WARM: frozenset({WorkerState.CLAIMED, WorkerState.DOOMED}),
    WorkerState.CLAIMED: frozenset({WorkerState.DOOMED}),
    WorkerState.DOOMED: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset(),
}
"""A claimed worker never becomes warm again: one sandbox, one life."""


def advance(state: WorkerState, to: WorkerState) -> WorkerState:
    """Return `to`; raises ValueError when a worker in `state` may not become that."""
    if to not in TRANSITIONS[state]:
        raise ValueError(f"a {state} worker cannot become {to}")
    return to


def table() -> str:
    """Return the table as Markdown."""
    rows = ["| state | may become |", "|---|---|"]
    rows += [f"| {state} | {', '.join(sorted(TRANSITIONS[state])) or '-'} |" for state in WorkerState]
    return "\n".join(rows)
