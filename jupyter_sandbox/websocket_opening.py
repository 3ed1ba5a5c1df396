"""How a kernel's websocket begins: nothing that the kernel says from then on is missed.

Nor is what it said to the websocket that the same client had before.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

    from jupyter_sandbox.guards.kernel_messages import Judged

_WELCOME_S: Final = 0.02
"""How long a kernel may take to welcome a subscriber before it is asked as stock Jupyter asks. ipykernel may notice a
subscription only when something else happens, if it came while a message was sent."""
_CLOSED_S: Final = 1.0
_QUESTION: Final = "until-subscribed-"
"""So begin the ids of our questions to a busy kernel. It answers them on control, and says so on iopub."""
_QUESTIONS, _ANSWER_S = 10, 0.25
"""After so many the kernel is let alone: code that never lets Python's other threads run keeps it from answering."""


async def end_stale(handler: KernelWebsocketHandler) -> None:
    """End the websocket with which a client was here before, if it is open still and he may use the kernel.

    Nobody is there any more. Stock Jupyter bids it farewell and waits for 5 s; what the kernel says until then is lost.
    """
    key = f"{handler.kernel_id}:{handler.get_argument('session_id', None)}"
    stale = ZMQChannelsWebsocketConnection._open_sessions.get(key)  # noqa: SLF001
    ended: asyncio.Event | None = getattr(stale, "ended", None)
    if stale is None or ended is None:
        return
    if not await ensure_async(handler.authorizer.is_authorized(handler, handler.current_user, "execute", "kernels")):
        return
    if stale.ws_connection and stale.ws_connection.stream:
        stale.ws_connection.stream.close()
    try:
        async with asyncio.timeout(_CLOSED_S):
            await ended.wait()
    except TimeoutError:
        stale.log.warning("A websocket of kernel %s does not end", handler.kernel_id)


def on_farewell(websocket: Any, note: Callable[[], object]) -> None:
    """Have it noted when a client closes its websocket as one should: it has what came before, and wants nothing more.

    Tornado tells who listens for the end the same then as when the connection is lost. `websocket`: its own end of it.
    """
    close = websocket.close

    def noting(code: int | None = None, reason: str | None = None) -> None:
        if websocket.client_terminated and websocket.stream and not websocket.stream.closed():
            note()
        close(code, reason)

    websocket.close = noting


def until_subscribed(
    connection: ZMQChannelsWebsocketConnection,
    pass_on: Callable[[Any, list[bytes]], None],
    nudge: Callable[[], asyncio.Future[None]],
    *,
    welcomes: bool,
    is_open: Callable[[], bool],
) -> asyncio.Future[None]:
    """Return what is done once nothing can be missed on iopub. `welcomes`: whether the kernel greets who subscribes.

    Stock Jupyter asks the kernel for its info each 0.5 s until something comes there, and looks each 50 ms whether
    the kernel's state is known (`nudge`). A kernel that welcomes its subscribers is known to have us by that.
    """
    if connection.channels["iopub"].receiving():
        # a tab that came back never stopped to listen; a nudge would swallow what comes now
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listening.set_result(None)
        return listening
    return asyncio.ensure_future(_welcomed(connection, pass_on, nudge, is_open)) if welcomes else nudge()


def is_for_opening(judged: Judged) -> bool:
    """Whether a message is there for who opens a websocket, and nothing to any client."""
    return judged.msg_type == "iopub_welcome" or str(judged.parent.get("msg_id")).startswith(_QUESTION)


async def _welcomed(
    connection: ZMQChannelsWebsocketConnection,
    pass_on: Callable[[Any, list[bytes]], None],
    nudge: Callable[[], asyncio.Future[None]],
    is_open: Callable[[], bool],
) -> None:
    """Pass on what the kernel says at once; if that is nothing, have it say something.

    Stock Jupyter does not nudge a kernel that is busy, and takes it for subscribed. On a machine that is busy too what
    its next execution prints is lost then.
    """
    heard, iopub, kernel = asyncio.Event(), connection.channels["iopub"], connection.kernel_manager

    def hear(stream: Any, parts: list[bytes]) -> None:
        heard.set()
        pass_on(stream, parts)

    iopub.on_recv_stream(hear)
    patience_s = _WELCOME_S
    for _ in range(_QUESTIONS):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await heard.wait()
        if heard.is_set() or not is_open():
            return
        if kernel.execution_state != "busy":
            iopub.on_recv(None)
            await nudge()
            return
        header = connection.session.msg_header("kernel_info_request")
        header["msg_id"] = _QUESTION + header["msg_id"]
        connection.session.send(connection.channels["control"], "kernel_info_request", {}, header=header)
        patience_s = _ANSWER_S
