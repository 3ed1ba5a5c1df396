"""Directories watched over REST: what is told, from when on, and how it ends."""

from __future__ import annotations

import json

import pytest

from jupyter_sandbox.surfaces.native import file_answers
from tests.server.raw_http import opened
from tests.server.watcher import watching


@pytest.fixture
def watch(rest, jp_asyncio_loop, jp_http_port, jp_base_url, jp_serverapp):
    """Watch a directory of a new sandbox: `async with watch("dir") as watcher`."""
    return Watch(
        rest, jp_asyncio_loop.run_until_complete(rest.claimed())["id"], jp_http_port, jp_base_url, jp_serverapp
    )


class Watch:
    def __init__(self, rest, sandbox_id, port, base_url, server):
        self.rest, self.id = rest, sandbox_id
        self.url, self.token = f"http://127.0.0.1:{port}", server.identity_provider.token
        self.root = f"{base_url}api/sandboxes/{sandbox_id}/watch/"

    def __call__(self, path=""):
        return watching(self.url, f"{self.root}{path}", self.token)

    async def put(self, path, **how):
        reply = await self.rest("PUT", self.id, "files", *path.split("/"), raw=b"x", **how)
        assert reply.status in (200, 201), reply


async def test_what_happens_right_after_ready_is_told(watch):
    for number in range(10):
        async with watch() as watcher:
            await watch.put(f"new{number}")
            name = f"new{number}"
            assert await watcher.next() == {"type": "created", "name": name, "quoted": name, "path": name}


async def test_what_client_and_sandbox_do_is_told(watch, rest):
    context = await rest.context(watch.id)
    await watch.put("dir/old", params={"parents": "1"})
    async with watch("dir") as watcher:
        await watch.put("dir/a b")
        assert (await watcher.next())["path"] == "dir/a b"
        await context.printed("open('/sandbox/dir/old', 'a').write('more')")
        assert (await watcher.next())["type"] == "changed"
        await context.printed("import os; os.rename('/sandbox/dir/old', b'/sandbox/dir/\\xff')")
        seen = {event["type"]: event for event in (await watcher.next(), await watcher.next())}
        assert seen["deleted"]["name"] == "old"
        assert seen["created"] == {"type": "created", "name": "\ufffd", "quoted": "%FF", "path": None}
        await watch.put("elsewhere")
        await watch.rest.delete(watch.id, "files", "dir", "a b")
        assert (await watcher.next())["type"] == "deleted"


async def test_what_happens_below_is_told_by_its_path(watch, rest):
    context = await rest.context(watch.id)
    await watch.put("dir/a b/old", params={"parents": "1"})
    async with watch("dir?recursive=1") as watcher:
        await watch.put("dir/a b/new")
        told = await watcher.next()
        assert told == {
            "type": "created",
            "name": "a b/new",
            "quoted": "a%20b/new",
            "path": "dir/a b/new",
        }
        await context.printed(
            "import os; os.makedirs('/sandbox/dir/x/y'); os.rename('/sandbox/dir/a b', '/sandbox/dir/x/z')"
        )
        seen = {(event["type"], event["name"]) for event in [await watcher.next() for _ in range(6)]}
        assert seen == {
            *(("created", name) for name in ("x", "x/y", "x/z", "x/z/old", "x/z/new")),
            ("deleted", "a b"),
        }
        await context.printed("open(b'/sandbox/dir/x/y/\\xff', 'w').close()")
        assert await watcher.next() == {
            "type": "created",
            "name": "x/y/\ufffd",
            "quoted": "x/y/%FF",
            "path": None,
        }
        await watch.rest.delete(watch.id, "files", "dir", params={"recursive": "1"})
        assert (await watcher.until("ended"))[-1]["error"]["code"] == "unknown_file"


async def test_a_silent_stream_beats(watch, monkeypatch):
    monkeypatch.setattr(file_answers, "HEARTBEAT_S", 0.05)
    async with watch() as watcher:
        assert [await watcher.next() for _ in range(3)] == [{"type": "heartbeat"}] * 3
        await watch.put("a")
        assert (await watcher.until("created"))[-1]["name"] == "a"


async def test_more_than_can_be_told_is_an_overflow_and_the_watch_goes_on(watch, rest):
    context = await rest.context(watch.id)
    async with watch() as watcher:
        code = "import os\nos.mkdir('/sandbox/a')\nfor _ in range(30_000):\n"
        await context.printed(code + " os.rename('/sandbox/a', '/sandbox/b'); os.rename('/sandbox/b', '/sandbox/a')")
        event = (await watcher.until("overflow"))[-1]
        assert event == {"type": "overflow"}
        for number in range(10):
            await watch.put(f"after-{number}")  # may be lost as well: the next overflow tells
            while (event := await watcher.next())["type"] != "overflow" and event["name"] in {"a", "b"}:
                assert event["type"] in {"created", "changed", "deleted"}
            if event["type"] != "overflow":
                break
        assert event["name"].startswith("after-")


async def test_a_watch_ends_with_its_sandbox(watch):
    async with watch() as watcher:
        await watch.rest.delete(watch.id)
        ended = (await watcher.until("ended"))[-1]
        assert ended["error"]["code"] == "unknown_sandbox"
        assert await watcher.next() is None


async def test_a_watch_ends_with_its_directory(watch):
    await watch.put("dir/a", params={"parents": "1"})
    async with watch("dir") as watcher:
        await watch.rest.delete(watch.id, "files", "dir", params={"recursive": "1"})
        assert (await watcher.until("ended"))[-1]["error"]["code"] == "unknown_file"


@pytest.mark.parametrize(("path", "status", "code"), [("x", 404, "unknown_file"), ("file", 409, "file_conflict")])
async def test_what_is_no_directory_is_refused_before_the_stream_begins(watch, path, status, code):
    await watch.put("file")
    reply = await watch.rest.get(watch.id, "watch", path)
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["Content-Type"].startswith("application/json")


async def test_a_browser_gets_events_of_its_own_kind(watch):
    accept = {"Accept": "text/event-stream"}
    reader, writer = await opened(watch.url, "GET", watch.root, accept, watch.token)
    assert b"Content-Type: text/event-stream\r\n" in await reader.readuntil(b"\r\n\r\n")
    block = await reader.readuntil(b"\n\n")
    assert (
        block.split(b"\r\n")[-1]
        == b"event: ready\ndata: " + json.dumps({"type": "ready"}, separators=(",", ":")).encode() + b"\n\n"
    )
    writer.close()
