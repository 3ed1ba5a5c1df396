"""Executions over REST on the server's slate, and what is said of those that the server before this one had there.

A detached execution stays on it until it is forgotten, since its client comes for it later; of the others is written
down what was sent to a kernel, so that code whose client has gone with its server is interrupted.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.execution import Execution, NewExecution
from jupyter_sandbox.execution_fold import Outcome
from jupyter_sandbox.guards import ids
from jupyter_sandbox.owners import Owner
from jupyter_sandbox.slate import Chalked

if TYPE_CHECKING:
    from collections.abc import Container

    from jupyter_sandbox.slate import Slate

_WAITED: Final = "The server was started anew before its turn came: the code was not run."
_RAN: Final = "The server was started anew while it ran: whether it ended, and how, is not known."
_LOST: Final = "The server was started anew: its result was lost."
_MAX_OWNER: Final = 400
_KEPT_BYTES: Final = 1 << 20


class ExecutionSlate:
    """See the module. A server without a slate writes nothing down."""

    def __init__(self, slate: Slate | None = None) -> None:
        """Use the slate of the server."""
        self._slate = slate

    def accepted(self, execution: Execution) -> None:
        """Write down a detached execution, which may have to wait for its turn."""
        if execution.is_detached:
            self._write(execution, began=False)

    def sent(self, execution: Execution) -> None:
        """Write down what is about to be sent to its kernel."""
        self._write(execution, began=True)

    def ended(self, execution: Execution) -> None:
        """Wipe off what is over, unless somebody will come for it."""
        if self._slate is None:
            return
        if execution.is_detached:
            self._write(execution, began=True, ended=True)
        else:
            self._slate.wipe(execution.id)

    def forget_all_but(self, known: Container[str]) -> None:
        """Wipe off detached executions that nobody can come for any more."""
        if self._slate is not None:
            for each in self._slate.under_way():
                if each.detached and each.id not in known:
                    self._slate.wipe(each.id)

    def left(self) -> list[Chalked]:
        """Return what the server before this one had, over REST; what nobody will come for is wiped off."""
        if self._slate is None:
            return []
        found = [each for each in self._slate.left if each.sandbox_id and 0 < len(each.owner) <= _MAX_OWNER]
        for each in found:
            if not each.detached:
                self._slate.wipe(each.id)
        return found

    def told(self, chalked: Chalked) -> None:
        """Write down that the end of one of those was told."""
        if self._slate is not None:
            self._slate.write(replace(chalked, told=True))

    def _write(self, execution: Execution, *, began: bool, ended: bool = False) -> None:
        if self._slate is None:
            return
        self._slate.write(
            Chalked(
                id=execution.id,
                context_id=execution.context_id,
                owner=execution.owner,
                sandbox_id=execution.sandbox_id,
                detached=execution.is_detached,
                accepted_at=execution.accepted_at.isoformat(),
                timeout_s=execution.wanted.timeout_s,
                began=began,
                ended=ended,
            )
        )


def past(chalked: Chalked) -> Execution | None:
    """Return an execution of the server before this one as far as it is known now; None if it cannot have been one."""
    try:
        accepted_at = datetime.fromisoformat(chalked.accepted_at).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if not ids.is_execution_id(chalked.id):
        return None
    wanted = NewExecution(code="", timeout_s=chalked.timeout_s, max_output_bytes=_KEPT_BYTES, detached=True)
    deadline = asyncio.get_running_loop().time() + chalked.timeout_s  # how long it waited is told as nothing
    execution = Execution(Owner(chalked.owner), chalked.sandbox_id, chalked.context_id, wanted, deadline)
    execution.id, execution.accepted_at = chalked.id, accepted_at
    if chalked.began or chalked.ended:
        execution.end(Outcome.UNKNOWN, _LOST if chalked.ended else _RAN)
    else:
        execution.end(Outcome.INTERRUPTED, _WAITED)
    return execution
