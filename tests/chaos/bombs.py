"""All bombs at once, again and again: `python -m tests.chaos.bombs`, as root. A fifth owner executes 1 000 times beside them.

Two bombs in each of four sandboxes: forks and memory, disk and inodes, shared memory and descriptors, output and processor. What ends
by its bomb is started anew. The other executes in turns alone and beside them, so that what else the machine does hits both; each turn
beside them lasts until every bomb has exploded in it, and was told by its right name. The status is 1 when the 95th percentile beside
them is more than twice that alone.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from tests.attacks.attacker import Host, Sandbox, running_host
from tests.chaos.by_hand import verdict

ALL = ("forks", "memory", "disk", "inodes", "shm", "descriptors", "output", "processor")
CPUS, MEMORY, PROCESSES = 1.0, "256 MiB of memory", 64
"""What the template `tiny` gives."""
MOST_TIMES = 2.0
EXPLODED_S = 60
NOISE_S = 1.0
SLACK_S = 0.3
"""Of processor time, which is given in periods."""

RAW = "raw = sys.__dict__['stdout']._original_stdstream_copy\n"
"""ipykernel keeps the agent's pipe there; descriptors 1 and 2 are its own."""

FORKS = """
import time
def bomb():
    while True:
        try:
            if os.fork() == 0: bomb()
        except OSError:
            time.sleep(0.2)
if os.fork() == 0: bomb()
said = None
while said is None:
    try:
        pid = os.fork()
    except OSError as error:
        said = _errno.errorcode[error.errno]
    else:
        if pid == 0: bomb()
tell([said, len([name for name in os.listdir('/proc') if name.isdigit()])])
"""

HOARD = "hoard = []\nwhile True: hoard.append(bytearray(os.urandom(1 << 16)) * 16)"

AGAIN = """
import collections, threading, time
told = collections.Counter()
def again(explode):
    while True:
        try:
            explode()
        except OSError as error:
            told[f"{{name_of(error)}}"] += 1
        time.sleep(0.001)
{bombs}
for each in bombs: threading.Thread(target=again, args=(each,), daemon=True).start()
"""

DISK = """
def name_of(error):
    space = os.statvfs('/sandbox')
    if error.errno != _errno.ENOSPC: return _errno.errorcode[error.errno]
    if space.f_favail == 0: return 'inodes'
    return 'disk' if space.f_bavail * space.f_frsize < 1 << 17 else 'nothing'
file = open('/sandbox/fill', 'wb', buffering=0)
os.makedirs('/sandbox/crowd', exist_ok=True)
def fill():
    os.ftruncate(file.fileno(), 0)
    file.seek(0)
    while True: file.write(bytes(1 << 16))
def crowd():
    for name in os.listdir('/sandbox/crowd'): os.unlink(f'/sandbox/crowd/{name}')
    for number in range(100_000): os.close(os.open(f'/sandbox/crowd/{number}', os.O_CREAT))
bombs = (fill, crowd)
"""

DESCRIPTORS = """
def name_of(error):
    return {'ENOSPC': 'shm', 'EMFILE': 'descriptors'}.get(_errno.errorcode[error.errno], _errno.errorcode[error.errno])
shared = open('/dev/shm/fill', 'wb', buffering=0)
def share():
    os.ftruncate(shared.fileno(), 0)
    shared.seek(0)
    while True: shared.write(bytes(1 << 16))
def files():
    held = []
    try:
        while True: held.append(os.dup(0))
    finally:
        for each in held: os.close(each)
bombs = (share, files)
"""

NOISE = (
    RAW
    + """
import time
for _ in range(8):
    if os.fork() == 0:
        while True: pass
end = time.monotonic() + {seconds}
while time.monotonic() < end: os.write(raw, b'x' * 65536)
os.write(raw, b'the end of the noise\\n')
os._exit(3)
"""
)

USAGE = """
from jupyter_sandbox.broker import usage_verbs
result = call(usage_verbs.GetUsage(sandbox=box.id), usage_verbs.UsageReport).cpu_s
"""


def another_client(host: Host) -> Host:
    """A client process more of the same broker: one waits for its answers, and the others do not."""
    made = copy.copy(host)
    made.process = None
    return made


class Bomber:
    """Four sandboxes in which eight bombs explode until it is closed, each with a client and a thread of its own."""

    def __init__(self, host: Host) -> None:
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self.told: collections.Counter[str] = collections.Counter()
        """How often each bomb exploded, by the name that it was told by."""
        lives = (self._forks, self._disk, self._descriptors, self._noise)
        self._threads = [threading.Thread(target=self._work, args=(another_client(host), live)) for live in lives]
        for thread in self._threads:
            thread.start()

    def look(self) -> None:
        """Raise what went wrong so far."""
        if self._failed:
            raise self._failed[0]

    def exploded_since(self, before: collections.Counter[str]) -> bool:
        """Whether every bomb exploded since then."""
        self.look()
        return all(self.told[name] > before[name] for name in ALL)

    def close(self) -> None:
        """End all of it; raises what went wrong."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.look()

    def _work(self, client: Host, live) -> None:
        try:
            box = client.sandbox("tiny")
            try:
                live(box)
            finally:
                box.release()
        except BaseException as error:
            self._failed.append(error)
        finally:
            client.leave()

    def _forks(self, box: Sandbox) -> None:
        while not self._over.is_set():
            said, processes = box.probe(FORKS, 30)
            assert (said, processes <= PROCESSES) == ("EAGAIN", True), (said, processes)
            self.told["forks"] += 1
            box.submit(HOARD)
            end = box.end(EXPLODED_S)
            assert end is not None
            assert (end["reason"], MEMORY in end["message"]) == ("memory", True), end
            self.told["memory"] += 1
            box.start()

    def _disk(self, box: Sandbox) -> None:
        self._again(box, DISK, {"disk", "inodes"})

    def _descriptors(self, box: Sandbox) -> None:
        self._again(box, DESCRIPTORS, {"shm", "descriptors"})

    def _again(self, box: Sandbox, bombs: str, names: set[str]) -> None:
        assert box.execute(AGAIN.format(bombs=bombs))["status"] == "ok"
        while not self._over.wait(0.2):
            told = box.probe("tell(dict(told))", EXPLODED_S)
            assert set(told) <= names | {"nothing"}, told  # it was full, and no longer is
            for name in names & set(told):
                self.told[name] = told[name]

    def _noise(self, box: Sandbox) -> None:
        while not self._over.is_set():
            began, before = time.monotonic(), used_s(box)
            box.submit(NOISE.format(seconds=NOISE_S))
            end = box.end(EXPLODED_S)
            assert end is not None
            assert (end["reason"], end["status"]) == ("failed", 3), end
            assert "the end of the noise" in end["message"]
            assert len(end["message"]) < 1500
            self.told["output"] += 1
            used, took = used_s(box) - before, time.monotonic() - began
            assert used <= CPUS * took + SLACK_S, f"{used:.2f} s of processor time in {took:.2f} s"
            self.told["processor"] += used > NOISE_S * 0.1
            box.start()


def used_s(box: Sandbox) -> float:
    """The processor time that a sandbox is told to have used."""
    return box.host.run(f"box = SANDBOXES[number]\n{USAGE}", number=box.number)


@contextlib.contextmanager
def exploding(host: Host) -> Iterator[Bomber]:
    """Have all bombs explode until the end of the block; from the beginning each has."""
    bomber = Bomber(host)
    try:
        deadline = time.monotonic() + EXPLODED_S
        while not bomber.exploded_since(collections.Counter()):
            assert time.monotonic() < deadline, f"not every bomb explodes: {bomber.told}"
            time.sleep(0.05)
        yield bomber
    finally:
        bomber.close()


def served(box: Sandbox, times: int) -> list[float]:
    """Execute so often; return what each took, s."""
    waits = []
    for number in range(times):
        began = time.perf_counter()
        assert box.ask(f"{number} + 1") == number + 1
        waits.append(time.perf_counter() - began)
    return waits


def served_beside(box: Sandbox, bomber: Bomber, times: int) -> list[float]:
    """The same, and until every bomb has exploded meanwhile."""
    before, waits = bomber.told.copy(), served(box, times)
    deadline = time.monotonic() + EXPLODED_S
    while not bomber.exploded_since(before):
        assert time.monotonic() < deadline, f"not every bomb explodes: {bomber.told - before}"
        waits += served(box, 1)
    return waits


@dataclass(frozen=True)
class Waits:
    """What executions took, s."""

    quiet: Sequence[float]
    loud: Sequence[float]

    @property
    def times(self) -> float:
        """By how much the 95th percentile is larger beside the bombs."""
        return p95(self.loud) / p95(self.quiet)

    def __str__(self) -> str:
        quiet, loud = (f"{p95(each) * 1000:.1f} ms of {len(each)}" for each in (self.quiet, self.loud))
        return f"a bystander's p95: {quiet} alone, {loud} beside eight bombs, {self.times:.1f} times as long"


def p95(waits: Sequence[float]) -> float:
    """The 95th percentile."""
    return sorted(waits)[int(len(waits) * 0.95)]


def run(host: Host, rounds: int, times: int) -> tuple[Waits, collections.Counter[str]]:
    """Execute `times` alone and beside all bombs, in turns; return what it took and which bombs exploded how often."""
    quiet, loud, told = [], [], collections.Counter()
    bystander = host.sandbox("tiny")
    try:
        for _ in range(rounds):
            quiet += served(bystander, times)
            with exploding(host) as bomber:
                loud += served_beside(bystander, bomber, times)
            told += bomber.told
    finally:
        bystander.release()
    return Waits(quiet, loud), told


def wrong(waits: Waits) -> list[str]:
    """What is wrong with them."""
    return [f"beside the bombs p95 is {waits.times:.1f} times as long"] if waits.times > MOST_TIMES else []


def main() -> int:
    """Run, and say what came of it; raises when somebody was not served or a bomb had a wrong name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="executions beside the bombs, and as many alone")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    os.environ.setdefault(ENGINE_VARIABLE, "embedded")
    with running_host(0) as host:
        broker = host.broker_pid()
        waits, told = run(host, options.rounds, max(1, options.count // options.rounds))
        assert host.broker_pid() == broker
    print(f"explosions: {dict(told)}", waits, sep="\n")
    return verdict(wrong(waits), f"p95 is at most {MOST_TIMES:g} times as long, and each bomb had its name")


if __name__ == "__main__":
    sys.exit(main())
