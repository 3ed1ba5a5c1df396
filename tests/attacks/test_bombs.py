"""All bombs at once, two in each of four sandboxes: a fifth owner is served, and each bomb is told by its right name."""

from __future__ import annotations

import time

import pytest

from tests.attacks.conftest import only_privileged
from tests.attacks.test_limits import BOMB, RAW

ASKED = 60

MEMORY = "hoard = []\nwhile True: hoard.append(bytearray(os.urandom(1 << 16)) * 16)"

TWO = """
import threading, time
said = {{}}
def bomb(name, explode):
    try:
        explode()
    except OSError as error:
        said[name] = _errno.errorcode[error.errno]
    finally:
        over[name].set()
{bombs}
over = {{name: threading.Event() for name in bombs}}
for each in bombs.items(): threading.Thread(target=bomb, args=each, daemon=True).start()
"""

DISK = """
file = open('/sandbox/fill', 'wb', buffering=0)
def fill():
    over['inodes'].wait()  # or it would be the blocks of a directory that run out
    while True: file.write(bytes(1 << 12))
def crowd():
    os.makedirs('/sandbox/crowd', exist_ok=True)
    for number in range(100_000): os.close(os.open(f'/sandbox/crowd/{number}', os.O_CREAT))
bombs = {'disk': fill, 'inodes': crowd}
"""

DESCRIPTORS = """
held = []
def files():
    try:
        while True: held.append(os.open('/dev/null', 0))
    finally:
        for each in held: os.close(each)
def shared():
    with open('/dev/shm/fill', 'wb', buffering=0) as file:
        while True: file.write(bytes(1 << 16))
bombs = {'shm': shared, 'descriptors': lambda: (over['shm'].wait(), files())}
"""

NOISE = (
    RAW
    + """
for _ in range(8):
    if os.fork() == 0:
        while True: pass
end = time.monotonic() + {seconds}
while time.monotonic() < end: os.write(raw, b'x' * 65536)
os.write(raw, b'the end of the noise\\n')
os._exit(3)
"""
)


def p95(waits: list[float]) -> float:
    return sorted(waits)[int(len(waits) * 0.95)]


@pytest.mark.slow
@pytest.mark.timeout(240)
@only_privileged
def test_all_bombs_at_once_leave_a_fifth_owner_served_and_have_their_names(host, claim):
    forks, disks, descriptors, noise, bystander = (claim() for _ in range(5))
    broker = host.broker_pid()

    def served() -> list[float]:
        waits = []
        for number in range(ASKED):
            began = time.perf_counter()
            assert bystander.ask(f"{number} + 1") == number + 1
            waits.append(time.perf_counter() - began)
        return waits

    quiet = served()
    noise.execute("import time")
    noise.submit(NOISE.format(seconds=6))
    disks.submit(TWO.format(bombs=DISK))
    descriptors.submit(TWO.format(bombs=DESCRIPTORS))
    forks.execute(BOMB.format(detach=False), timeout=10)
    forks.submit(MEMORY)
    loud = served()
    print(f"a bystander's p95: {p95(quiet) * 1000:.1f} ms alone, {p95(loud) * 1000:.1f} ms beside eight bombs")

    end = forks.end(60)
    assert end is not None
    assert (end["reason"], "256 MiB of memory" in end["message"]) == ("memory", True), end
    code = "for each in over.values(): each.wait(30)\nspace = os.statvfs('/sandbox')\n"
    assert disks.probe(code + "tell([said, space.f_bavail * space.f_frsize < 1 << 17, space.f_favail])", 60) == [
        {"disk": "ENOSPC", "inodes": "ENOSPC"},
        True,
        0,
    ]
    code = "for each in over.values(): each.wait(30)\ntell(said)"
    assert descriptors.probe(code, 60) == {"shm": "ENOSPC", "descriptors": "EMFILE"}
    end = noise.end(60)
    assert end is not None
    assert (end["reason"], end["status"]) == ("failed", 3), end
    assert "the end of the noise" in end["message"]
    assert len(end["message"]) < 1500
    assert host.broker_pid() == broker
    assert bystander.ask("6 * 7") == 42
