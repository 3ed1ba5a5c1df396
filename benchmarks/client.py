"""A lean asyncio client of a Jupyter server: start a kernel, run code over its websocket, delete it.

Speaks the default (JSON) websocket protocol, as plain websocket clients do. An execution is over when its
`execute_reply` and its `idle` status have both arrived; messages of other requests are skipped by their parent's id.
What it costs per request is measured with the load (`load.ready.client_cpu`): it must not become the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

EXECUTE_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 120.0
DELETE_PARALLEL = 4


class KernelFailedError(Exception):
    """A kernel was not started, not reached, did not answer in time, or its code raised."""


@dataclass(kw_only=True)
class Channel:
    """The websocket of one kernel; one execution at a time."""

    websocket: aiohttp.ClientWebSocketResponse
    session_id: str

    def __post_init__(self) -> None:
        self._numbers = count()

    def _request(self, message_id: str, code: str) -> str:
        header = {
            "msg_id": message_id,
            "msg_type": "execute_request",
            "session": self.session_id,
            "username": "benchmark",
            "version": "5.4",
            "date": "2026-01-01T00:00:00Z",
        }
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        return json.dumps(message)

    async def execute(self, code: str) -> str:
        """Run code and return what it printed. Raises KernelFailedError."""
        message_id = f"{self.session_id}_{next(self._numbers)}"
        try:
            async with asyncio.timeout(EXECUTE_TIMEOUT_S):
                await self.websocket.send_str(self._request(message_id, code))
                return await self._collect(message_id)
        except TimeoutError:
            raise KernelFailedError(f"no answer to an execution within {EXECUTE_TIMEOUT_S:.0f} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise KernelFailedError(f"websocket: {error!r}") from error

    async def send(self, code: str) -> str:
        """Send code to run and return the message's id, for `next_of`. Raises KernelFailedError."""
        message_id = f"{self.session_id}_{next(self._numbers)}"
        try:
            await self.websocket.send_str(self._request(message_id, code))
        except (aiohttp.ClientError, ConnectionError) as error:
            raise KernelFailedError(f"websocket: {error!r}") from error
        return message_id

    async def next_of(self, message_id: str, *, states: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
        """Return type and content of the next message in answer to `message_id`, or of a kernel's state of `states`.

        The caller limits the time. Raises KernelFailedError.
        """
        while (frame := await self.websocket.receive()).type is aiohttp.WSMsgType.TEXT:
            message = json.loads(frame.data)
            kind, content = message["msg_type"], message["content"]
            is_state = kind == "status" and content["execution_state"] in states
            if is_state or message["parent_header"].get("msg_id") == message_id:
                return kind, content
        raise KernelFailedError(f"websocket sent {frame.type.name} during an execution")

    async def rest(self) -> None:
        """Answer the server's pings until the end or a cancellation; whatever else comes is dropped."""
        while (await self.websocket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass

    async def kernel_info(self) -> str:
        """Ask the kernel what it is and return its name: it is ready. Raises KernelFailedError."""
        message_id = f"{self.session_id}_{next(self._numbers)}"
        header = {"msg_id": message_id, "msg_type": "kernel_info_request", "session": self.session_id}
        header |= {"username": "benchmark", "version": "5.4", "date": "2026-01-01T00:00:00Z"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell"}
        try:
            async with asyncio.timeout(EXECUTE_TIMEOUT_S):
                await self.websocket.send_str(json.dumps(message))
                while (frame := await self.websocket.receive()).type is aiohttp.WSMsgType.TEXT:
                    answer = json.loads(frame.data)
                    if answer["msg_type"] == "kernel_info_reply" and answer["parent_header"]["msg_id"] == message_id:
                        return str(answer["content"].get("implementation"))
        except TimeoutError:
            raise KernelFailedError(f"no kernel_info_reply within {EXECUTE_TIMEOUT_S:.0f} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise KernelFailedError(f"websocket: {error!r}") from error
        raise KernelFailedError(f"websocket sent {frame.type.name} instead of a kernel_info_reply")

    async def _collect(self, message_id: str) -> str:
        printed: list[str] = []
        replied = idle = False
        while not (replied and idle):
            frame = await self.websocket.receive()
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise KernelFailedError(f"websocket sent {frame.type.name} during an execution")
            message = json.loads(frame.data)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    printed.append(content["text"])
                case "status":
                    idle = content["execution_state"] == "idle"
                case "execute_reply":
                    replied = True
                    if content["status"] != "ok":
                        raise KernelFailedError(f"execution ended with {content['status']}: {content.get('ename')}")
        return "".join(printed)


class ServerClient:
    """The REST side of one server."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def kernel_names(self) -> set[str] | None:
        """Return the kernelspecs that the server offers, None while it does not answer."""
        try:
            async with self._http.get(f"{self._url}/api/kernelspecs") as response:
                response.raise_for_status()
                return set((await response.json())["kernelspecs"])
        except aiohttp.ClientError:
            return None

    async def start(self, kernel_name: str) -> str:
        """Start a kernel and return its id. Raises KernelFailedError."""
        status, text = await self.try_start(kernel_name)
        if status != 201:
            raise KernelFailedError(f"POST /api/kernels answered {status}: {text[:200]}")
        kernel_id: str = json.loads(text)["id"]
        return kernel_id

    async def try_start(self, kernel_name: str) -> tuple[int, str]:
        """Ask for a kernel and return status and body of the answer. Raises KernelFailedError."""
        try:
            async with self._http.post(f"{self._url}/api/kernels", json={"name": kernel_name}) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"POST /api/kernels: {error!r}") from error

    async def act(self, kernel_id: str, verb: str) -> None:
        """`interrupt` or `restart` a kernel. Raises KernelFailedError."""
        try:
            async with self._http.post(f"{self._url}/api/kernels/{kernel_id}/{verb}") as response:
                if response.status >= 300:
                    raise KernelFailedError(f"POST /api/kernels/<id>/{verb} answered {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"POST /api/kernels/<id>/{verb}: {error!r}") from error

    async def connect(self, kernel_id: str) -> Channel:
        """Open the websocket of a kernel. Raises KernelFailedError."""
        session_id = uuid4().hex
        url = f"{self._url}/api/kernels/{kernel_id}/channels"
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                websocket = await self._http.ws_connect(url, params={"session_id": session_id}, max_msg_size=0)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"websocket of a new kernel: {error!r}") from error
        return Channel(websocket=websocket, session_id=session_id)

    async def delete(self, kernel_id: str) -> None:
        """End a kernel. Raises KernelFailedError."""
        try:
            async with self._http.delete(f"{self._url}/api/kernels/{kernel_id}") as response:
                if response.status != 204:
                    raise KernelFailedError(f"DELETE /api/kernels/<id> answered {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"DELETE /api/kernels/<id>: {error!r}") from error

    async def ask(self, method: str, path: str, body: object | None = None) -> Any:
        """Send a request of the REST surface; return the answer. Raises KernelFailedError."""
        return await self._sent(method, path, json=body)

    async def text(self, method: str, path: str, body: object | None, headers: Mapping[str, str]) -> str:
        """Send a request of another API, with its headers; return the answer as it came. Raises KernelFailedError."""
        return await self._answer(method, path, json=body, headers=headers)

    async def upload(self, path: str, pieces: AsyncIterator[bytes]) -> Any:
        """Write a file; return the answer. Raises KernelFailedError."""
        return await self._sent("PUT", path, data=pieces)

    async def download(self, path: str) -> int:
        """Read a file and drop it; return how many bytes came. Raises KernelFailedError."""
        try:
            async with self._http.get(f"{self._url}{path}") as response:
                response.raise_for_status()
                return sum([len(piece) async for piece in response.content.iter_any()])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"GET {path}: {error!r}") from error

    async def _sent(self, method: str, path: str, **body: Any) -> Any:
        text = await self._answer(method, path, **body)
        return json.loads(text) if text else None

    async def _answer(self, method: str, path: str, **more: Any) -> str:
        try:
            async with self._http.request(method, f"{self._url}{path}", **more) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KernelFailedError(f"{method} {path}: {error!r}") from error
        if response.status >= 300:
            raise KernelFailedError(f"{method} {path} answered {response.status}: {text[:200]}")
        return text

    @asynccontextmanager
    async def kernel(self, kernel_name: str) -> AsyncIterator[Channel]:
        """Start a kernel, open its websocket, and end both afterwards. Raises KernelFailedError."""
        kernel_id = await self.start(kernel_name)
        try:
            channel = await self.connect(kernel_id)
            try:
                yield channel
            finally:
                await channel.websocket.close()
        finally:
            await self.delete(kernel_id)


class Kernels:
    """Kernels that live until the end of an `async with`, and are then deleted a few at a time.

    One that cannot be deleted, as it is gone already, is told to `fail`, and the others are deleted all the same.
    """

    def __init__(self, client: ServerClient, kernel_name: str, fail: Callable[[str], None]) -> None:
        self._client = client
        self._kernel_name = kernel_name
        self._fail = fail
        self._stacks: list[AsyncExitStack] = []

    async def add(self) -> Channel:
        """Start one more and open its websocket. Raises KernelFailedError."""
        stack = AsyncExitStack()
        channel = await stack.enter_async_context(self._client.kernel(self._kernel_name))
        self._stacks.append(stack)
        return channel

    async def __aenter__(self) -> Kernels:
        return self

    async def __aexit__(self, *_: object) -> None:
        stacks = iter(self._stacks)

        async def delete_in_turn() -> None:
            for stack in stacks:
                try:
                    await stack.aclose()
                except KernelFailedError as error:
                    self._fail(str(error))

        async with asyncio.TaskGroup() as group:
            for _ in range(DELETE_PARALLEL):
                group.create_task(delete_in_turn())


@asynccontextmanager
async def open_client(url: str, token: str) -> AsyncIterator[ServerClient]:
    """Open a client with its own connections."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": f"token {token}", "X-Auth-Token": token},
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
    ) as http:
        yield ServerClient(url, http)
