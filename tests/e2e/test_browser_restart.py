"""JupyterLab in a real browser while its server is killed and started again: it reconnects, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import nbformat
import pytest
from browser import lab
from browser.devtools import BrowserError, chromium_path, start_browser

from tests.e2e.served import free_port
from tests.e2e.test_browser import SERVER_STOP_TIMEOUT_S, TOKEN, _lab_command, _lab_environment, _server_url

NOTEBOOK = "restart.ipynb"
KERNELSPEC = {"name": "sandbox-python", "display_name": "Python 3 (sandbox)", "language": "python"}
COUNT = "n = globals().get('n', 0) + 1"
WAIT = """import os, time
print('started')
while n == 1 and not os.path.exists('/sandbox/go'): time.sleep(0.05)
print('n is', n)"""
_KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
RECONNECT_S = 120
"""JupyterLab waits longer after each try, up to a minute."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed (apt install chromium)"),
]


class Lab:
    """JupyterLab at one port, started again and again."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch, self.port = folder, scratch, free_port()
        self.environment = _lab_environment(scratch)
        self.log = scratch / "lab.log"

    def start(self) -> None:
        command = [part.replace("port=0", f"port={self.port}") for part in _lab_command(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.url = _server_url(self.process, self.scratch / "runtime", self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(SERVER_STOP_TIMEOUT_S)
        finally:
            self.kill()

    def ask(self, method: str, path: str, body: bytes | None = None):
        request = urllib.request.Request(
            f"{self.url}{path}", data=body, method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None


async def visit(server: Lab, screenshots: Path) -> tuple[list[lab.Cell], list[lab.Cell]]:
    """Run both cells, kill and start the server meanwhile, run them again; return what was seen both times."""
    async with start_browser() as browser:
        page = await browser.open_page()
        try:
            await lab.open_notebook(page, server.url, NOTEBOOK, token=TOKEN)
            running = asyncio.create_task(lab.run_all(page))
            # Not the kernel's status: once it was not busy within 30 s, and why is not known.
            await page.wait_until(f"({lab._CELLS})[1].outputs.length > 0", timeout_s=30)
            await asyncio.to_thread(server.kill)
            await page.wait_until(f"{_KERNEL}.connectionStatus !== 'connected'", timeout_s=30)
            await asyncio.to_thread(server.start)
            await page.wait_until(f"{_KERNEL}.connectionStatus === 'connected'", timeout_s=RECONNECT_S)
            (sandbox,) = (await asyncio.to_thread(server.ask, "GET", "api/sandboxes"))["sandboxes"]
            await asyncio.to_thread(server.ask, "PUT", f"api/sandboxes/{sandbox['id']}/files/go", b"")
            first = await running
            await lab.screenshot(page, screenshots, "restart")
            return first, await lab.run_all(page)
        except BrowserError as error:
            await page.screenshot(screenshots / "restart-failed.png")
            seen, log = lab.as_json(await lab.cells(page)), server.log.read_text(errors="replace")
            raise AssertionError(f"{error}\nThe cells: {seen}\nJupyterLab said:\n{log[-4000:]}") from error


def test_jupyterlab_reconnects_to_its_kernel_when_its_server_was_killed(tmp_path, sandbox_dir):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (COUNT, WAIT)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC}), folder / NOTEBOOK)
    server = Lab(folder, tmp_path)
    server.start()
    try:
        first, second = asyncio.run(visit(server, Path(os.environ.get("JUPYTER_SANDBOX_SCREENSHOTS") or tmp_path)))
    finally:
        server.stop()
    assert "n is 1" in first[1].text, "the cell went on"
    assert "anew while this ran" in first[1].stderr
    assert (second[1].text, second[1].stderr) == ("started\nn is 2\n", ""), "the variable lives"
