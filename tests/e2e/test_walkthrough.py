"""The walk-through in `examples/`: the script drives a sandbox over REST while a browser works in the same kernel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from browser import lab
from browser.devtools import BrowserError, chromium_path, start_browser

from tests.e2e.test_browser import EXAMPLES, TOKEN, running_lab
from tests.server.brokers import nothing_is_claimed

NOTEBOOK = "walkthrough.ipynb"
RUNNING = """Array.from(document.querySelectorAll('#jp-running-sessions .jp-RunningSessions-itemLabel'))
    .map(node => node.innerText)"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed (apt install chromium)"),
    pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed (apt install curl)"),
]


class Script:
    """`walkthrough.sh` with what it says."""

    def __init__(self, url: str, folder: Path) -> None:
        environment = os.environ | {"URL": url, "TOKEN": TOKEN}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen([str(EXAMPLES / "walkthrough.sh")], cwd=folder, env=environment, **pipes)
        self.said = ""

    def until(self, words: str) -> str:
        while words not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        return self.said

    def press_enter(self) -> str:
        """Go on to the end; return all that it said."""
        more, _ = self.process.communicate("\n", timeout=60)
        self.said += more
        assert self.process.returncode == 0, self.said
        return self.said

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]


async def work_in_the_browser(url: str, screenshots: Path):
    """Open the notebook, run its cells; return them, and what is listed as running."""
    async with start_browser() as browser:
        page = await browser.open_page()
        try:
            await lab.open_notebook(page, url, NOTEBOOK, token=TOKEN)
            cells = await lab.run_all(page)
            await page.evaluate("void window.jupyterapp.shell.activateById('jp-running-sessions')")
            await page.wait_until(f"({RUNNING}).includes({json.dumps(NOTEBOOK)})", timeout_s=30)
            await lab.screenshot(page, screenshots, "walkthrough")
            return {cell.id: cell for cell in cells}
        except BrowserError:
            await page.screenshot(screenshots / "walkthrough-failed.png")
            raise


def kernels(url: str) -> list[dict]:
    request = urllib.request.Request(f"{url}api/kernels", headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def test_a_person_in_jupyterlab_and_a_program_work_in_one_kernel(tmp_path, sandbox_dir):
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "examples"))
    screenshots = Path(os.environ.get("JUPYTER_SANDBOX_SCREENSHOTS") or tmp_path)
    (tmp_path / "here").mkdir()
    with running_lab(folder, tmp_path) as url:
        script = Script(url, tmp_path / "here")
        try:
            script.until("Then press Enter here.")
            (kernel,) = kernels(url)
            cells = asyncio.run(work_in_the_browser(url, screenshots))
            assert [each["id"] for each in kernels(url)] == [kernel["id"]], "the notebook has no kernel of its own"
            assert cells["found-code"].text == "The script left 36 rows and the town Elmford.\n"
            assert cells["look-code"].has("text/html")
            assert cells["change-code"].has("image/png")
            said = script.press_enter()
        finally:
            script.process.kill()
            script.process.wait()
        assert kernels(url) == [], "it is released"
        printed = [event["output"]["text"] for event in script.events() if event["type"] == "output"]
        assert "".join(printed) == "36 rows\nplotted Saltby\n", said
        assert re.findall(r"^(\d)\. ", said, re.MULTILINE) == list("12345")
        assert (tmp_path / "here/plot.png").read_bytes().startswith(b"\x89PNG\r\n")
        asyncio.run(nothing_is_claimed())


def test_the_notebook_alone_says_that_nothing_is_there(tree, run_module, tmp_path):
    shutil.copy(EXAMPLES / NOTEBOOK, tmp_path)
    done = run_module("nbconvert", "--to", "notebook", "--execute", "--output", "out.ipynb", NOTEBOOK)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "out.ipynb").read_text())["cells"][1]
    assert "Nothing is here yet" in "".join(first["outputs"][0]["text"])
