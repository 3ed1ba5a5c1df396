"""What the client of a websocket is told of executions that were under way when the server before ended. No I/O.

Their kernel went on, and whoever reconnects gets what it says from now on. What it said in between is lost, and the
client is told so below the cell, once, before anything else that the kernel says of it. An execution whose reply was
lost, too, ends with words of ours when the kernel has answered a question that was asked after it. Some kernels take
turns between the connection that is gone and this one: there is a question for each execution, and one more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jupyter_sandbox.guards.kernel_messages import Channel, Judged
    from jupyter_sandbox.open_requests import Header

GAP: Final = "The server was started anew while this ran: what it wrote meanwhile is not shown."
UNKNOWN: Final = "The server was started anew before this ended: whether it ran, and how it ended, is not known."


class Aftermath:
    """Of one websocket."""

    def __init__(self, headers: Mapping[str, Header], questions: Sequence[dict[str, Any]]) -> None:
        """`headers`: those of the requests, by their ids. `questions`: the messages that will be sent on shell."""
        self._open = dict(headers)
        self._unheard = dict(headers)
        self._is_answered = self._is_heard_out = False
        self.questions = questions
        self._ids = {each["msg_id"] for each in questions}

    def is_answer(self, channel: Channel, judged: Judged) -> bool:
        """Whether a message answers a question of ours, and so is nothing for the client."""
        return channel in {"shell", "iopub"} and judged.parent.get("msg_id") in self._ids

    def gap_before(self, channel: Channel, judged: Judged) -> Header | None:
        """Return the request below which a gap is to be told before this message is passed on, if there is one."""
        msg_id = str(judged.parent.get("msg_id"))
        if channel != "iopub" or msg_id not in self._unheard:
            return None
        header = self._unheard.pop(msg_id)
        begins_now = judged.msg_type == "status" and judged.content["execution_state"] == "busy"
        return None if begins_now else header

    def is_last_reply(self, channel: Channel, judged: Judged) -> bool:
        """Note an answer to a question; whether it is the last's reply, which comes behind those of all requests."""
        if judged.parent["msg_id"] != self.questions[-1]["msg_id"]:
            return False
        if channel == "iopub":
            self._is_heard_out |= judged.content.get("execution_state") == "idle"
            return False
        was_answered, self._is_answered = self._is_answered, True
        return not was_answered

    def is_over(self) -> bool:
        """Whether nothing more comes of these requests: replies may overtake what was said on iopub before them."""
        return self._is_answered and (self._is_heard_out or not self.unheard())

    def answered(self, msg_id: str) -> None:
        """The client has the reply of an execution. Quiet when it is none of these."""
        self._open.pop(msg_id, None)

    def unheard(self) -> list[Header]:
        """Return the requests that were answered and of which nothing else has come."""
        return [header for msg_id, header in self._unheard.items() if msg_id not in self._open]

    def unanswered(self) -> list[Header]:
        """Return the requests whose reply was lost: our last question was answered."""
        return list(self._open.values())
