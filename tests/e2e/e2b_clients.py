"""What tests with E2B's SDKs share: a server that they find, and a loop for the asynchronous one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib

import pytest

from tests.e2e.served import Served


@contextlib.contextmanager
def a_server(folder):
    """A server, and the settings that lead E2B's SDK to it."""
    server = Served(folder, "--min-idle-workers=1", "--max-total-workers=6")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2B_API_URL", f"{server.url}/e2b")
        patch.setenv("E2B_SANDBOX_URL", f"{server.url}/e2b/sbx")
        patch.setenv("E2B_API_KEY", server.token)
        yield server
    server.stop()


def in_a_loop(use):
    """Run a coroutine in a loop of its own: pytest-jupyter has one in this thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, use()).result()
