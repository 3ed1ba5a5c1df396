"""Watches over REST against strangers, paths that lead out, clients that hang up, and sandboxes that do very much."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from jupyter_sandbox.file_watches import MAX_OF_SANDBOX, MAX_WATCHES
from tests.attacks.rest_world import watched
from tests.attacks.test_rest_files import PATHS
from tests.server.raw_http import opened, send
from tests.server.watcher import watching

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


@pytest.fixture
def root(rest, jp_asyncio_loop):
    """The path of watches of a new sandbox."""
    return f"/api/sandboxes/{jp_asyncio_loop.run_until_complete(rest.claimed())['id']}/watch/"


async def test_a_path_that_leads_out_or_is_no_text_is_refused(world, root):
    for name, path in PATHS.items():
        reply = await send(world, "GET", f"{root}{path}")
        assert (reply.status, reply.code) == (400, "invalid_request"), name


async def test_a_symlink_is_not_followed(world, rest):
    context = await rest.context()
    await context.printed("import os; os.symlink('/etc', '/sandbox/link')")
    reply = await send(world, "GET", f"/api/sandboxes/{context.sandbox_id}/watch/link")
    assert (reply.status, reply.code) == (403, "file_refused")


async def test_a_stranger_watches_nothing(world, root):
    for token, status, code in (("bob", 404, "unknown_sandbox"), ("nobody", 403, "forbidden")):
        reply = await send(world, "GET", root, token=token)
        assert (reply.status, reply.code) == (status, code)


async def test_who_hangs_up_gives_the_watch_back(world, root):
    for _ in range(2):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_OF_SANDBOX):
                await stack.enter_async_context(watching(world, root))
            reply = await send(world, "GET", root)
            assert (reply.status, reply.code) == (503, "no_capacity")
            assert int(reply.headers["retry-after"]) > 0
        async with asyncio.timeout(10):
            while True:  # the server hears of its clients one after the other
                with contextlib.suppress(AssertionError):
                    async with watching(world, root):
                        break
                await asyncio.sleep(0.05)


async def test_an_owner_leaves_half_of_the_watches_to_others(world, people):
    async def root_of(name):
        return f"/api/sandboxes/{(await people[name].claimed())['id']}/watch/"

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_WATCHES // 2 // MAX_OF_SANDBOX):
            root = await root_of("alice")
            for _ in range(MAX_OF_SANDBOX):
                await stack.enter_async_context(watching(world, root))
        reply = await send(world, "GET", await root_of("alice"))
        assert (reply.status, reply.code) == (429, "quota_exceeded")
        await stack.enter_async_context(watching(world, await root_of("bob"), "bob"))


async def test_who_reads_nothing_of_many_changes_takes_no_memory(world, rest):
    context = await rest.context()
    root = f"/api/sandboxes/{context.sandbox_id}/watch/"
    async with watched(world):
        held = [await opened(world, "GET", root, {}) for _ in range(10)]
        for reader, _ in held:
            await reader.readuntil(b"ready")
        await context.printed(
            "import os\nfor n in range(40_000):\n name = '/sandbox/' + f'{n:05}' * 40\n open(name, 'w').close(); os.remove(name)"
        )
        for _, writer in held:
            writer.close()
