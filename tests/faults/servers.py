"""A Jupyter server in a process of its own that is killed and started anew, always at the same place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from tests.server.notebook import Notebook

TOKEN = "operator"
START_S = 60
KERNELSPECS = Path(__file__).resolve().parents[2] / "kernelspecs"


class Server:
    """Everything that one operator would keep over restarts: directories, configuration, name."""

    def __init__(self, tree, folder: Path, *options: str) -> None:
        self._tree, self.folder, self.options = tree, folder, options
        self.runtime = folder / "runtime"
        (folder / "root").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.starts = 0

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
            *("--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}"),
            *(f"--ServerApp.root_dir={self.folder / 'root'}", "--ServerApp.jpserver_extensions=jupyter_sandbox=True"),
            *self.options,
        ]

    def spawn(self) -> None:
        """Start it, without waiting."""
        self.starts += 1
        environment = os.environ | self._tree.environment | {"JUPYTER_RUNTIME_DIR": str(self.runtime)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), env=environment, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    @property
    def log(self) -> Path:
        return self.folder / f"server{self.starts}.log"

    def slate(self) -> str:
        """What it has written down of executions that are under way."""
        return "".join(path.read_text() for path in self.runtime.glob("*.slate"))

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await asyncio.to_thread(self.spawn)
        deadline = time.monotonic() + START_S
        while True:
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            info = self.runtime / f"jpserver-{self.process.pid}.json"
            try:
                self.url = json.loads(info.read_text())["url"]
                await self.ask("GET", "api/sandboxes/healthz")
            except (OSError, ValueError):
                await asyncio.sleep(0.02)
            else:
                return

    async def end(self, number: int = signal.SIGKILL) -> int:
        """End it by a signal and wait for that."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.wait()

    async def restart(self, number: int = signal.SIGKILL) -> None:
        await self.end(number)
        await self.start()

    async def wait(self) -> int:
        """Wait until it has ended by itself."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 40)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask for something; fails unless the answer has that status, or is none of a failure."""
        try:
            response = await AsyncHTTPClient().fetch(
                self.url + path,
                method=method,
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"token {TOKEN}"} | (headers or {}),
                allow_nonstandard_methods=True,
                raise_error=False,
                request_timeout=60,
            )
        except HTTPClientError as error:
            raise ConnectionError(str(error)) from error
        expected = response.code < 400 if status is None else response.code == status
        assert expected, (response.code, response.body, self.said())
        return json.loads(response.body) if response.body else None

    async def notebook(self, kernel_id: str, session: str | None = None) -> Notebook:
        """Open a kernel's websocket as a notebook with that session's id."""
        session = session or uuid.uuid4().hex
        address = f"{self.url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels?session_id={session}"
        request = HTTPRequest(address, headers={"Authorization": f"token {TOKEN}"})
        notebook = Notebook(await websocket_connect(request), None)
        notebook.kernel_id, notebook.session_id = kernel_id, session
        return notebook


async def notebook_session(server, name: str = "a.ipynb") -> dict:
    """A session as JupyterLab makes one when a notebook is opened."""
    model = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "sandbox-python"}}
    return await server.ask("POST", "api/sessions", model)


async def claimed(server, key: str | None = None, **wanted) -> dict:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await server.ask("POST", "api/sandboxes", {"template": "python", **wanted}, headers=headers)


async def context_in(server, sandbox: str, **wanted) -> str:
    contexts = f"api/sandboxes/{sandbox}/contexts"
    return (await server.ask("POST", contexts, {"language": "python", **wanted}))["id"]


async def run(server, sandbox: str, context: str, code: str, **wanted) -> dict:
    path = f"api/sandboxes/{sandbox}/contexts/{context}/executions"
    return await server.ask("POST", path, {"code": code, **wanted})


WAIT = """
import os, time
print("begun", flush=True)
while not os.path.exists("/sandbox/go"):
    time.sleep(0.01)
print("done")
"""


async def go(server, sandbox: str) -> None:
    """Let code that waits in a sandbox go on."""
    await server.ask("PUT", f"api/sandboxes/{sandbox}/files/go", "")


async def is_busy(server, kernel_id: str) -> bool:
    return (await server.ask("GET", f"api/kernels/{kernel_id}"))["execution_state"] == "busy"
