"""A notebook front end as far as the wire is concerned: one websocket, both wire formats."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1

LEGACY = None
V1 = "v1.kernel.websocket.jupyter.org"
FORMATS = [LEGACY, V1]
TIMEOUT_S = 30


@dataclass
class Result:
    """What one execution brought."""

    reply: dict[str, Any] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """ok, error or aborted."""
        return self.reply["status"]

    def text(self, name: str = "stdout") -> str:
        """What was written to a stream."""
        streams = (message["content"] for message in self.outputs if message["msg_type"] == "stream")
        return "".join(content["text"] for content in streams if content["name"] == name)

    @property
    def value(self) -> str:
        """The value of the last line."""
        values = [message["content"] for message in self.outputs if message["msg_type"] == "execute_result"]
        assert len(values) == 1, self
        return values[0]["data"]["text/plain"]


class Notebook:
    """One open websocket to a kernel."""

    kernel_id: str = ""

    def __init__(self, websocket, protocol: str | None) -> None:
        self._websocket = websocket
        self._protocol = protocol
        self.received: list[dict[str, Any]] = []
        self._session = Session(key=b"")  # not the server's session: its message ids would be the same as ours

    @property
    def stream(self):
        """The connection below, to do it violence."""
        return self._websocket.protocol.stream

    async def pinged(self) -> None:
        """Have the server ask whether all came that it has sent so far; the answer is on its way then."""
        asked = asyncio.Event()
        self._websocket.on_ping = lambda _data: asked.set()
        await self.finish(self.send("kernel_info_request", {}, "control"))
        async with asyncio.timeout(TIMEOUT_S):
            await asked.wait()

    def close(self) -> None:
        self._websocket.close()

    async def closed(self) -> None:
        """Close, and wait for the other end: an unfinished farewell is a leaked socket."""
        self.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while await self._websocket.read_message() is not None:
                    pass

    def send(self, msg_type: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send a request; return its id."""
        message = self._session.msg(msg_type, content)
        if self._protocol == V1:
            frame = serialize_msg_to_ws_v1(message, channel, self._session.pack)
            frame = b"".join(frame) if isinstance(frame, list) else frame
            self._websocket.write_message(frame, binary=True)
        else:
            text = json.dumps(message | {"channel": channel, "buffers": []}, default=str)
            self._websocket.write_message(text)
        return message["header"]["msg_id"]

    async def receive(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the next message; fails when the websocket closes or nothing comes."""
        async with asyncio.timeout(timeout_s):
            frame = await self._websocket.read_message()
        assert frame is not None, "the websocket was closed"
        if self._protocol == V1:
            assert isinstance(frame, bytes)
            channel, parts = deserialize_msg_from_ws_v1(frame)
            header, parent, metadata, content = (json.loads(part) for part in parts[:4])
        else:
            message = json.loads(frame)
            channel = message["channel"]
            header, parent = message["header"], message["parent_header"]
            metadata, content = message["metadata"], message["content"]
        message = {
            "channel": channel,
            "msg_type": header["msg_type"],
            "parent_id": parent.get("msg_id"),
            "metadata": metadata,
            "content": content,
        }
        self.received.append(message)
        return message

    async def receive_until(self, condition, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
        """Return all messages up to the first that fulfils `condition`, which is the last of them."""
        messages = []
        try:
            async with asyncio.timeout(timeout_s):
                while not messages or not condition(messages[-1]):
                    messages.append(await self.receive(timeout_s))
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s} s; there came {messages}") from None
        return messages

    def start(self, code: str, *, allow_stdin: bool = False) -> str:
        """Begin an execution; return its id. Its error does not abort what is sent right after its reply."""
        flags = {"silent": False, "store_history": True, "allow_stdin": allow_stdin, "stop_on_error": False}
        return self.send("execute_request", {"code": code, "user_expressions": {}, **flags})

    async def finish(self, msg_id: str, timeout_s: float = TIMEOUT_S) -> Result:
        """Wait for the reply and for idle, which come in any order."""
        result, idle = Result(), False
        async with asyncio.timeout(timeout_s):
            while not (idle and result.reply):
                message = await self.receive(timeout_s)
                if message["parent_id"] != msg_id:
                    continue
                match message["msg_type"]:
                    case "execute_reply" | "kernel_info_reply":
                        result.reply = message["content"]
                    case "status":
                        idle = idle or message["content"]["execution_state"] == "idle"
                    case _:
                        result.outputs.append(message)
        return result

    async def execute(self, code: str, timeout_s: float = TIMEOUT_S) -> Result:
        """Run code."""
        return await self.finish(self.start(code), timeout_s)

    async def run(self, code: str) -> str:
        """Run code that must not fail; return what it printed."""
        result = await self.execute(code)
        assert result.status == "ok", result
        return result.text()

    async def printed(self, msg_id: str, text: str) -> None:
        """Wait until an execution has printed `text`: it is running."""

        def is_it(message):
            return message["parent_id"] == msg_id and text in message["content"].get("text", "")

        await self.receive_until(is_it)

    async def answers(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the kernel answers on shell and iopub, asking again.

        Requests to a kernel that ends are lost, and after a restart either channel may be back before the other.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(TimeoutError):
                    await self.finish(self.send("kernel_info_request", {}), timeout_s=1)
                    return
