"""Kill -9 at random points: `python -m tests.chaos.kills --count 200`. What was claimed must be as it was each time.

Beside the sandboxes that are looked at, another client claims, writes, runs and releases all the time, so that server, broker,
agents and zygote, and a container engine that is the test's own, die in the middle of whatever they do.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos import by_hand
from tests.chaos.actions import MOST, TEMPLATE, Chaos
from tests.chaos.system import System
from tests.conftest import wait_until

VICTIMS = {("server",): 3, ("broker",): 3, ("agent",): 2, ("zygote",): 2, ("server", "broker"): 1}
"""With their weights."""
UP_TO_S = 0.6
"""What the other client does takes about that long."""
ORPHAN_S = 60
BACK_S = 5
"""Until all is served again, on a quiet machine."""
TOLD_EACH = 10

CLEAN_LOOKS, LOOK_S = 3, 0.3


class Restless:
    """A client that is always in the middle of something, and takes every answer, or none, as it comes."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.answers: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Work in a thread of its own until the end of the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._work, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _work(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                self._live()
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__] += 1
                over.wait(0.1)

    def _live(self) -> None:
        made = self._asks("POST", body={"template": TEMPLATE})
        if made.status != 201:
            time.sleep(0.1)
            return
        where = made.body["id"]
        self._asks("PUT", where, "files", "a", raw=bytes(1 << 20))
        context = self._asks("POST", where, "contexts", body={})
        if context.status == 201:
            self._asks("POST", where, "contexts", context.body["id"], "executions", body={"code": "1", "timeout_s": 5})
        self._asks("DELETE", where)

    def _asks(self, method: str, *parts: str, **how):
        answer = self._system.request(method, *parts, **how)
        self.answers[f"{method} {answer.code or answer.status}"] += 1
        return answer


def one(chaos: Chaos, restless: Restless, victims: tuple[str, ...], chance: random.Random) -> bool:
    """Kill something while everything is busy, and look at everything that must have stayed. Whether it was there."""
    with restless.at_work():
        streaming = chaos.begin_stream(chance.randrange(1 << 20)) if chance.random() < 0.5 else None
        time.sleep(chance.uniform(0, UP_TO_S))
        if victims == ("agent",):
            was_there = chaos.kill_agent(chance.randrange(1 << 20)) is not None
        else:
            was_there = chaos.kill(*victims)
        if streaming:
            chaos.end_stream(streaming, {"ok", "unknown", "died"})
    for number in range(chaos.contexts()):
        chaos.run(number)
    _release_strangers(chaos)
    chaos.history.listed(chaos.system.listed())
    wait_until(lambda: not chaos.system.orphans(), ORPHAN_S)
    return was_there


def _release_strangers(chaos: Chaos) -> None:
    """Release what the other client was not told of, or could not release: also what is still under way to it."""
    clean = 0
    while clean < CLEAN_LOOKS:
        strangers = chaos.system.listed() - set(chaos.history.sandboxes)
        for stranger in strangers:
            chaos.system.request("DELETE", stranger)
        clean = 0 if strangers else clean + 1
        time.sleep(LOOK_S)


def fill(chaos: Chaos) -> None:
    """Have as many sandboxes as are looked at, each with a context that counts."""
    while len(chaos.history.sandboxes) < MOST:
        chaos.act("claim", 0)
    for number, sandbox in enumerate(chaos.history.sandboxes.values()):
        if not sandbox.contexts:
            chaos.add_context(number)


def rounds(chaos: Chaos, count: int, chance: random.Random) -> str:
    """Kill `count` times; raises when something was lost, doubled or left. Returns what is to be said of it.

    Where nothing was there to be killed, which happens to a zygote, that is none of the times.
    """
    restless, done = Restless(chaos.system), 0
    weighted = VICTIMS | ({("dockerd",): 2} if chaos.system.dockerd else {})
    each, weights = list(weighted), list(weighted.values())
    for number in itertools.count():
        if done == count:
            return f"{done} times; the other client was answered {dict(restless.answers)}"
        fill(chaos)
        victims = each[number] if number < len(each) else chance.choices(each, weights)[0]
        if one(chaos, restless, victims, chance):
            done += 1
            if done % TOLD_EACH == 0:
                print(f"{done} of {count}", chaos.recoveries(), sep="\n", flush=True)
    raise AssertionError("counting has no end")


def slow(recovered_s: Mapping[str, Sequence[float]], most_s: float) -> list[str]:
    """After what it took longer than that until all was well again, a sentence each."""
    return [
        f"{victims} killed: ready again in {max(took):.1f} s at worst, not in {most_s:g} s"
        for victims, took in sorted(recovered_s.items())
        if max(took) > most_s
    ]


def late(chaos: Chaos) -> list[str]:
    """What was not served again in time."""
    return slow(chaos.recovered_s, BACK_S)


if __name__ == "__main__":
    promise = f"everything that was claimed was as before each time and ran code within {BACK_S} s, and nothing is left"
    sys.exit(by_hand.counted(__doc__, 200, rounds, promise, late))
