"""Uploads that are killed midway: `python -m tests.chaos.uploads --count 1000`. The old file or the new one, and nothing else.

The client hangs up, has its connection reset, or is killed; now and then it is the server that is killed, while the file comes or when
all of it is there.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import time

from tests.chaos import by_hand
from tests.chaos.actions import MARKER, Chaos
from tests.chaos.history import Violation
from tests.chaos.system import System
from tests.conftest import wait_until
from tests.faults.servers import TOKEN

WAYS = ("hung up", "reset", "killed")
MOST_BYTES = 3 << 20
SERVER_EACH = 25
"""Of so many uploads one takes the server with it, which then starts anew: that takes seconds."""


class Uploads:
    """Uploads to one sandbox that do not come to their end."""

    def __init__(self, chaos: Chaos, chance: random.Random) -> None:
        self._chaos, self._chance = chaos, chance
        if not chaos.history.sandboxes:
            chaos.act("claim", 0)
        self._sandbox_id = next(iter(chaos.history.sandboxes))
        self._sandbox = chaos.history.sandboxes[self._sandbox_id]
        self.ways: collections.Counter[str] = collections.Counter()

    def one(self, *, kills_server: bool) -> None:
        """Begin to write a file, kill what is at it, and read the file."""
        name, content = (
            f"file{self._chance.randrange(4)}",
            self._chance.randbytes(self._chance.randrange(2, MOST_BYTES)),
        )
        sent = self._chance.randrange(1, len(content))
        if kills_server:
            sent = self._chance.choice((sent, len(content)))
            self.ways["server killed"] += 1
            if sent == len(content):
                self._chaos.history.may_have_written(self._sandbox, name, content)
            client = self._begin(name, content, sent)
            time.sleep(self._chance.uniform(0, 0.03))
            self._chaos.kill("server")
            client.close()
        else:
            way = self._chance.choice(WAYS)
            self.ways[way] += 1
            self._cut(way, name, content, sent)
        self._look(name)

    def whole(self) -> None:
        """Write a file to its end: the next one is killed over it."""
        self._chaos.upload(self._chance.randrange(1 << 20))

    def _begin(self, name: str, content: bytes, sent: int) -> socket.socket:
        address = self._chaos.system.address
        client = socket.create_connection((address.hostname, address.port))
        head = f"PUT /api/sandboxes/{self._sandbox_id}/files/{name} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: token {TOKEN}\r\nContent-Length: {len(content)}\r\n\r\n"
        client.sendall(head.encode() + content[:sent])
        return client

    def _cut(self, way: str, name: str, content: bytes, sent: int) -> None:
        if way == "killed":
            url = f"{self._chaos.system.server.url}api/sandboxes/{self._sandbox_id}/files/{name}"
            headers = ("-H", f"Authorization: token {TOKEN}", "-H", "Expect:")
            client = subprocess.Popen(
                ["curl", "-s", "-T", "-", *headers, url], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            assert client.stdin is not None
            client.stdin.write(content[:sent])
            time.sleep(self._chance.uniform(0, 0.02))
            client.kill()
            client.communicate()
            return
        with self._begin(name, content, sent) as client:
            if way == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _look(self, name: str) -> None:
        answer = self._chaos.system.request("GET", self._sandbox_id, "files", name, download="1")
        found = answer.body if answer.status == 200 else None
        self._chaos.history.read(self._sandbox, name, found)
        self._sandbox.files[name] = {found}  # nobody writes any more
        listing = self._chaos.system.request("GET", self._sandbox_id, "files", "").body["entries"]
        strange = {entry["name"] for entry in listing} - {MARKER, *(f"file{number}" for number in range(4))}
        if strange:
            raise Violation(f"the sandbox holds {sorted(strange)}")


def on_host(system: System) -> set[str]:
    """The files of server and broker on the host, but for logs."""
    paths = (path for path in system.tree.directory.rglob("*") if path.is_file())
    return {
        str(path) for path in paths if path.suffix not in {".log", ".slate", ".jsonl"} and "ledger" not in path.parts
    }


def deleted(system: System) -> list[str]:
    """Files without a name that the server holds."""
    found = []
    for number in os.listdir(f"/proc/{system.server.process.pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{system.server.process.pid}/fd/{number}"))
    return [path for path in found if path.startswith("/") and path.endswith("(deleted)")]


def run(chaos: Chaos, count: int, chance: random.Random, *, server_each: int = SERVER_EACH) -> str:
    """Kill `count` uploads; return what is to be said of it."""
    uploads = Uploads(chaos, chance)
    uploads.whole()
    host = on_host(chaos.system)
    for number in range(1, count + 1):
        if chance.random() < 0.1:
            uploads.whole()
        uploads.one(kills_server=number % server_each == 0)
    wait_until(lambda: not deleted(chaos.system))
    left = {path for path in on_host(chaos.system) - host if "/jpserver-" not in path}
    if left:
        raise Violation(f"left on the host: {sorted(left)}")
    return f"{uploads.ways.total()} uploads {dict(uploads.ways)}"


if __name__ == "__main__":
    promise = "each file was the old one or the new one, whole, and nothing is left"
    sys.exit(by_hand.counted(__doc__, 1000, run, promise))
