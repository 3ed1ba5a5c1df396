"""Tells of the executions that one websocket asks a sandbox kernel for: what code was sent, how it ended, what came.

It believes the kernel no more than a client does: an execution ends once, and at most so many are open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.events import Code, ExecutionEnd, ExecutionEnded, ExecutionStarted, Means
from jupyter_sandbox.guards import ids
from jupyter_sandbox.guards.kernel_messages import MAX_FIELD

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.guards.kernel_messages import Channel, Judged
    from jupyter_sandbox.owners import Owner

_MAX_OPEN: Final = 128
_MAX_ID: Final = 400
_CONTENT: Final = 3
"""Where a message's content begins among its frames; buffers follow."""
_OUTPUTS: Final = frozenset({"stream", "display_data", "execute_result", "error", "update_display_data"})
_ENDS: Final = {"ok": ExecutionEnd.OK, "error": ExecutionEnd.ERROR, "aborted": ExecutionEnd.ABORTED}


@dataclass
class _Open:
    """One that is not over. `began`: when its kernel said that it is busy with it."""

    id: str
    sandbox_id: str
    sent: float
    began: float | None = None
    end: ExecutionEnd | None = None
    is_idle: bool = False
    output_bytes: int = 0
    refused: int = 0


@dataclass(kw_only=True)
class WebsocketExecutions:
    """See the module. Its executions are known by the ids of their requests."""

    emit: Emit
    owner: Owner
    request_id: str
    """Of the websocket's own request."""
    sandbox_id: Callable[[], str | None]
    """The sandbox that the kernel lives in; a kernel whose sandbox was lost gets another one."""
    context_id: str
    _open: dict[str, _Open] = field(default_factory=dict)

    def sent(self, msg_id: str, code: object) -> None:
        """A client asked for an execution; `code` is whatever it sent."""
        msg_id = msg_id[:MAX_FIELD]  # no answer has a longer one
        self.ended(msg_id, ExecutionEnd.UNWATCHED)
        sandbox_id = self.sandbox_id()
        if sandbox_id is None:
            return  # there is no kernel to take it
        execution = self._open[msg_id] = _Open(ids.new_execution_id(), sandbox_id, time.monotonic())
        measured = Code.of(code if isinstance(code, str) else "")
        self.emit(
            ExecutionStarted(**self._about(execution), code_characters=measured.characters, code_sha256=measured.sha256)
        )
        while len(self._open) > _MAX_OPEN:
            self.ended(next(iter(self._open)), ExecutionEnd.UNWATCHED)

    def received(self, channel: Channel, judged: Judged) -> None:
        """The kernel said something that goes to the client."""
        msg_id = str(judged.parent.get("msg_id"))
        execution = self._open.get(msg_id)
        if execution is None:
            return
        if judged.msg_type in _OUTPUTS:
            execution.output_bytes += sum(map(len, judged.body[_CONTENT:]))
        elif judged.msg_type == "execute_reply" and channel == "shell":
            execution.end = execution.end or _ENDS.get(str(judged.content.get("status")), ExecutionEnd.ERROR)
        elif judged.msg_type == "status":
            execution.began = execution.began or time.monotonic()
            execution.is_idle = execution.is_idle or judged.content["execution_state"] == "idle"
        if execution.end and execution.is_idle:
            self.ended(msg_id, execution.end)

    def refused(self, msg_id: str) -> None:
        """A message in answer to it was refused."""
        if execution := self._open.get(msg_id):
            execution.refused += 1

    def ended(self, msg_id: str, how: ExecutionEnd) -> None:
        """It is over. Quiet when it was before."""
        execution = self._open.pop(msg_id, None)
        if execution is None:
            return
        now = time.monotonic()
        self.emit(
            ExecutionEnded(
                **self._about(execution),
                outcome=how,
                waited_s=(execution.began or now) - execution.sent,
                duration_s=None if execution.began is None else now - execution.began,
                output_bytes=execution.output_bytes,
                omitted_outputs=0,
                omitted_bytes=0,
                refused_messages=execution.refused,
            )
        )

    def all_ended(self, how: ExecutionEnd) -> None:
        """No more is heard of those that are open."""
        for msg_id in list(self._open):
            self.ended(msg_id, how)

    def _about(self, execution: _Open) -> dict[str, Any]:
        return {
            "owner": self.owner,
            "request_id": self.request_id,
            "sandbox_id": execution.sandbox_id,
            "context_id": self.context_id[:_MAX_ID],
            "execution_id": execution.id,
            "means": Means.WEBSOCKET,
        }
