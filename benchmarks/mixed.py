"""Many users whose calls go wrong on purpose: does every call end, with exactly the output it should have?

Each user has a kernel and draws one call after the other: plain and large executions, a kernel that dies, an interrupt,
a restart, a websocket that is cut while code runs, a new kernel, and a burst of starts that exceeds what the template
allows. The next state of a user is known after each of them, so every answer can be checked. A call that has not ended
within a minute hangs. This is no measurement of speed: `python -m benchmarks.mixed --help`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from benchmarks import by_hand
from benchmarks.client import Channel, KernelFailedError, ServerClient
from benchmarks.metrics import Results
from benchmarks.server import running
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_CALL_TIMEOUT_S = 60.0
_ROOM = 4
"""How many workers the template allows beyond one for each user."""
_LARGE_LINES = 2000
_RETRY_S = 0.2
_ENDS = ("restarting", "dead")
_STABLE_S, _RESTART_LIMIT = 10 + 3 + 2, 5
"""Of jupyter_client's restarter: how long a stable kernel lives (it looks each 3 s; 2 s are for the clocks of two
processes), and how often it starts one that lived shorter."""
_SHARES = {"count": 84, "large": 5, "die": 2, "interrupt": 2, "restart": 1, "cut": 4, "renew": 1, "burst": 1}
"""How many of 100 calls are of each kind."""


class WrongError(Exception):
    """A call ended with something else than it should have."""


def _expect(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise WrongError(f"{what}: expected {str(expected)[:80]!r}, got {str(actual)[:80]!r}")


class User:
    """One user: a kernel that counts, and what its counter must be."""

    def __init__(self, client: ServerClient, kernel_name: str, seed: int) -> None:
        """`seed` decides which calls it makes."""
        self._client, self._kernel_name = client, kernel_name
        self._random = random.Random(seed)
        self._kernel_id = ""
        self._channel: Channel | None = None
        self._counter = 0
        self._died_at, self._quick_deaths = -_STABLE_S * 1.0, 0
        self.refused = 0
        """Starts that were refused for want of room."""
        self._calls: dict[str, Callable[[], Awaitable[None]]] = {
            "count": self._count,
            "large": self._large,
            "die": self._die,
            "interrupt": self._interrupt,
            "restart": self._restart,
            "cut": self._cut,
            "renew": self._renew,
            "burst": self._burst,
        }

    async def begin(self) -> None:
        """Start a kernel, the first or a new one; one that is refused for want of room is tried again."""
        self._kernel_id = await _until_there_is_room(self._client, self._kernel_name)
        self._channel = await self._client.connect(self._kernel_id)
        await self._reset()

    async def end(self) -> None:
        """Delete the kernel."""
        if self._channel:
            await self._channel.websocket.close()
        await self._client.delete(self._kernel_id)

    async def call(self) -> str:
        """Make one call; return its kind. Raises WrongError, KernelFailedError or TimeoutError."""
        (kind,) = self._random.choices(list(_SHARES), list(_SHARES.values()))
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await self._calls[kind]()
        except TimeoutError:
            raise WrongError(f"{kind}: hangs") from None
        except (WrongError, KernelFailedError) as error:
            raise WrongError(f"{kind}: {error}") from error
        return kind

    def _open(self) -> Channel:
        if self._channel is None:
            raise WrongError("no kernel")
        return self._channel

    async def _reset(self) -> None:
        self._counter = 0
        _expect("reset", "", await self._open().execute("x = 0"))

    async def _count(self) -> None:
        self._counter += 1
        _expect("count", f"{self._counter}\n", await self._open().execute("x += 1; print(x)"))

    async def _large(self) -> None:
        expected = "".join(f"{number} {'y' * 100}\n" for number in range(_LARGE_LINES))
        code = f"for number in range({_LARGE_LINES}): print(number, 'y' * 100)"
        actual = await self._open().execute(code)
        if actual != expected:
            raise WrongError(f"{len(actual)} of {len(expected)} characters")

    async def _die(self) -> None:
        """The kernel dies in the middle of an execution; Jupyter starts it anew in the same sandbox, and says so."""
        channel = self._open()
        message_id = await channel.send("import os; os.kill(os.getpid(), 9)")
        state = None
        while state not in _ENDS:
            state = (await channel.next_of(message_id, states=_ENDS))[1].get("execution_state")
        now = time.monotonic()
        self._quick_deaths = self._quick_deaths + 1 if now - self._died_at < _STABLE_S else 1
        self._died_at = now
        if state == "dead":  # Jupyter gives up a kernel that dies again and again
            _expect("dead after more than so many quick deaths", True, self._quick_deaths > _RESTART_LIMIT)
            await channel.websocket.close()
            await self.begin()
            return
        await self._reconnect()
        await self._reset()

    async def _interrupt(self) -> None:
        channel = self._open()
        message_id = await channel.send("import time\nprint('go', flush=True)\ntime.sleep(50)")
        while (await channel.next_of(message_id))[0] != "stream":
            pass
        await self._client.act(self._kernel_id, "interrupt")
        reply: dict[str, Any] = {}
        is_idle = False
        while not (reply and is_idle):
            kind, content = await channel.next_of(message_id)
            reply = content if kind == "execute_reply" else reply
            is_idle = is_idle or content.get("execution_state") == "idle"
        _expect("interrupt", "KeyboardInterrupt", reply.get("ename"))
        await self._count()

    async def _restart(self) -> None:
        await self._client.act(self._kernel_id, "restart")
        await self._reset()

    async def _cut(self) -> None:
        """The connection is lost while code runs. The code goes on, and the next connection finds its effect."""
        channel = self._open()
        await channel.send("import time; x += 1; time.sleep(0.05); x += 1")
        self._counter += 2
        await self._reconnect()
        await self._count()

    async def _reconnect(self) -> None:
        await self._open().websocket.close()
        self._channel = await self._client.connect(self._kernel_id)

    async def _renew(self) -> None:
        await self.end()
        await self.begin()

    async def _burst(self) -> None:
        """More kernels at once than may exist: each is started, or refused at once and with a reason."""
        answers = await asyncio.gather(*(self._client.try_start(self._kernel_name) for _ in range(2 * _ROOM)))
        for status, body in answers:
            if status == 201:
                await self._client.delete(json.loads(body)["id"])
            elif status != 503:
                raise WrongError(f"a start beyond the limit was answered with {status}: {body[:200]}")
            else:
                self.refused += 1


async def _until_there_is_room(client: ServerClient, kernel_name: str) -> str:
    while True:
        status, body = await client.try_start(kernel_name)
        if status == 201:
            kernel_id: str = json.loads(body)["id"]
            return kernel_id
        if status != 503:
            raise WrongError(f"a kernel was refused with {status}: {body[:200]}")
        await asyncio.sleep(_RETRY_S)


async def _work(user: User, numbers: Sequence[int], done: Counter[str], wrong: list[str]) -> None:
    await user.begin()
    for number in numbers:
        try:
            done[await user.call()] += 1
        except WrongError as error:
            wrong.append(f"call {number}: {error}")
            with contextlib.suppress(KernelFailedError):  # it may be gone, which is wrong enough
                await user.end()
            await user.begin()
    await user.end()


async def run(system_name: str, calls: int, users: int, seed: int) -> int:
    """Make the calls and tell the result; return how many went wrong. Raises NotInstalledError."""
    system = BY_NAME[system_name].with_room_for(users + _ROOM)
    results, done, wrong = Results(systems=(system_name,)), Counter[str](), list[str]()
    async with running(system, (), results) as server:
        begin = time.monotonic()
        people = [User(server.client, system.kernel_name, seed + number) for number in range(users)]
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(people):
                group.create_task(_work(user, range(number, calls, users), done, wrong))
        elapsed_s = time.monotonic() - begin
        for text in wrong[:1]:
            results.fail(system_name, "mixed", text)
    refused = sum(user.refused for user in people)
    report = {"calls": calls, "seconds": round(elapsed_s, 1), "right": dict(done), "refused": refused}
    print(json.dumps(report | {"wrong": wrong[:50]}))
    print(f"{done.total()} of {calls} calls ended as they should, {len(wrong)} did not; seed {seed}")
    return len(wrong) + by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("mixed", __doc__, system="embedded")
    parser.add_argument("--calls", type=int, default=10_000, help="how many calls in all (default: 10000)")
    parser.add_argument("--users", type=int, default=20, help="how many users at once (default: 20)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeats the calls of a run")
    options = parser.parse_args()
    return by_hand.exit_status(run(options.system, options.calls, options.users, options.seed))


if __name__ == "__main__":
    sys.exit(main())
