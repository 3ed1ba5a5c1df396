"""A watch of a directory, without a sandbox: what its descriptor tells is a pipe's."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest

from jupyter_sandbox.file_watches import FileWatch
from jupyter_sandbox.host import changes
from jupyter_sandbox.host.changes import Change, What
from jupyter_sandbox.host.trees import Found, Tree
from sandbox_worker import linux

pytestmark = pytest.mark.unit

TOP = 1


def happened(name):
    padded = name.encode().ljust(16, b"\0")
    return struct.pack("iIII", TOP, linux.IN_DELETE, 0, len(padded)) + padded


def test_a_closed_watch_does_not_touch_its_descriptor_which_may_be_another_by_now():
    reader, writer = os.pipe2(os.O_NONBLOCK)

    async def ask():
        watch = FileWatch(
            "sbx_1",
            ("a",),
            reader,
            Tree(Found(top=TOP), is_deep=False),
            files=None,
            fold=changes.separately,
            silence_s=None,
            until=asyncio.get_running_loop().create_future(),
            turn=asyncio.Lock(),
            looking=asyncio.Lock(),
        )
        os.write(writer, happened("one"))
        assert await watch.now() == (Change(what=What.DELETED, name="one"),)
        os.write(writer, happened("two"))
        waiting = asyncio.create_task(watch.now())
        await asyncio.sleep(0)
        watch.close()
        assert await waiting == ()
        assert await watch.now() == ()

    try:
        asyncio.run(ask())
        assert os.read(reader, 4096) == happened("two"), "it is still there"
    finally:
        os.close(reader)
        os.close(writer)
