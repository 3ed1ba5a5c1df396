"""E2B's data plane: watches without end, and files that are packed so that they are more than they seem."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib

import pytest

from jupyter_sandbox.file_watches import MAX_OF_SANDBOX
from tests.attacks.e2b_calls import UNARY, Filesystem, allowed, ask
from tests.attacks.rest_world import as_person, watched
from tests.server.raw_http import opened

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

FILE = {"Content-Type": "application/octet-stream"}
PACKED = FILE | {"Content-Encoding": "gzip"}
PATHS = ["../x", "/etc/passwd", "/home/user/../../etc/passwd", "%2e%2e/x", "\u0000", "x" * 5000, "/proc/1"]
MIB = bytes(1 << 20)


# -- watches


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_leads_out_is_not_watched(filesystem, path):
    status, body = await filesystem("CreateWatcher", path=path)
    assert (status, body["code"]) == (400, "invalid_argument")


async def test_a_symlink_is_not_followed_by_a_watcher(filesystem):
    await filesystem.run("import os; os.symlink('/etc', '/sandbox/link')")
    status, body = await filesystem("CreateWatcher", path="link")
    assert (status, body["code"]) == (400, "invalid_argument")


TARGETS = {
    "no text": (b"\xff\xfe", None),
    "half a character": (b"\xed\xa0\x80", None),
    "several lines": (b"a\nb", None),
    "what commands a terminal": (b"\x1b[2J", None),
    "long": (b"x" * 4000, None),
    "too long by a byte": (b"x" * 1025, None),
    "long enough": (b"x" * 1024, "x" * 1024),
    "out": (b"../../../etc/passwd", "../../../etc/passwd"),
    "letters": ("\u00e9/\U0001f600".encode(), "\u00e9/\U0001f600"),
    "itself": (b"itself", "itself"),
}


async def test_where_a_symlink_leads_is_told_as_one_line_of_text_or_not_at_all(filesystem):
    planted = {name: target.decode("latin-1") for name, (target, _) in TARGETS.items()}
    await filesystem.run(
        f"import os\nfor name, target in {planted!r}.items(): os.symlink(target.encode('latin-1'), '/sandbox/' + name)"
    )
    status, listed = await filesystem("ListDir", path=".")
    assert status == 200
    told = {each["name"]: each.get("symlinkTarget") for each in listed["entries"]}
    assert told == {name: expected for name, (_, expected) in TARGETS.items()}
    for name, (_, expected) in TARGETS.items():
        _, body = await filesystem("Stat", path=name)
        assert (body["entry"]["type"], body["entry"].get("symlinkTarget")) == ("FILE_TYPE_SYMLINK", expected)


async def test_a_watcher_of_another_sandbox_is_none(world, make, filesystem):
    theirs = Filesystem(world, await make("bob"))
    watcher = await filesystem.watcher()
    for method in ("GetWatcherEvents", "RemoveWatcher"):
        for who, given in ((theirs, watcher), (filesystem, watcher[:-1]), (filesystem, ""), (filesystem, "x" * 5000)):
            status, body = await who(method, watcherId=given)
            assert (status, body["code"]) == (404, "not_found")
        for given in (None, 1, [watcher], {}):
            assert (await filesystem(method, watcherId=given))[0] == 400
    assert (await filesystem("GetWatcherEvents", watcherId=watcher))[0] == 200


async def test_watchers_of_a_sandbox_are_bounded_and_given_back(filesystem):
    for _ in range(2):
        watchers = [await filesystem.watcher() for _ in range(MAX_OF_SANDBOX)]
        status, body = await filesystem("CreateWatcher", path=".")
        assert (status, body["code"]) == (429, "resource_exhausted")
        for watcher in watchers:
            assert await filesystem("RemoveWatcher", watcherId=watcher) == (200, {})


async def test_who_hangs_up_gives_the_watch_of_a_stream_back(filesystem):
    for _ in range(2):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_OF_SANDBOX):
                reader = await stack.enter_async_context(filesystem.stream())
                await reader.readuntil(b'"start"')
            assert (await filesystem("CreateWatcher", path="."))[0] == 429
        async with asyncio.timeout(10):
            watcher = await filesystem.watcher_in_the_end()
        await filesystem("RemoveWatcher", watcherId=watcher)


async def test_watchers_end_with_their_sandbox(world, make):
    """More than a server has, if those of sandboxes that have ended were kept."""
    for _ in range(6):
        box = await make("alice")
        filesystem = Filesystem(world, box)
        async with asyncio.timeout(10):
            for _ in range(MAX_OF_SANDBOX):
                await filesystem.watcher_in_the_end()
        assert (await ask(world, "DELETE", f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": "alice"})).code == 204
        response = await ask(world, "POST", "e2b/sbx/filesystem.Filesystem/GetWatcherEvents", allowed(box, UNARY), "{}")
        assert response.code == 502


async def test_changes_without_end_take_neither_memory_nor_the_loop_and_are_told_as_lost(world, filesystem):
    watchers = [await filesystem.watcher() for _ in range(MAX_OF_SANDBOX - 4)]
    code = "import os\nfor n in range(20_000):\n name = '/sandbox/' + f'{n:05}' * 40\n open(name, 'w').close(); os.remove(name)"
    async with watched(world), contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(filesystem.stream()) for _ in range(4)]
        for reader in readers:
            await reader.readuntil(b'"start"')
        await filesystem.run(code)
        for watcher in watchers:
            status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
            assert (status, body["code"]) == (409, "aborted")
    await filesystem.run("open('/sandbox/after', 'w').close()")
    for watcher in watchers:
        status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
        assert (status, [event["name"] for event in body["events"]]) == (200, ["after"] * 2)


async def test_names_that_are_no_text_are_not_told(filesystem):
    watcher = await filesystem.watcher()
    await filesystem.run("open(b'/sandbox/\\xff', 'w').close(); open('/sandbox/\\u00e9\\u2028', 'w').close()")
    status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
    assert (status, {event["name"] for event in body["events"]}) == (200, {"\u00e9\u2028"})


# -- files


@pytest.mark.parametrize("path", [path for path in PATHS if path != "\u0000"])
async def test_a_file_is_written_nowhere_else(world, filesystem, path):
    response = await ask(world, "POST", f"e2b/sbx/files?path={path}", allowed(filesystem.box, FILE), b"x")
    assert response.code == 400
    assert (await ask(world, "POST", "e2b/sbx/files", allowed(filesystem.box, FILE), b"x")).code == 400


def bomb(mib):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(MIB) for _ in range(mib)) + packer.flush()


BAD = {
    "nothing": b"",
    "no gzip": b"x" * 1000,
    "only its head": gzip.compress(b"x" * 1000)[:12],
    "cut": gzip.compress(bytes(range(256)) * 1000)[:-4],
    "wrong sum": gzip.compress(b"x" * 1000)[:-8] + bytes(8),
    "something behind": gzip.compress(b"x") + b"more",
    "deflate": zlib.compress(b"x" * 1000),
    "half of a second": gzip.compress(b"x") + gzip.compress(b"y")[:10],
}


@pytest.mark.parametrize("case", BAD)
async def test_what_gzip_did_not_make_is_not_written(world, filesystem, case):
    response = await ask(world, "POST", "e2b/sbx/files?path=a", allowed(filesystem.box, PACKED), BAD[case])
    assert (response.code, json.loads(response.body)["code"]) == (400, 400)
    assert await filesystem.size("a") is None


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "x" * 5000])
async def test_other_ways_to_pack_are_refused(world, filesystem, coding):
    headers = allowed(filesystem.box, FILE, {"Content-Encoding": coding})
    assert (await ask(world, "POST", "e2b/sbx/files?path=a", headers, b"x")).code == 400
    headers = allowed(filesystem.box, {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"})
    assert (await ask(world, "POST", "e2b/sbx/files?path=a", headers, b"--x--")).code == 400
    assert await filesystem.size("a") is None


async def test_a_bomb_is_refused_by_what_it_becomes(world, tokens, make):
    """1 MiB is what this owner may write, and less than that is sent."""
    key = tokens.issue("small")
    filesystem = Filesystem(world, await make(key))
    data = bomb(200)
    assert len(data) < 1 << 20
    async with watched(world):
        response = await ask(world, "POST", "e2b/sbx/files?path=a", allowed(filesystem.box, PACKED), data)
    assert response.code == 429, response.body
    files = await as_person(world, key).get(f"sbx_{filesystem.box['sandboxID']}", "files")
    assert files.body["entries"] == []
    assert (
        await ask(world, "POST", "e2b/sbx/files?path=a", allowed(filesystem.box, PACKED), gzip.compress(b"x"))
    ).code == 200


async def test_a_bomb_that_may_be_written_takes_no_memory_of_the_server(world, filesystem):
    async with watched(world):
        response = await ask(world, "POST", "e2b/sbx/files?path=a", allowed(filesystem.box, PACKED), bomb(256))
        assert response.code == 200, response.body
        headers = allowed(filesystem.box, {"Accept-Encoding": "gzip"})
        reader, writer = await opened(world, "GET", "/e2b/sbx/files?path=a", headers)
        packed = await reader.read()
        writer.close()
    assert b"content-encoding: gzip" in packed[:2000].lower()
    assert len(packed) < 4 << 20
    assert await filesystem.size("a") == 256 << 20


async def test_many_little_packed_files_in_one_do_not_hold_up_the_loop(world, filesystem):
    async with watched(world):
        data = gzip.compress(b"") * 100_000 + gzip.compress(b"end")
        response = await ask(world, "POST", "e2b/sbx/files?path=a", allowed(filesystem.box, PACKED), data)
    assert (response.code, await filesystem.size("a")) == (200, 3)


@pytest.mark.parametrize("kind", [FILE, PACKED], ids=["as it is", "packed"])
async def test_who_hangs_up_while_he_sends_leaves_nothing(world, filesystem, kind):
    headers = allowed(filesystem.box, kind, {"Content-Length": "100000"})
    _, writer = await opened(world, "POST", "/e2b/sbx/files?path=a", headers)
    writer.write(gzip.compress(bytes(range(256)) * 2000)[:1000])
    await writer.drain()
    writer.close()
    body = await filesystem("ListDir", path=".")
    async with asyncio.timeout(10):
        while body != (200, {"entries": []}):
            await asyncio.sleep(0.05)
            body = await filesystem("ListDir", path=".")
    assert (await ask(world, "GET", "e2b/sbx/health", allowed(filesystem.box))).code == 204


async def test_a_file_that_is_too_large_is_refused_before_it_comes(world, filesystem):
    headers = allowed(filesystem.box, FILE, {"Content-Length": str(1 << 40)})
    reader, writer = await opened(world, "POST", "/e2b/sbx/files?path=a", headers)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert b" 413 " in head


# -- what a sandbox uses


@pytest.mark.parametrize(
    "query",
    [
        "sandboxes/metrics?sandbox_ids=" + ",".join("x" * 101),
        "sandboxes/{id}/metrics?start=x",
        "sandboxes/{id}/metrics?end=-1",
    ],
)
async def test_metrics_that_cannot_be_meant_are_refused(world, filesystem, query):
    path = query.replace("{id}", filesystem.box["sandboxID"])
    assert (await ask(world, "GET", f"e2b/{path}", {"X-API-Key": "alice"})).code == 400
