"""Chromium without a head, driven through its DevTools protocol.

It knows processes, pages and screenshots; it refuses to know Jupyter. No driver program and no package are needed
beyond chromium itself and tornado's websocket client.

Rules: the browser starts with an empty profile in a directory of its own, talks to nobody by itself, and every wait
has a timeout. Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tornado.websocket import WebSocketClientConnection

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # a screenshot of a long page, in base64

FLAGS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class BrowserError(Exception):
    """The browser did not start, did not answer, or a page raised."""


def chromium_path() -> str | None:
    """Where chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def chromium_command(executable: str, profile_dir: Path) -> list[str]:
    """The whole command line; chromium refuses its own sandbox to root, so root goes without."""
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else [*FLAGS]
    return [executable, *flags, f"--user-data-dir={profile_dir}", "about:blank"]


class Page:
    """One tab. Made by `Browser.open_page`."""

    def __init__(self, browser: Browser, session_id: str) -> None:
        self._browser = browser
        self._session_id = session_id

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one protocol command to this tab and return its result."""
        return await self._browser.call(method, session_id=self._session_id, **params)

    async def resize(self, width_px: int, height_px: int) -> None:
        """Give the tab a window of this size; a tall one makes JupyterLab render every cell."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width_px, height=height_px, deviceScaleFactor=1, mobile=False
        )

    async def go(self, url: str) -> None:
        """Start loading `url`."""
        result = await self.call("Page.navigate", url=url)
        if result.get("errorText"):
            raise BrowserError(f"the page did not load: {result['errorText']}")

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; a promise is awaited."""
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    async def wait_until(self, condition: str, *, timeout_s: float, every_s: float = 0.2) -> Any:
        """The first true value of a JavaScript expression; what raises counts as not yet true."""
        last_error = ""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        if value := await self.evaluate(condition):
                            return value
                    except BrowserError as error:  # the page is still loading
                        last_error = str(error)
                    await asyncio.sleep(every_s)
        except TimeoutError:
            raise BrowserError(f"not true within {timeout_s:.0f} s: {condition} {last_error}".strip()) from None

    async def screenshot(self, path: Path) -> Path:
        """Save what the window shows as PNG."""
        result = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(result["data"]))
        return path


class Browser:
    """A connection to a running chromium. Made by `start_browser`."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0

    async def read(self) -> None:
        """Hand every reply to its caller until the connection closes; events are dropped."""
        while (text := await self._connection.read_message()) is not None:
            message = json.loads(text)
            future = self._replies.pop(message.get("id"), None)
            if future and not future.done():
                future.set_result(message)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(BrowserError("the browser closed the connection"))
        self._replies.clear()

    async def call(self, method: str, *, session_id: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one protocol command and return its result."""
        self._last_id += 1
        call_id = self._last_id
        message: dict[str, Any] = {"id": call_id, "method": method, "params": params}
        if session_id:
            message["sessionId"] = session_id
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[call_id] = future
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._connection.write_message(json.dumps(message))
                reply = await future
        except TimeoutError:
            raise BrowserError(f"{method} was not answered within {CALL_TIMEOUT_S:.0f} s") from None
        finally:
            self._replies.pop(call_id, None)
        if "error" in reply:
            raise BrowserError(f"{method}: {reply['error'].get('message')}")
        return reply["result"]

    async def open_page(self) -> Page:
        """A new empty tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        await page.call("Page.enable")
        return page


async def _devtools_url(process: asyncio.subprocess.Process, profile_dir: Path, log: Path) -> str:
    """The websocket address chromium writes into its profile once it listens."""
    port_file = profile_dir / "DevToolsActivePort"
    with suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while process.returncode is None:
                lines = port_file.read_text().splitlines() if port_file.exists() else []
                if len(lines) >= 2:  # port, path
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
                await asyncio.sleep(0.05)
    raise BrowserError(f"chromium did not start:\n{log.read_text(errors='replace')[-2000:]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End chromium and every process of its own process group."""
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await process.wait()  # it was asked to close
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@asynccontextmanager
async def start_browser(executable: str | None = None) -> AsyncIterator[Browser]:
    """A fresh chromium for the length of the block; its processes and its profile are gone afterwards."""
    executable = executable or chromium_path()
    if executable is None:
        raise BrowserError("chromium is not installed (Debian and Ubuntu: apt install chromium)")
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)))
        profile_dir, log = scratch / "profile", scratch / "log"
        with log.open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                *chromium_command(executable, profile_dir),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
        stack.push_async_callback(_end, process)
        url = await _devtools_url(process, profile_dir, log)
        connection = await websocket_connect(
            HTTPRequest(url, connect_timeout=10, request_timeout=10), max_message_size=MAX_MESSAGE_BYTES
        )
        stack.callback(connection.close)
        browser = Browser(connection)
        reader = asyncio.create_task(browser.read())
        stack.callback(reader.cancel)
        try:
            yield browser
        finally:
            with suppress(BrowserError):
                await browser.call("Browser.close")
