"""JupyterLab in a browser: open a notebook, run all of it, look at the result.

It knows JupyterLab's page and its application object; it refuses to know kernels and sandboxes. The server must run
with `--expose-app-in-browser`. Outputs are read from the notebook's model (nbformat), what a person sees is read from
the page itself.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from browser.devtools import BrowserError

if TYPE_CHECKING:
    from pathlib import Path

    from browser.devtools import Page

OPEN_TIMEOUT_S = 90.0
RUN_TIMEOUT_S = 180.0
WIDTH_PX = 1300
LAST_NUMBER_TIMEOUT_S = 10.0
HEIGHT_PX = 4200  # taller than the notebook: JupyterLab renders only the cells in view

_PANEL = "window.jupyterapp.shell.currentWidget"
_READY = f"""(() => {{
    const panel = {_PANEL};
    return panel?.context?.isReady && panel.sessionContext?.isReady
        && panel.sessionContext.session?.kernel?.status === 'idle' && panel.content.model.cells.length > 0;
}})()"""
_CELLS = f"""(() => Array.from({_PANEL}.content.model.cells).map(model => ({{
    id: model.id,
    type: model.type,
    source: model.sharedModel.getSource(),
    execution_count: model.executionCount ?? null,
    outputs: model.outputs ? model.outputs.toJSON() : [],
}})))()"""
_HAS_RUN = "cell => cell.type !== 'code' || cell.source === '' || cell.execution_count !== null"
_RENDERED = f"""(() => {{
    const seen = selector => Array.from(document.querySelectorAll(selector)).filter(node => node.offsetHeight > 0);
    const root = '.jp-Notebook ';
    return {{
        images: seen(root + '.jp-OutputArea-output img').filter(node => node.naturalWidth > 1).length,
        sliders: seen(root + '.jupyter-widgets .noUi-handle').length,
        widget_images: seen(root + '.jupyter-widgets img').filter(node => node.naturalWidth > 1).length,
        errors: seen(root + '[data-mime-type="application/vnd.jupyter.stderr"]').map(node => node.innerText),
        busy: seen(root + '.jp-InputPrompt').filter(node => node.innerText.includes('*')).length,
        kernel: {_PANEL}.sessionContext.kernelDisplayName,
    }};
}})()"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell after the run, as the notebook's model holds it."""

    id: str
    type: str
    source: str
    execution_count: int | None
    outputs: list[dict[str, Any]]

    @property
    def text(self) -> str:
        """All text of the outputs, in order: streams, plain text, errors."""
        return "\n".join(_output_text(output) for output in self.outputs)

    @property
    def stderr(self) -> str:
        """What the cell wrote to standard error."""
        return "".join(_output_text(output) for output in self.outputs if output.get("name") == "stderr")

    def has(self, mime_type: str) -> bool:
        """Whether one output carries this type."""
        return any(mime_type in output.get("data", {}) for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What is to be seen on the page."""

    images: int
    sliders: int
    widget_images: int
    errors: list[str]
    busy: int
    kernel: str


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _output_text(output: dict[str, Any]) -> str:
    match output["output_type"]:
        case "stream":
            return _joined(output["text"])
        case "error":
            return "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
        case _:
            return _joined(output["data"].get("text/plain", ""))


def notebook_url(server_url: str, path: str, token: str) -> str:
    """Where JupyterLab shows one notebook, and nothing of an earlier visit (`reset`)."""
    return f"{server_url.rstrip('/')}/lab/tree/{quote(path)}?reset&token={quote(token)}"


async def open_notebook(page: Page, server_url: str, path: str, *, token: str) -> None:
    """Open a notebook and wait until its kernel is idle."""
    await page.resize(WIDTH_PX, HEIGHT_PX)
    await page.go(notebook_url(server_url, path, token))
    await page.wait_until(_READY, timeout_s=OPEN_TIMEOUT_S)


async def run_all(page: Page, *, timeout_s: float = RUN_TIMEOUT_S) -> list[Cell]:
    """Run every cell as *Run All Cells* does and wait until the last one has finished.

    A cell that raises ends the run, unless it has the tag `raises-exception`.
    """
    await page.evaluate(
        "void window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.runFinished = true })"
    )
    await page.wait_until("window.runFinished === true", timeout_s=timeout_s)
    await page.wait_until(f"({_RENDERED}).busy === 0", timeout_s=timeout_s)
    with contextlib.suppress(BrowserError):  # a run that a cell has ended leaves the others without a number
        await page.wait_until(f"({_CELLS}).every({_HAS_RUN})", timeout_s=LAST_NUMBER_TIMEOUT_S)
    return await cells(page)


async def cells(page: Page) -> list[Cell]:
    """The notebook's cells as they are now."""
    return [Cell(**cell) for cell in await page.evaluate(_CELLS)]


async def rendered(page: Page) -> Rendered:
    """What the page shows now."""
    return Rendered(**await page.evaluate(_RENDERED))


async def wait_for_rendered(page: Page, *, images: int, sliders: int, timeout_s: float = 30.0) -> Rendered:
    """Wait until at least so many images and sliders are to be seen; widgets appear a moment after their cell ended."""
    await page.wait_until(
        f"(seen => seen.images >= {images} && seen.sliders >= {sliders})({_RENDERED})", timeout_s=timeout_s
    )
    return await rendered(page)


async def move_slider(page: Page, *, timeout_s: float = 30.0) -> None:
    """Move the first slider one step up by the keyboard and wait until the kernel has drawn the new picture."""
    picture = "document.querySelector('.jp-Notebook .jupyter-widgets img')?.src"
    before = json.dumps(await page.evaluate(picture))
    await page.evaluate("document.querySelector('.jp-Notebook .jupyter-widgets .noUi-handle').focus()")
    for kind in ("keyDown", "keyUp"):
        await page.call(
            "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39
        )
    await page.wait_until(f"(now => now && now !== {before})({picture})", timeout_s=timeout_s)


async def slider_value(page: Page) -> str:
    """What stands beside the first slider."""
    return await page.evaluate("document.querySelector('.jupyter-widgets .widget-readout').innerText")


async def screenshot(page: Page, directory: Path, name: str) -> Path:
    """A screenshot of the whole notebook: the window is cut to the notebook's own height first."""
    height_px = await page.evaluate(
        "(() => { const last = Array.from(document.querySelectorAll('.jp-Notebook .jp-Cell')).at(-1);"
        " return Math.ceil(last.getBoundingClientRect().bottom) + 60; })()"
    )
    await page.resize(WIDTH_PX, max(600, min(int(height_px), HEIGHT_PX)))
    try:
        return await page.screenshot(directory / f"{name}.png")
    finally:
        await page.resize(WIDTH_PX, HEIGHT_PX)


def as_json(cells_: list[Cell]) -> str:
    """The cells' texts for a person or a program that reads standard output."""
    return json.dumps([{"id": cell.id, "count": cell.execution_count, "text": cell.text} for cell in cells_], indent=1)
