"""A newcomer's first minute: JupyterLab in a real browser runs the first notebook in a sandbox.

The notebook is run once; each test states one fact of what was then to be seen. The screenshot is kept in pytest's
temporary directory, or in $JUPYTER_SANDBOX_SCREENSHOTS.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import lab
from browser.devtools import BrowserError, chromium_path, start_browser

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = "first.ipynb"
TOKEN = "first-minute"
SERVER_START_TIMEOUT_S = 60
SERVER_STOP_TIMEOUT_S = 30

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(420),  # the first test pays for the server, the browser and the whole run
    pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed (apt install chromium)"),
]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What the newcomer saw, and the folder the notebook lay in."""

    cells: dict[str, lab.Cell]
    rendered: lab.Rendered
    slider_before: str
    slider_after: str
    folder: Path
    screenshot: Path


def _lab_command(folder: Path) -> list[str]:
    """As `make run` starts it, but on a free port and with a door for the browser driver."""
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ServerApp.answer_yes=True",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={TOKEN}",
        f"--LabApp.default_url=/lab/tree/{NOTEBOOK}",
        "--MultiKernelManager.default_kernel_name=sandbox-python",
        "--expose-app-in-browser",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]


def _lab_environment(scratch: Path) -> dict[str, str]:
    """A person who has never used JupyterLab, and who has already said no to its news."""
    settings = scratch / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    return {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
    }


def _server_url(process: subprocess.Popen[bytes], runtime_dir: Path, log: Path) -> str:
    """The address the server writes into its runtime directory once it listens."""
    info_file = runtime_dir / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + SERVER_START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if info_file.exists() and (text := info_file.read_text()).rstrip().endswith("}"):
            return json.loads(text)["url"]
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def running_lab(folder: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab's address for the length of the block; afterwards it is stopped as Ctrl-C stops it."""
    log = scratch / "lab.log"
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            _lab_command(folder),
            cwd=folder,
            env=_lab_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _server_url(process, scratch / "runtime", log)
    except BrowserError as error:
        raise AssertionError(f"{error}\nJupyterLab said:\n{log.read_text(errors='replace')[-4000:]}") from error
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(SERVER_STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()


async def _visit(server_url: str, folder: Path, screenshots: Path) -> Visit:
    async with start_browser() as browser:
        page = await browser.open_page()
        try:
            await lab.open_notebook(page, server_url, NOTEBOOK, token=TOKEN)
            cells = await lab.run_all(page)
            rendered = await lab.wait_for_rendered(page, images=2, sliders=1)
            screenshot = await lab.screenshot(page, screenshots, "first")
            slider_before = await lab.slider_value(page)
            await lab.move_slider(page)
            slider_after = await lab.slider_value(page)
        except BrowserError:
            await page.screenshot(screenshots / "first-failed.png")
            raise
    return Visit(
        cells={cell.id: cell for cell in cells},
        rendered=rendered,
        slider_before=slider_before,
        slider_after=slider_after,
        folder=folder,
        screenshot=screenshot,
    )


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory, sandbox_dir: Path) -> Visit:
    # sandbox_dir: the server inherits its broker's place from the environment.
    scratch = tmp_path_factory.mktemp("browser")
    folder = Path(shutil.copytree(EXAMPLES, scratch / "examples"))
    screenshots = Path(os.environ.get("JUPYTER_SANDBOX_SCREENSHOTS") or scratch)
    screenshots.mkdir(parents=True, exist_ok=True)
    with running_lab(folder, scratch) as server_url:
        return asyncio.run(_visit(server_url, folder, screenshots))


def test_the_kernel_is_the_sandbox(visit: Visit) -> None:
    assert visit.rendered.kernel == "Python 3 (sandbox)"
    text = visit.cells["where-code"].text
    assert "Linux" in text
    assert "uid=" in text
    assert "disk of /sandbox:" in text
    assert str(visit.folder) not in text


def test_every_cell_ran_in_order(visit: Visit) -> None:
    counts = [cell.execution_count for cell in visit.cells.values() if cell.type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "All done" in visit.cells["last-code"].text


def test_only_the_cell_that_should_fails(visit: Visit) -> None:
    failed = [cell.id for cell in visit.cells.values() if any(out["output_type"] == "error" for out in cell.outputs)]
    assert failed == ["error-code"]


def test_no_cell_complains_on_stderr(visit: Visit) -> None:
    assert {cell.id: text for cell in visit.cells.values() if (text := cell.stderr)} == {}


def test_the_file_beside_the_notebook_is_read(visit: Visit) -> None:
    assert "36 rows" in visit.cells["data-code"].text
    assert visit.cells["data-code"].has("text/html")


def test_the_plot_is_shown(visit: Visit) -> None:
    assert visit.cells["plot-code"].has("image/png")
    assert visit.rendered.images >= 2  # the plot, and the one below the slider


def test_the_slider_is_shown_and_answers(visit: Visit) -> None:
    assert visit.cells["widget-code"].has("application/vnd.jupyter.widget-view+json")
    assert visit.rendered.sliders == 1
    assert visit.rendered.widget_images == 1
    assert (visit.slider_before, visit.slider_after) == ("3", "4")


def test_a_written_file_stays_in_the_sandbox(visit: Visit) -> None:
    assert "Elmford" in visit.cells["write-code"].text
    assert not (visit.folder / "summary.csv").exists()


def test_there_is_no_network(visit: Visit) -> None:
    assert visit.cells["network-code"].text.startswith("No network:")


def test_the_traceback_is_shown(visit: Visit) -> None:
    assert "ZeroDivisionError" in visit.cells["error-code"].text
    assert any("ZeroDivisionError" in text and "mm_per_day" in text for text in visit.rendered.errors)


def test_the_screenshot_is_kept(visit: Visit) -> None:
    assert visit.screenshot.stat().st_size > 20_000
