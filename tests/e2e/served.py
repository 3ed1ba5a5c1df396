"""A server as `jupyter sandbox serve` starts it, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

COMMAND = (sys.executable, "-m", "jupyter_sandbox.cli", "serve")
START_S = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A server that was started by the command."""

    def __init__(self, folder: Path, *options: str, base_url: str = "") -> None:
        self.port, self.log = free_port(), folder / "log"
        self.token_file = folder / "token"
        scheme = "https" if any(each.startswith("--certificate") for each in options) else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}{base_url}"
        settings = ("--", f"--ServerApp.base_url={base_url}/") if base_url else ()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, f"--port={self.port}", f"--token-file={self.token_file}", *options, *settings],
                stdout=log,
                stderr=log,
                env=os.environ | {"JUPYTER_DATA_DIR": str(folder / "data")},
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        self.token = self.token_file.read_text().strip()

    @property
    def for_e2b(self) -> dict[str, str]:
        """The settings that lead E2B's SDKs here."""
        return {
            "E2B_API_URL": f"{self.url}/e2b",
            "E2B_SANDBOX_URL": f"{self.url}/e2b/sbx",
            "E2B_API_KEY": self.token,
        }

    def _answers(self) -> bool:
        unjudged = ssl._create_unverified_context()  # a certificate is for names
        url = urlsplit(self.url)
        connection = (
            HTTPSConnection(url.netloc, context=unjudged, timeout=START_S)
            if url.scheme == "https"
            else HTTPConnection(url.netloc, timeout=START_S)
        )
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):  # urlopen leaves it open
            connection.request("GET", f"{url.path}/sandbox/try")
            return connection.getresponse().status == 200
        return False

    def ask(self, method, path, body=None, user=None):
        """Status and answer."""
        return self.ask_fully(method, path, body, user)[:2]

    def ask_fully(self, method, path, body=None, user=None):
        """Status, answer and headers."""
        query = f"?{urlencode({'user_uuid': user})}" if user else ""
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}{query}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Auth-Token": self.token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or "null"), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), error.headers

    def execute(self, code, user):
        status, said = self.ask("POST", "execute", {"code": code}, user)
        assert status == 200, said
        return said["result_text"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def served_for_e2b(folder: Path, *options: str, base_url: str = "") -> Iterator[Served]:
    """A server to which the environment of this process leads E2B's SDK."""
    server = Served(folder, *options, base_url=base_url)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.for_e2b.items():
            patch.setenv(name, value)
        yield server
    server.stop()
