"""An execution over REST and the same over the websocket, one user, in turns: `python -m benchmarks.rest URL TOKEN`

Of a server that runs, for example `make run`. Both ask the same kernel; the ratio is what counts, the milliseconds are
this machine's.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import aiohttp

ROUNDS = 20
EACH = 20
CODE = "x = 6 * 7; print(x)"


class Rest:
    """A context over REST."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def execute(self) -> None:
        """Run the code; fails when the answer is wrong."""
        async with self._session.post(f"{self._url}/executions", json={"code": CODE}) as response:
            body = await response.json()
        assert [output["text"] for output in body["outputs"]] == ["42\n"], body


class Websocket:
    """The kernel of the same context over its websocket."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket, self._count = websocket, 0

    async def execute(self) -> None:
        """Run the code until reply and idle."""
        self._count += 1
        msg_id = f"request-{self._count}"
        header = {"msg_id": msg_id, "msg_type": "execute_request", "username": "", "session": "benchmark"}
        header |= {"version": "5.4", "date": "2026-01-01T00:00:00Z"}
        content = {"code": CODE, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        await self._websocket.send_json(message | {"channel": "shell"})
        ends: set[str] = set()
        while ends != {"execute_reply", "idle"}:
            received = json.loads((await self._websocket.receive()).data)
            if received["parent_header"].get("msg_id") == msg_id:
                ends |= {received["msg_type"], received["content"].get("execution_state", "")} & {
                    "execute_reply",
                    "idle",
                }


async def measure(url: str, token: str) -> dict[str, list[float]]:
    """Return milliseconds of each execution, by way."""
    url = url.rstrip("/")
    async with aiohttp.ClientSession(headers={"Authorization": f"token {token}"}) as session:

        async def post(path: str) -> str:
            async with session.post(f"{url}/api/sandboxes{path}", json={}) as response:
                response.raise_for_status()
                return (await response.json())["id"]

        sandbox = await post("")
        try:
            context = await post(f"/{sandbox}/contexts")
            address = f"{url}/api/kernels/{context}/channels?session_id=benchmark"
            async with session.ws_connect(address.replace("http", "ws", 1)) as websocket:
                rest = Rest(session, f"{url}/api/sandboxes/{sandbox}/contexts/{context}")
                ways = {"websocket": Websocket(websocket), "rest": rest}
                return await _in_turns(ways)
        finally:
            async with session.delete(f"{url}/api/sandboxes/{sandbox}"):
                pass


async def _in_turns(ways: dict[str, Rest | Websocket]) -> dict[str, list[float]]:
    elapsed: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            for _ in range(EACH):
                begin = time.perf_counter()
                await way.execute()
                if turn:  # the first is to warm up
                    elapsed[name].append((time.perf_counter() - begin) * 1e3)
    return elapsed


def main() -> None:
    """Print p50 and p95 of each way, and the ratio."""
    elapsed = asyncio.run(measure(sys.argv[1], sys.argv[2]))
    for name, values in elapsed.items():
        p95 = statistics.quantiles(values, n=20)[-1]
        print(f"{name}: p50 {statistics.median(values):.2f} ms, p95 {p95:.2f} ms")
    print(f"rest / websocket: {statistics.median(elapsed['rest']) / statistics.median(elapsed['websocket']):.2f}")


if __name__ == "__main__":
    main()
