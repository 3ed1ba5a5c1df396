"""E2B's SDK, as it is published: watched directories, files of any size and form, and what a sandbox uses."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from e2b import (
    FilesystemEventType,
    NotFoundException,
    SandboxException,
    TimeoutException,
)
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.e2e import e2b_clients

pytestmark = pytest.mark.timeout(180)

CREATE, WRITE, CHMOD = FilesystemEventType.CREATE, FilesystemEventType.WRITE, FilesystemEventType.CHMOD
REMOVE, RENAME = FilesystemEventType.REMOVE, FilesystemEventType.RENAME


@pytest.fixture(scope="module")
def sandbox(served):
    """One for all tests."""
    made = Sandbox.create(timeout=170, envs={"FROM": "create"})
    yield made
    made.kill()


@pytest.fixture
def place(sandbox, request):
    """A directory of this test's own."""
    path = f"/home/user/{request.node.originalname}"
    sandbox.files.make_dir(path)
    return path


def told(events):
    return [(event.type, event.name) for event in events]


# -- watched directories


def test_a_watcher_tells_at_once_what_happened_in_its_order(sandbox, place):
    files = sandbox.files
    files.write(f"{place}/old", "x")
    watcher = files.watch_dir(place)
    assert watcher.get_new_events() == []
    files.write(f"{place}/old", "again")
    assert told(watcher.get_new_events()) == [(CREATE, "old"), (WRITE, "old")], "another took its place"
    files.write(f"{place}/new", "x")
    assert told(watcher.get_new_events()) == [(CREATE, "new"), (WRITE, "new")]
    files.make_dir(f"{place}/dir")
    files.write(f"{place}/dir/below", "is not told")
    files.rename(f"{place}/new", f"{place}/moved")
    files.remove(f"{place}/old")
    assert told(watcher.get_new_events()) == [
        *((CREATE, "dir"), (RENAME, "new"), (CREATE, "moved"), (WRITE, "moved"), (REMOVE, "old"))
    ]
    sandbox.commands.run(f"cd {place}; echo x >> moved; chmod 600 moved")
    assert told(watcher.get_new_events()) == [(WRITE, "moved"), (CHMOD, "moved")]
    assert watcher.get_new_events() == []
    watcher.stop()
    with pytest.raises(SandboxException, match="already stopped"):
        watcher.get_new_events()


def test_a_watcher_that_was_removed_is_not_found(sandbox, place):
    watcher = sandbox.files.watch_dir(place)
    watcher.stop()
    watcher._closed = False
    with pytest.raises(NotFoundException, match="no watch"):
        watcher.get_new_events()


def test_the_end_of_a_watched_directory_is_told_once(sandbox, place):
    watcher = sandbox.files.watch_dir(place)
    sandbox.files.write(f"{place}/x", "x")
    sandbox.files.remove(place)
    assert told(watcher.get_new_events())[-1] == (REMOVE, "x")
    with pytest.raises(NotFoundException, match="moved or deleted"):
        watcher.get_new_events()
    with pytest.raises(NotFoundException, match="no watch"):
        watcher.get_new_events()


def test_what_cannot_be_watched_is_refused(sandbox, place):
    sandbox.files.write(f"{place}/file", "x")
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir(f"{place}/nothing")
    with pytest.raises(SandboxException):
        sandbox.files.watch_dir(f"{place}/file")


def test_a_watcher_of_a_tree_tells_paths_and_what_is_there(sandbox, place):
    files = sandbox.files
    files.write(f"{place}/a/old", "x")
    watcher = files.watch_dir(place, recursive=True, include_entry=True)
    files.write(f"{place}/a/old", "longer")
    files.write(f"{place}/new/deep/file", "x")
    files.rename(f"{place}/a", f"{place}/b")
    events = watcher.get_new_events()
    assert set(told(events)) == {
        *((CREATE, "a/old"), (WRITE, "a/old"), (RENAME, "a"), (CREATE, "b"), (CREATE, "b/old"), (WRITE, "b/old")),
        *((CREATE, "new"), (CREATE, "new/deep"), (CREATE, "new/deep/file"), (WRITE, "new/deep/file")),
    }
    assert {event.name: event.entry for event in events if event.type is CREATE and event.entry} == {
        name: files.get_info(f"{place}/{name}") for name in ("new", "b", "new/deep", "b/old", "new/deep/file")
    }
    assert [event.entry for event in events if event.name in ("a", "a/old")] == [None] * 3, "they are there no more"
    files.write(f"{place}/b/old", "again")
    files.remove(f"{place}/new")
    (created, written, *removed) = watcher.get_new_events()
    assert told([created, written]) == [(CREATE, "b/old"), (WRITE, "b/old")]
    assert (written.entry.path, written.entry.size) == (f"{place}/b/old", len("again"))
    assert told(removed) == [(REMOVE, "new/deep/file"), (REMOVE, "new/deep"), (REMOVE, "new")]
    assert not any(event.entry for event in removed)
    watcher.stop()
    plain = files.watch_dir(place, allow_network_mounts=True)
    files.write(f"{place}/b/below", "is not told")
    files.write(f"{place}/x", "x")
    assert [(event.name, event.entry) for event in plain.get_new_events()] == [("x", None)] * 2


def test_metadata_of_a_file_is_refused_and_not_dropped(sandbox, place):
    for how in ({}, {"use_octet_stream": True}):
        with pytest.raises(SandboxException, match="metadata of files is not supported"):
            sandbox.files.write(f"{place}/x", "x", metadata={"author": "me"}, **how)
        with pytest.raises(SandboxException, match="metadata of files is not supported"):
            sandbox.files.write_files([{"path": f"{place}/x", "data": "x"}], metadata={"author": "me"}, **how)
    assert not sandbox.files.exists(f"{place}/x")
    sandbox.files.write(f"{place}/x", "x", metadata={})
    assert sandbox.files.get_info(f"{place}/x").metadata is None


def test_a_stream_tells_what_is_there_below_as_it_happens(served, sandbox, place):
    async def use():
        mine = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
        seen, news = {}, asyncio.Event()

        def note(event):
            seen.setdefault(event.name, []).append(event)
            news.set()

        await mine.files.make_dir(f"{place}/there")
        watch = await mine.files.watch_dir(place, note, recursive=True, include_entry=True)
        await mine.files.write(f"{place}/there/a", "xyz")
        await mine.files.write(f"{place}/new/deep/b", "x")
        async with asyncio.timeout(20):
            while not {"there/a", "new/deep/b"} <= seen.keys():
                news.clear()
                await news.wait()
        assert told(seen["there/a"])[0] == (CREATE, "there/a")
        for name in ("there/a", "new", "new/deep/b"):
            assert seen[name][0].entry == await mine.files.get_info(f"{place}/{name}")
        await watch.stop()

    e2b_clients.in_a_loop(use)


def test_a_stream_tells_changes_as_they_happen_until_it_is_stopped(served, sandbox, place):
    async def use():
        mine = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
        seen, ends, news = [], [], asyncio.Event()

        def note(event):
            seen.append((event.type, event.name))
            news.set()

        watch = await mine.files.watch_dir(place, note, on_exit=ends.append)
        await mine.files.write(f"{place}/a", "x")
        async with asyncio.timeout(20):
            while (WRITE, "a") not in seen:
                news.clear()
                await news.wait()
        assert seen == [(CREATE, "a"), (WRITE, "a")]
        await watch.stop()
        assert ends == [None]

    e2b_clients.in_a_loop(use)


def test_watches_and_metrics_outlive_a_pause(served):
    async def use():
        mine = await AsyncSandbox.create(timeout=60)
        seen, ends, news = [], [], asyncio.Event()

        def note(event):
            seen.append((event.type, event.name))
            news.set()

        await mine.files.write("kept", "x")
        same = await asyncio.to_thread(Sandbox.connect, mine.sandbox_id, timeout=60)
        watcher = await asyncio.to_thread(same.files.watch_dir, ".")
        watch = await mine.files.watch_dir(".", note, on_exit=ends.append)
        assert await mine.pause()
        (figures,) = await mine.get_metrics()
        assert (figures.cpu_used_pct, figures.mem_used > 0) == (0, True)
        with pytest.raises(SandboxException):
            await asyncio.to_thread(watcher.get_new_events)
        headers = {"Authorization": f"token {served.token}", "Content-Type": "application/octet-stream"}
        file = f"{served.url}/api/sandboxes/sbx_{mine.sandbox_id}/files/meanwhile"
        put = urllib.request.Request(file, b"x", headers, method="PUT")  # E2B's words are refused until it goes on
        (await asyncio.to_thread(urllib.request.urlopen, put, timeout=30)).close()
        await AsyncSandbox.connect(mine.sandbox_id, timeout=60)
        await mine.files.write("new", "x")
        async with asyncio.timeout(20):
            while (WRITE, "new") not in seen:
                news.clear()
                await news.wait()
        expected = [(how, name) for name in ("meanwhile", "new") for how in (CREATE, WRITE)]
        assert (seen, ends) == (expected, [])
        assert told(await asyncio.to_thread(watcher.get_new_events)) == expected
        await watch.stop()
        await mine.kill()

    e2b_clients.in_a_loop(use)


def test_a_stream_ends_with_its_time_its_directory_or_its_sandbox(served, sandbox, place):
    async def use():
        mine = await AsyncSandbox.create(timeout=60)
        ends = {}

        async def watch(name, **how):
            ended = asyncio.get_running_loop().create_future()
            await mine.files.make_dir(name)
            await mine.files.watch_dir(name, lambda _: None, on_exit=ended.set_result, **how)
            ends[name] = ended

        await watch("timed", timeout=1)
        await watch("removed")
        await watch("killed", timeout=0)
        await mine.files.remove("removed")
        async with asyncio.timeout(30):
            assert isinstance(await ends["removed"], NotFoundException)
            assert isinstance(await ends["timed"], TimeoutException)
            assert not ends["killed"].done()
            await mine.kill()
            assert "not found" in str(await ends["killed"]) or "killed" in str(await ends["killed"])

    e2b_clients.in_a_loop(use)


# -- files of any size and form


SIZE = 40 << 20


def test_a_file_of_any_size_is_written_from_a_file_object_or_an_iterator(sandbox, place):
    files = sandbox.files
    data = bytes(range(256)) * (SIZE // 256)
    assert files.write(f"{place}/new/object", io.BytesIO(data)).path == f"{place}/new/object"
    files.write(f"{place}/iterator", (data[start : start + 65_537] for start in range(0, SIZE, 65_537)))
    files.write(f"{place}/text", io.StringIO("h\u00e9"))
    sums = sandbox.commands.run(f"cd {place}; cmp new/object iterator && stat -c %s iterator text").stdout
    assert sums.split() == [str(SIZE), "3"]
    got = b"".join(files.read(f"{place}/iterator", format="stream"))
    assert got == data
    assert files.read(f"{place}/text") == "h\u00e9"


def test_a_file_of_any_size_is_written_by_a_form(sandbox, place):
    """So the SDK sends what is bytes or text, and old ones everything."""
    data = bytes(range(256)) * (SIZE // 256)
    assert sandbox.files.write(f"{place}/new/large", data, use_octet_stream=False).path == f"{place}/new/large"
    written = sandbox.files.write_files([{"path": f"{place}/{name}", "data": data} for name in ("\u00e9 a", "b'", "c")])
    assert [each.name for each in written] == ["\u00e9 a", "b'", "c"]
    sums = sandbox.commands.run(f"cd {place}; cmp new/large c && cmp c b\\' && cmp c '\u00e9 a' && stat -c %s c")
    assert sums.stdout.split() == [str(SIZE)]


def test_a_file_is_packed_on_its_way_in_and_out_when_the_client_asks(served, sandbox, place):
    files = sandbox.files
    text = "very much the same\n" * 500_000
    files.write(f"{place}/packed", text, gzip=True)
    files.write(f"{place}/empty", "", gzip=True)
    assert sandbox.commands.run(f"stat -c %s {place}/packed {place}/empty").stdout.split() == [str(len(text)), "0"]
    assert files.read(f"{place}/packed", gzip=True) == files.read(f"{place}/packed") == text
    assert files.read(f"{place}/empty", gzip=True) == ""
    request = urllib.request.Request(sandbox.download_url(f"{place}/packed"), headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        assert answer.headers["Content-Encoding"] == "gzip"
    assert len(body) < len(text) / 50
    assert gzip.decompress(body).decode() == text


def test_several_files_are_written_from_what_is_read_meanwhile(sandbox, place):
    written = sandbox.files.write_files(
        [{"path": f"{place}/a", "data": io.BytesIO(b"a")}, {"path": f"{place}/b", "data": "b"}]
    )
    assert [each.name for each in written] == ["a", "b"]
    assert sandbox.files.read(f"{place}/a") + sandbox.files.read(f"{place}/b") == "ab"


def test_a_file_that_the_disk_cannot_take_leaves_what_was_there(sandbox, place):
    sandbox.files.write(f"{place}/x", "before")
    for path in (f"{place}/x/below", place, "/etc/x"):
        with pytest.raises(SandboxException):
            sandbox.files.write(path, io.BytesIO(b"x" * 100_000))
    assert sandbox.files.read(f"{place}/x") == "before"


def test_the_asynchronous_sdk_writes_and_reads_streams_too(served, sandbox, place):
    async def use():
        mine = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)

        async def pieces():
            for number in range(100):
                yield b"%04d" % number * 1000

        await mine.files.write(f"{place}/x", pieces())
        await mine.files.write(f"{place}/y", pieces(), gzip=True)
        await mine.files.write(f"{place}/form", b"x" * SIZE, use_octet_stream=False)
        assert (await mine.files.get_info(f"{place}/form")).size == SIZE
        expected = b"".join([piece async for piece in pieces()])
        assert await mine.files.read(f"{place}/x", format="bytes", gzip=True) == expected
        got = b"".join([piece async for piece in await mine.files.read(f"{place}/y", format="stream")])
        assert got == expected

    e2b_clients.in_a_loop(use)


# -- what a sandbox uses, and has


def test_metrics_tell_what_a_sandbox_uses_now(served, sandbox):
    (now,) = sandbox.get_metrics()
    info = sandbox.get_info()
    assert now.cpu_count == info.cpu_count
    assert now.mem_total == info.memory_mb << 20
    assert 0 < now.mem_used < now.mem_total
    assert now.disk_total > 0
    assert abs((now.timestamp - datetime.now(UTC)).total_seconds()) < 30
    before = datetime.now(UTC) - timedelta(minutes=1)
    assert sandbox.get_metrics(end=before) == []
    assert len(sandbox.get_metrics(start=before, end=datetime.now(UTC) + timedelta(minutes=1))) == 1
    busy = sandbox.commands.run("while :; do :; done", background=True)
    deadline = time.monotonic() + 20
    while sandbox.get_metrics()[0].cpu_used_pct < 10:
        assert time.monotonic() < deadline
    busy.kill()


def test_metrics_of_several_are_told_together(served, sandbox):
    headers = {"X-API-Key": served.token}
    ids = f"{sandbox.sandbox_id},{'0' * 20},x"
    request = urllib.request.Request(f"{served.url}/e2b/sandboxes/metrics?sandbox_ids={ids}", headers=headers)
    with urllib.request.urlopen(request) as answer:
        assert list(json.load(answer)["sandboxes"]) == [sandbox.sandbox_id]


def test_variables_of_a_sandbox_are_told_to_who_has_its_token(served, sandbox):
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "X-Access-Token": sandbox._envd_access_token}
    with urllib.request.urlopen(urllib.request.Request(f"{served.url}/e2b/sbx/envs", headers=headers)) as answer:
        assert json.load(answer) == {"HOME": "/home/user", "E2B_SANDBOX": "true", "FROM": "create"}
