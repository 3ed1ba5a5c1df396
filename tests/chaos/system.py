"""The real system under test: a broker, a Jupyter server in a process of its own, and a hand to kill what they are made of.

Everything is synchronous: one step after the other is what a history is made of.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.errors import BrokerUnavailableError
from tests.chaos.clock import WallClock
from tests.chaos.dockerd import Dockerd
from tests.conftest import broker_pid, stop_broker, wait_until
from tests.faults.conftest import Tree, sandboxes
from tests.faults.servers import TOKEN, Server

READY_S = 60
TIMEOUT_S = 3600
"""A sandbox's time: as long as a step of the clock."""
SMALL = "min_idle = 2\nmax_total = 6\n[limits]\nmemory_mib = 512\ndisk_mib = 24\ndisk_inodes = 2048\n"
SERVER = """
import logging
c.EventLogger.handlers = [logging.FileHandler({audit!r})]
c.SandboxExtension.sandbox_timeout_s = {timeout_s}
"""


@dataclass(frozen=True)
class Answer:
    """An answer over REST."""

    status: int
    body: Any
    retry_after: str | None = None

    @property
    def code(self) -> str:
        return self.body["code"] if self.status >= 400 else ""

    @property
    def printed(self) -> str:
        """What an execution printed."""
        return "".join(each.get("text", "") for each in self.body["outputs"] if each["output_type"] == "stream")


class System:
    """A server and its broker, with a wall clock and a container engine of their own or without."""

    def __init__(
        self, directory: Path, templates: Mapping[str, str], clock: WallClock | None, dockerd: Dockerd | None
    ) -> None:
        self.tree, self.clock, self.dockerd = Tree(directory), clock, dockerd
        for name, text in {"small": SMALL, **templates}.items():
            self.tree.template(name, text)
        self.audit = directory / "audit.jsonl"
        (directory / "config/jupyter_server_config.py").write_text(
            SERVER.format(audit=str(self.audit), timeout_s=TIMEOUT_S)
        )
        (directory / "server").mkdir()
        self.server = Server(self.tree, directory / "server", "--ServerApp.log_level=ERROR")

    @contextlib.contextmanager
    def running(self) -> Iterator[System]:
        """The broker first, then the server; at the end nothing may be left."""
        self.tree.use()
        self.tree.start()
        self.start_server()
        try:
            self.ready()
            yield self
            assert self.server.process.poll() is None, self.server.said()
        finally:
            self.server.close()
        stop_broker()
        self.tree.assert_nothing_left(20)

    def request(self, method: str, *parts: str, body: object = None, raw: bytes | None = None, **query: str) -> Answer:
        """Ask over REST."""
        address = self.address
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=READY_S)
        data = raw if raw is not None else None if body is None else json.dumps(body)
        path = "/".join(("/api/sandboxes", *parts)) + ("?" + "&".join(f"{k}={v}" for k, v in query.items())) * bool(
            query
        )
        try:
            connection.request(method, path, data, {"Authorization": f"token {TOKEN}"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get_content_type() == "application/json" and not query
        model = json.loads(content) if is_json and content else content
        return Answer(answer.status, model, answer.headers["Retry-After"])

    def half_upload(self, sandbox_id: str, name: str, total: int, sent: int) -> None:
        """Begin to write a file, and go away in the middle."""
        head = f"PUT /api/sandboxes/{sandbox_id}/files/{name} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: token {TOKEN}\r\nContent-Length: {total}\r\n\r\n"
        with socket.create_connection((self.address.hostname, self.address.port)) as client:
            client.sendall(head.encode() + secrets.token_bytes(sent))

    def audited(self, kind: str) -> list[str]:
        """The sandboxes of all events of a kind."""
        events = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [each["sandbox_id"] for each in events if each["__schema__"].endswith(f"/{kind}/v1")]

    def server_clock(self) -> datetime:
        """What time it is to the server."""
        connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=READY_S)
        with contextlib.closing(connection):
            connection.request("GET", "/api/sandboxes/healthz")
            return parsedate_to_datetime(connection.getresponse().headers["Date"])

    @property
    def address(self) -> SplitResult:
        """Where the server listens."""
        return urlsplit(self.server.url)

    def start_server(self) -> None:
        """Start the server, always at the same place, and wait until it answers."""
        self.server.spawn()
        info = self.server.runtime / f"jpserver-{self.server.process.pid}.json"

        def answers() -> bool:
            assert self.server.process.poll() is None, self.server.said()
            with contextlib.suppress(OSError, ValueError):
                self.server.url = json.loads(info.read_text())["url"]
                return self.request("GET", "healthz").status == 200
            return False

        wait_until(answers, READY_S)

    def ready(self) -> None:
        """Wait until sandboxes can be claimed; asking starts a broker where nobody else needs one."""
        wait_until(lambda: self.request("GET", "readyz").status == 200 and broker_pid() is not None, READY_S)

    def listed(self) -> set[str]:
        """The sandboxes that the server knows."""
        found, query = set(), {}
        while True:
            answer = self.request("GET", **query) if query else self.request("GET")
            page = answer.body if isinstance(answer.body, dict) else json.loads(answer.body)
            found |= {each["id"] for each in page["sandboxes"]}
            if page["next"] is None:
                return found
            query = {"cursor": page["next"]}

    def owned(self) -> set[str]:
        """The sandboxes that the broker knows; none while there is no broker."""
        try:
            return set(sandboxes())
        except BrokerUnavailableError:
            return set()

    def orphans(self) -> set[int]:
        """Workers that no record names."""
        return set(self.tree.agents()) - {record.get("pid") for record in self.tree.records().values()}

    # -- what can be killed

    def record(self, sandbox_id: str) -> dict[str, Any]:
        """What the ledger says of a sandbox."""
        return self.tree.records()[sandbox_id]

    def kill_server(self) -> bool:
        """As a crash would; nobody starts another. True: it was there."""
        assert self.server.process.poll() is None, self.server.said()
        self.server.process.kill()
        self.server.process.wait()
        return True

    def kill_broker(self) -> bool:
        """As a crash would; the server starts another when it notices. True: it was there."""
        self.tree.kill_broker()
        return True

    def kill_agent(self, sandbox_id: str) -> None:
        """End a worker as a whole."""
        os.kill(self.record(sandbox_id)["pid"], signal.SIGKILL)

    def kill_zygote(self) -> bool:
        """The processes that fork workers; others are started when they are needed. Whether there was one."""
        broker, killed = broker_pid(), 0
        for pid in children(broker) if broker else []:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "sandbox-zygote":
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed > 0

    def kill_dockerd(self) -> bool:
        """The container engine, which somebody starts again, as an operator's system does. True: it was there."""
        assert self.dockerd is not None
        self.dockerd.restart()
        return True

    def kill_kernel(self, sandbox_id: str, inner_pid: int) -> None:
        """One kernel of a sandbox, by its pid inside."""
        for pid in children(self.record(sandbox_id)["pid"]):
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                numbers = next(line for line in lines if line.startswith("NSpid:")).split()
                if int(numbers[-1]) == inner_pid:
                    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextlib.contextmanager
def a_system(*, with_clock: bool = False, dockerd: Dockerd | None = None, **templates: str) -> Iterator[System]:
    """A system in a directory of its own, with templates by name; the environment is as before afterwards.

    `with_clock`: with a wall clock that can be set. `dockerd`: the container engine, which may be killed.
    """
    before = dict(os.environ)
    os.environ.setdefault(ENGINE_VARIABLE, "embedded")
    directory = Path(tempfile.mkdtemp(prefix="jsbc", dir="/tmp"))
    directory.chmod(0o755)
    clock = WallClock(directory) if with_clock else None
    os.environ.update(clock.environment if clock else {})
    system = System(directory, templates, clock, dockerd)
    try:
        with system.running():
            yield system
    finally:
        system.tree.close()
        shutil.rmtree(directory, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)
