"""The kernel websocket of our server: the stock one, without its stall, with bounds and with words for the person.

Stock Jupyter leaves Nagle's algorithm on, which costs every execution 40 ms. When a kernel dies it says nothing in the
notebook; we write why, below the cell that was running. Output that is refused or that nobody reads is neither kept
without end nor dropped without a word, and an execution whose end was refused gets one from us.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.jsonutil import json_default
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from tornado.websocket import WebSocketClosedError

from jupyter_sandbox import (
    aftermath,
    events,
    kernel_pauses,
    notices,
    offline,
    open_requests,
    owners,
    request_ids,
    websocket_opening,
    websocket_words,
    wire_formats,
)
from jupyter_sandbox.events import ExecutionEnd
from jupyter_sandbox.guards import client_messages, kernel_messages
from jupyter_sandbox.open_requests import Header, OpenRequests
from jupyter_sandbox.outlets import Outlet, OutputLimits
from jupyter_sandbox.provisioner import SandboxProvisioner
from jupyter_sandbox.receipts import Receipts
from jupyter_sandbox.websocket_executions import WebsocketExecutions
from jupyter_sandbox.websocket_slate import WebsocketSlate

if TYPE_CHECKING:
    from jupyter_client.session import Session

    from jupyter_sandbox.guards.kernel_messages import Channel, Judged
    from jupyter_sandbox.kernel_streams import Refusal

_END_WITHIN_S: Final = 5.0
"""An execution ends with a reply on shell and idle on iopub. When one came and the other channel has been silent for so
long, the other is not waited for any more, whatever the kernel does."""
_RECEIPT_S: Final = 0.05
"""How long after a message its receipt is asked for: with those that came meanwhile, so that a flood costs no more."""
_TOO_SLOW: Final = 1008


class SandboxKernelWebsocketHandler(KernelWebsocketHandler):
    """Shadows jupyter_server's handler for every kernel, native ones included: of these it judges what clients send."""

    _limits = OutputLimits()
    _executions: OpenRequests | None = None  # of a sandbox kernel only
    _told: WebsocketExecutions
    _outlet: Outlet
    _receipts: Receipts
    _left: Session | None = None  # what the client will come back with, when the websocket is closed
    ended: asyncio.Event  # when it is
    _stall: asyncio.TimerHandle | None = None
    _slate: WebsocketSlate
    _aftermath: aftermath.Aftermath | None = None
    _is_stock = False  # whether the connection is jupyter_server's own, so that we know what it does

    def initialize(self, limits: OutputLimits | None = None) -> None:
        """`limits`: what is held of a sandbox kernel's output."""
        self._limits = limits or self._limits

    async def pre_get(self) -> None:
        """Begin as usual; a kernel that is paused is refused at once, where stock Jupyter waits for it for a minute."""
        await kernel_pauses.refuse_websocket(self)
        await websocket_opening.end_stale(self)
        await super().pre_get()

    async def open(self, kernel_id: str) -> None:
        """Begin as usual; for a sandbox kernel, be told of its death before the stock handler is."""
        self.set_nodelay(True)
        provisioner = self._provisioner()
        if not isinstance(provisioner, SandboxProvisioner):
            await super().open(kernel_id)
            return
        self._manager = self.kernel_manager.get_kernel(kernel_id)
        self._told = WebsocketExecutions(
            emit=getattr(self._manager, "sandbox_emit", events.ignore),
            owner=owners.of(self),
            request_id=request_ids.of(self.request),
            sandbox_id=lambda: provisioner.sandbox_id,
            context_id=kernel_id,
        )
        self._executions, self._outlet = OpenRequests(), Outlet(self._limits.max_unsent_bytes)
        self._receipts, self.ended = Receipts(), asyncio.Event()
        websocket_opening.on_farewell(self.ws_connection, self._receipts.take)
        slate = getattr(self._manager, "sandbox_slate", None)
        self._slate = WebsocketSlate(slate, kernel_id, self.get_argument("session_id", ""))
        self._aftermath = self._slate.aftermath(self.connection.session, self._executions)
        self._heard_at: dict[str, float] = {}
        notices.listen(self._manager, self._notice)
        for event in ("restart", "dead"):
            self.kernel_manager.add_restart_callback(kernel_id, self._tell_why, event)
        self._is_stock = type(self.connection) is ZMQChannelsWebsocketConnection
        self._pass_on = self.connection.handle_outgoing_message
        self.connection.handle_outgoing_message = self._outgoing
        if self._is_stock:
            self._nudge, self.connection.nudge = self.connection.nudge, self._until_subscribed
        await super().open(kernel_id)
        for stream in self._streams():
            stream.on_refusal(self._refused)
        for question in self._aftermath.questions if self._aftermath and self.connection else ():
            self.connection.session.send(self.connection.channels["shell"], question)

    def on_close(self) -> None:
        """End as usual; what comes until the tab is opened again is kept within bounds."""
        connection, streams = self.connection, self._streams()
        if self._executions and self.kernel_id in self.kernel_manager:
            for event in ("restart", "dead"):
                self.kernel_manager.remove_restart_callback(self.kernel_id, self._tell_why, event)
        if self._executions:
            notices.leave(self._manager, self._notice)
        if self._stall:
            self._stall.cancel()
        super().on_close()
        if self._executions:
            self._told.all_ended(ExecutionEnd.UNWATCHED)
            limit = self._limits.max_offline_bytes
            offline.bound(self.kernel_manager, self.kernel_id, connection.session, streams, limit, self._receipts)
            self._left = connection.session
            self.ended.set()

    def on_message(self, ws_message: str | bytes) -> None:
        """Pass a message to the kernel."""
        is_v1 = bool(self.connection and self.connection.subprotocol)
        if not client_messages.is_sound(ws_message, is_v1=is_v1):
            self.close(1007, "no message of Jupyter's protocol")
            return
        if self._executions is None:
            super().on_message(ws_message)
            return
        notices.note_use(self._manager)
        paused = kernel_pauses.find(self._manager)
        is_plain = self._is_stock and not paused and isinstance(ws_message, str)
        if is_plain and self._send_text(self._executions, ws_message):
            return
        read = open_requests.text_of(ws_message) if isinstance(ws_message, bytes) and not is_v1 else ws_message
        self._slate.sent(self._executions.sent(read))
        asked = open_requests.asked(read)
        if paused and asked:  # anything else waits until the kernel goes on
            words, header = f"The {paused}; code can run when it is resumed.", self._executions.header(asked[0]) or {}
            self._say(words, header)
            self._end(header, websocket_words.error(words))
            return
        super().on_message(ws_message)
        if asked:
            self._told.sent(*asked)

    def _send_text(self, executions: OpenRequests, text: str | bytes) -> bool:
        """Pass on a message in the text format, read once for all; whether it was one for us to pass on."""
        connection, message = self.connection, json.loads(text)
        stream = connection.channels.get(message.pop("channel", "shell"))
        if stream is None or connection.multi_kernel_manager.allowed_message_types:
            return False
        header, content = message.get("header"), message.get("content")
        executions.sent_header(header)
        self._slate.sent(header)
        connection.session.send(stream, message)
        if isinstance(header, dict) and header.get("msg_type") == "execute_request":
            self._told.sent(str(header.get("msg_id")), content.get("code") if isinstance(content, dict) else None)
        return True

    def on_pong(self, data: bytes) -> None:
        """What came before the ping is there."""
        super().on_pong(data)
        if self._executions:
            self._receipts.pong(data)

    def write_message(self, message: Any, binary: bool = False) -> asyncio.Future[None]:
        """Pass a message to the client; when too much waits for it, stop to read from the kernel."""
        written: asyncio.Future[None] = super().write_message(message, binary)
        if self._executions:
            size, ended = len(message), self._slate.take_ended()
            if self._outlet.put(size):
                for stream in self._streams():
                    stream.pause()
                self._watch_for_progress()
            written.add_done_callback(lambda done: self._written(done, size, ended))
        return written

    def _until_subscribed(self) -> asyncio.Future[None]:
        """Return what is done once nothing can be missed on iopub."""
        provisioner = self._provisioner()
        welcomes = isinstance(provisioner, SandboxProvisioner) and provisioner.welcomes
        return websocket_opening.until_subscribed(
            self.connection, self._outgoing, self._nudge, welcomes=welcomes, is_open=lambda: bool(self.connection)
        )

    # -- what came from the kernel

    def _outgoing(self, stream: Any, parts: list[bytes]) -> None:
        """A judged message, or one that was kept while no client was there."""
        if self._left:
            offline.keep(self.kernel_manager, self.kernel_id, self._left, (stream.channel, parts))
            return
        judged: Judged | None = getattr(stream, "judged", None)
        if judged is None and self.connection:
            judged = offline.judged(self.connection.session, stream.channel, parts, self._limits.max_message_bytes)
        if judged and websocket_opening.is_for_opening(judged):
            return  # said to all when somebody comes; stock Jupyter keeps it from clients, too
        if judged:
            if self._aftermath and self._is_of_aftermath(self._aftermath, stream.channel, judged):
                return
            self._note(stream.channel, judged)
            self._expect_receipt(stream.channel, judged.msg_type, judged.parent, parts)
        try:
            if not (judged and self._is_stock and self._pass_on_judged(stream, judged)):
                self._pass_on(stream, parts)
        except WebSocketClosedError:
            self.log.debug("A message came for a websocket that was just closed")

    def _pass_on_judged(self, stream: Any, judged: Judged) -> bool:
        """Do what `handle_outgoing_message` does, without reading what was read; whether that can be done."""
        connection, channel = self.connection, stream.channel
        if connection is None or (judged.msg_type == "error" and not connection.multi_kernel_manager.allow_tracebacks):
            return False
        is_binary = bool(connection.subprotocol)
        frame = wire_formats.as_binary(channel, judged) if is_binary else wire_formats.as_text(channel, judged)
        if frame is None or stream.closed():
            return False
        session = connection.session
        if not is_binary and session.auth is not None:
            if judged.signature in session.digest_history:
                raise ValueError("a message came twice")
            session._add_digest(judged.signature)  # noqa: SLF001 - as Session.deserialize does
        read = {"header": judged.header, "parent_header": judged.parent, "content": judged.content}
        if channel != "iopub" or not connection._limit_rate(channel, read, judged.body):  # noqa: SLF001
            self.write_message(frame, binary=is_binary)
        return True

    def _note(self, channel: Any, judged: Judged) -> None:
        executions = self._executions
        if judged.msg_type == "shutdown_reply":
            self._slate.all_ended()
        self._heard_at[channel] = asyncio.get_running_loop().time()
        self._told.received(channel, judged)
        if executions is None or judged.msg_type not in {"status", "execute_reply"}:
            return
        msg_id = str(judged.parent.get("msg_id"))
        header = executions.header(msg_id)
        if header and judged.content.get("execution_state") == "idle":
            count, size = executions.refused_in_all(msg_id)
            if count > 1:
                self._say(f"In all, {count} messages with {size:,} bytes were not shown.", header)
        is_kept_reply = header is None and judged.msg_type == "execute_reply"
        if executions.received(channel, judged) or is_kept_reply:
            self._slate.ended(msg_id)
        if executions.is_half_over(msg_id):
            asyncio.get_running_loop().call_later(_END_WITHIN_S, self._expect_end, msg_id)

    def _expect_end(self, msg_id: str) -> None:
        """One half of an execution's end came: the other one is ours when nothing more comes."""
        channel = self._executions.lacks(msg_id) if self._executions else None
        if channel is None or self._executions is None or not self.connection:
            return
        loop = asyncio.get_running_loop()
        if self._outlet.is_full or loop.time() - self._heard_at.get(channel, 0) < _END_WITHIN_S:
            loop.call_later(_END_WITHIN_S, self._expect_end, msg_id)
            return
        header = self._executions.header(msg_id) or {}
        self._executions.end(msg_id)
        self._told.ended(msg_id, ExecutionEnd.ERROR)
        self._slate.ended(msg_id)
        if channel == "iopub":
            self._write("iopub", "status", {"execution_state": "idle"}, header)
        else:
            self._say(websocket_words.NO_ANSWER, header)
            self._write("shell", "execute_reply", websocket_words.error(websocket_words.NO_ANSWER), header)

    def _refused(self, refusal: Refusal) -> None:
        """The client will not get a message: say so below its cell, and end what waits for that message."""
        if self._executions is None or not self.connection:
            return
        answered = (refusal.parent or {}).get("msg_id")
        is_harmless = refusal.channel != "shell" or not self._executions.is_running(answered)
        if refusal.reason == kernel_messages.Reason.UNKNOWN_TYPE and is_harmless:
            return
        words = websocket_words.of_refusal(refusal, self._limits.max_message_bytes)
        header, is_first = self._executions.refused(refusal.channel, refusal.parent, refusal.size_bytes)
        self._told.refused(str(header.get("msg_id")))
        if is_first:
            self._say(words, header)
        if refusal.channel == "shell" and header and answered in {None, header["msg_id"]}:
            self._end(header, websocket_words.error(words))
        elif refusal.channel in {"shell", "control"} and refusal.parent and (refusal.msg_type or "").endswith("_reply"):
            self._write(refusal.channel, str(refusal.msg_type), websocket_words.error(words), refusal.parent)

    def _is_of_aftermath(self, after: aftermath.Aftermath, channel: Channel, judged: Judged) -> bool:
        """Tell the client what was lost before this message; whether that was all it is for."""
        if (header := after.gap_before(channel, judged)) is not None:
            self._say(aftermath.GAP, header)
        is_answer = after.is_answer(channel, judged)
        if judged.msg_type == "execute_reply":
            after.answered(str(judged.parent.get("msg_id")))
        elif is_answer and after.is_last_reply(channel, judged):
            for header in after.unanswered():
                self._say(aftermath.UNKNOWN, header)
                self._end(header, websocket_words.error(aftermath.UNKNOWN, "UnknownOutcome"))
        if is_answer and after.is_over():
            self._aftermath = None
            for header in after.unheard():
                self._say(aftermath.GAP, header)
        return is_answer

    def _end(self, header: Header, reply: dict[str, Any]) -> None:
        """End an execution with words of ours."""
        msg_id = str(header.get("msg_id"))
        if self._executions:
            self._executions.end(msg_id)
        self._told.ended(msg_id, ExecutionEnd.ERROR)
        self._slate.ended(msg_id)
        self._write("shell", "execute_reply", reply, header)
        self._write("iopub", "status", {"execution_state": "idle"}, header)

    # -- what goes to the client

    def _notice(self, words: str) -> None:
        """Say something of the whole kernel, below the cell that was run last."""
        if self._executions and self.connection:
            self._say(words, self._executions.last)

    def _say(self, words: str, header: Header) -> None:
        self._write("iopub", "stream", {"name": "stderr", "text": words + "\n"}, header)

    def _write(self, channel: str, msg_type: str, content: dict[str, Any], parent: Header) -> None:
        """Send a message of our own in the kernel's name."""
        session = self.connection.session
        message = session.msg(msg_type, content, parent=open_requests.plain(parent))
        self._expect_receipt(channel, msg_type, parent, session.serialize(message, ident=b""))
        try:
            if self.connection.subprotocol:  # there is one, and the format without a name
                self.write_message(serialize_msg_to_ws_v1(message, channel, session.pack), binary=True)
            else:
                self.write_message(json.dumps(message | {"channel": channel, "buffers": []}, default=json_default))
        except WebSocketClosedError:
            self.log.debug("The websocket was closed before its client could be told something")

    def _expect_receipt(self, channel: Any, msg_type: str, parent: Header, parts: list[bytes]) -> None:
        if self._receipts.passed_on(channel, msg_type, parent, parts):
            asyncio.get_running_loop().call_later(_RECEIPT_S, self._ask_for_receipt)

    def _ask_for_receipt(self) -> None:
        if not self._left:
            with suppress(WebSocketClosedError):
                self.ping(self._receipts.ping())

    def _written(self, done: asyncio.Future[None], size_bytes: int, ended: list[str]) -> None:
        if not done.cancelled() and done.exception() is None:  # a closed websocket is told by on_close
            self._slate.passed_on(ended)
        if self._outlet.took(size_bytes):
            if self._stall:
                self._stall.cancel()
            for stream in self._streams():
                stream.resume()

    def _watch_for_progress(self) -> None:
        loop, slow_s = asyncio.get_running_loop(), self._limits.slow_reader_s
        self._stall = loop.call_later(slow_s, self._end_if_stalled, self._outlet.taken)

    def _end_if_stalled(self, taken: int) -> None:
        if not self._outlet.is_full:
            return
        if self._outlet.taken != taken:
            self._watch_for_progress()
            return
        waiting = self._outlet.unsent_bytes
        self.log.warning("A client of kernel %s reads too slowly: %d bytes wait for it", self.kernel_id, waiting)
        self.close(_TOO_SLOW, f"reads too slowly: {waiting} bytes wait")

    def _streams(self) -> list[Any]:
        """Our connections to the kernel that are open; none of a native kernel."""
        channels = getattr(self.connection, "channels", None) or {}
        return [stream for stream in channels.values() if hasattr(stream, "on_refusal") and not stream.closed()]

    # -- the kernel's death

    def _provisioner(self) -> object:
        return getattr(self.kernel_manager.get_kernel(self.kernel_id), "provisioner", None)

    def _tell_why(self) -> None:
        """The kernel died: say why where the person looks. One that is given up is in no manager any more."""
        provisioner = self._manager.provisioner
        words = provisioner.last_words() if isinstance(provisioner, SandboxProvisioner) else None
        self._told.all_ended(ExecutionEnd.DIED)
        self._slate.all_ended()
        if words and self._executions and self.connection:
            self.connection.write_stderr(words, self._executions.take_oldest())
