"""Run a notebook in JupyterLab, print its outputs, keep a screenshot.

In tests/e2e: `python -m browser SERVER_URL NOTEBOOK TOKEN [DIRECTORY]`
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from browser import lab
from browser.devtools import start_browser


async def main(server_url: str, path: str, token: str, directory: str = ".") -> int:
    async with start_browser() as browser:
        page = await browser.open_page()
        await lab.open_notebook(page, server_url, path, token=token)
        cells = await lab.run_all(page)
        print(lab.as_json(cells))
        print(await lab.rendered(page))
        print(await lab.screenshot(page, Path(directory), Path(path).stem))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
