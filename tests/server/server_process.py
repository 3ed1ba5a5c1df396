"""A Jupyter server in a process of its own, as an operator starts it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from tornado.httpclient import AsyncHTTPClient

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "operator"
TIMEOUT_S = 50


def command(folder: Path, *more: str) -> list[str]:
    """How the server is started."""
    return [
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"),
        *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--allow-root", *more),
    ]


@contextmanager
def a_server(tree, folder: Path, *more: str, log: Path | None = None):
    """A server in a process of its own, as an operator starts it; yields the process and its address.

    What it writes goes to `log`, or is shown when it does not start.
    """
    runtime = folder / "runtime"
    environment = tree.environment() | {"JUPYTER_RUNTIME_DIR": str(runtime)}
    with log.open("wb") if log else nullcontext(subprocess.PIPE) as said:
        process = subprocess.Popen(
            command(folder, *more), env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=said
        )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while (info := _told(runtime)) is None:
            assert process.poll() is None, log.read_text() if log else process.stderr.read().decode()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        while not _listens(info["port"]):  # the file is there a moment before
            assert process.poll() is None, log.read_text() if log else process.stderr.read().decode()
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)
        yield process, info["url"]
    finally:
        process.kill()
        process.communicate()


def _told(runtime: Path) -> dict | None:
    """What the server tells of itself in a file, once that is whole."""
    for path in runtime.glob("jpserver-*.json"):
        with suppress(json.JSONDecodeError):
            return json.loads(path.read_text())
    return None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def request(url: str, method: str = "GET", body: object = None):
    headers = {"Authorization": f"token {TOKEN}"}
    text = None if body is None else json.dumps(body)
    response = await AsyncHTTPClient().fetch(url, method=method, body=text, headers=headers, request_timeout=TIMEOUT_S)
    return json.loads(response.body) if response.body else None
