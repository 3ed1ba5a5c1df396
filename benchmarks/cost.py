"""What a request costs: processor time, by who spends it. It bounds what a machine can do in a second.

One kernel after the other is made, used and deleted; then one executes. Processor time does not depend on who waits
for whom, so this says where a goal is lost better than a clock. *ended* are kernels, their agents and helpers that have
ended meanwhile, as far as the system waits for them; *the rest* is what the machine spent beyond: a container engine
with what it starts, Linux itself, and whatever else runs: let nothing else run.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks import by_hand
from benchmarks.machine import busy_seconds, quiet
from benchmarks.metrics import Results
from benchmarks.processes import cpu_seconds, ended_children_seconds
from benchmarks.server import running
from benchmarks.systems import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.server import Server

_EXECUTIONS_EACH = 20
_QUIET_S = 20.0
_CLIENT, _ENDED, _REST = "this client", "ended", "the rest"


async def _life(server: Server, results: Results) -> None:
    async with server.client.kernel(server.system.kernel_name) as channel:
        results.check(server.system.name, "cost", expected="42\n", actual=await channel.execute("print(6 * 7)"))


async def _cost(server: Server, act: Callable[[], Awaitable[None]], times: int) -> dict[str, float]:
    """Return what one act costs, ms by role. What the act leaves to be done, as a pool, is part of it."""
    await quiet(_QUIET_S)
    before = {process.pid: cpu_seconds(process.pid) for process in server.processes()}
    ended = {pid: ended_children_seconds(pid) for pid in before}
    own, machine = cpu_seconds(os.getpid()), busy_seconds()
    for _ in range(times):
        await act()
    await quiet(_QUIET_S)
    spent: Counter[str] = Counter()
    for process in server.processes():
        spent[server.system.role_of(process.command)] += cpu_seconds(process.pid) - before.get(process.pid, 0.0)
    spent[_ENDED] = sum(ended_children_seconds(pid) - seconds for pid, seconds in ended.items())
    spent[_CLIENT] = cpu_seconds(os.getpid()) - own
    spent[_REST] = busy_seconds() - machine - sum(spent.values())
    return {role: seconds * 1e3 / times for role, seconds in spent.items()}


async def run(system_name: str, count: int) -> int:
    """Measure and tell; return how much went wrong. Raises NotInstalledError."""
    results = Results(systems=(system_name,))
    async with running(BY_NAME[system_name], (), results) as server:
        await _life(server, results)
        lives = await _cost(server, lambda: _life(server, results), count)
        async with server.client.kernel(server.system.kernel_name) as channel:

            async def execute() -> None:
                printed = await channel.execute("print(6 * 7)")
                results.check(system_name, "cost", expected="42\n", actual=printed)

            executions = await _cost(server, execute, count * _EXECUTIONS_EACH)
    processors = os.cpu_count() or 1
    for what, cost in (("a kernel made, used and deleted", lives), ("an execution", executions)):
        total = sum(cost.values())
        print(f"{what}: {total:.2f} ms of processor time, so {processors * 1e3 / total:.0f} a second at most")
        print("  " + ", ".join(f"{role} {ms:.2f}" for role, ms in sorted(cost.items(), key=lambda each: -each[1])))
    return by_hand.tell(results)


def main() -> int:
    """The command line."""
    parser = by_hand.parser("cost", __doc__, system="embedded")
    parser.add_argument("--kernels", type=int, default=100, help="how many kernels, one after the other (default: 100)")
    options = parser.parse_args()
    return by_hand.exit_status(run(options.system, options.kernels))


if __name__ == "__main__":
    sys.exit(main())
