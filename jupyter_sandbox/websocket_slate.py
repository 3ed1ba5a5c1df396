"""The executions of one websocket on the slate: written down when sent, wiped off when their end was passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_client.session import Session

from jupyter_sandbox import open_requests
from jupyter_sandbox.aftermath import Aftermath
from jupyter_sandbox.slate import Chalked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.open_requests import OpenRequests
    from jupyter_sandbox.slate import Slate


class WebsocketSlate:
    """See the module. A server without a slate writes nothing down."""

    def __init__(self, slate: Slate | None, context_id: str, session: str) -> None:
        """`session`: the id with which the client will come again."""
        self._slate, self._context_id, self._session = slate, context_id, session
        self._ended: list[str] = []

    def aftermath(self, session: Session, executions: OpenRequests) -> Aftermath | None:
        """Return what is to be told of what the server before this one had under way here; None if that was nothing.

        From then on it is under way again, as far as `executions` knows. `session` is the websocket's.
        """
        mine = [] if self._slate is None else self._mine(self._slate.left)
        left = {each.header["msg_id"]: dict(each.header) for each in mine if "msg_id" in each.header}
        for header in left.values():
            executions.sent_header(header)
        asking = Session(key=session.key)  # ids of messages are made of a session's, and the client has the same
        return Aftermath(left, [asking.msg("kernel_info_request") for _ in range(len(left) + 1)]) if left else None

    def sent(self, header: Any) -> None:
        """Write down an execute request, by its header, whatever that is."""
        if self._slate is None or not isinstance(header, dict) or header.get("msg_type") != "execute_request":
            return
        if plain := open_requests.plain(header):
            self._slate.write(
                Chalked(id=self._id(plain["msg_id"]), context_id=self._context_id, session=self._session, header=plain)
            )

    def ended(self, msg_id: str) -> None:
        """The end of an execution is about to be passed on."""
        if self._slate is not None and self._slate.has(self._id(msg_id)):
            self._ended.append(self._id(msg_id))

    def all_ended(self) -> None:
        """The kernel is gone, and the client is about to be told."""
        if self._slate is not None:
            self._ended += [each.id for each in self._mine(self._slate.under_way())]

    def take_ended(self) -> list[str]:
        """Return which ends go with the message that is passed on now."""
        ended, self._ended = self._ended, []
        return ended

    def passed_on(self, ended: Iterable[str]) -> None:
        """The message with which these went has left this process."""
        if self._slate is not None:
            for each in ended:
                self._slate.wipe(each)

    def _id(self, msg_id: str) -> str:
        """Return how an execution is called on the slate: clients make up the ids of their requests."""
        return f"{self._context_id} {msg_id}"

    def _mine(self, those: Iterable[Chalked]) -> list[Chalked]:
        """Return which of `those` are of this client and still on the slate."""
        here, slate = (self._context_id, self._session), self._slate
        return [each for each in those if slate and (each.context_id, each.session) == here and slate.has(each.id)]
