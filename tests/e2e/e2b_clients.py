"""What tests with E2B's SDKs share beside a server that they find: a loop for the asynchronous one."""

from __future__ import annotations

import asyncio
import concurrent.futures


def in_a_loop(use):
    """Run a coroutine in a loop of its own: pytest-jupyter has one in this thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, use()).result()
