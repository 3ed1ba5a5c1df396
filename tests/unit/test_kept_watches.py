"""Watches whose changes are fetched: what is kept, how it ends, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from jupyter_sandbox import kept_watches, owners
from jupyter_sandbox.errors import (
    CapacityError,
    FileChangedError,
    UnknownFileError,
    UnknownSandboxError,
    UnknownWatchError,
)
from jupyter_sandbox.host.changes import Change, What
from jupyter_sandbox.kept_watches import MAX_CHANGES, KeptWatches

pytestmark = pytest.mark.unit

BOX = "sbx_1"


def created(*names):
    return tuple(Change(what=What.CREATED, name=str(name)) for name in names)


class Watch:
    """What `FileWatches.watching` yields: `put` makes something happen."""

    def __init__(self):
        self.queue, self.news, self.is_open = [], asyncio.Event(), True

    def put(self, happened):
        self.queue.append(happened)

    async def now(self):
        if not self.queue or not self.is_open:
            return ()
        if isinstance(self.queue[0], Exception):
            raise self.queue[0]
        return self.queue.pop(0)

    async def __aiter__(self):
        while True:
            await self.news.wait()
            self.news.clear()
            yield await self.now()


class Watches:
    def __init__(self):
        self.made = []

    @contextlib.asynccontextmanager
    async def watching(self, owner, sandbox, path, *, recursive, fold, silence_s):
        if path == "full":
            raise CapacityError("no more")
        if path == "slow":
            await asyncio.Event().wait()
        watch = Watch()
        self.made.append(watch)
        try:
            yield watch
        finally:
            watch.is_open = False


@pytest.fixture
def run():
    """Run a test's coroutine with kept watches and what they watch; all are closed in the end."""

    def of(use):
        async def whole():
            watches = Watches()
            kept = KeptWatches(watches)
            await use(kept, watches)
            await kept.stop()
            assert not any(watch.is_open for watch in watches.made)
            assert (kept._kept, kept._tasks) == ({}, {})

        asyncio.run(whole())

    return of


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_its_task_took_in_comes_before_what_happened_since(run):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        (watch,) = watches.made
        watch.put(created(1))
        watch.news.set()
        await settled()
        watch.put(created(2))
        watch.put(created(3))
        assert await kept.fetch(BOX, watch_id) == created(1, 2, 3)
        assert await kept.fetch(BOX, watch_id) == ()

    run(use)


@pytest.mark.parametrize(
    "happened", [created(*range(MAX_CHANGES + 1)), (*created(1), Change(what=What.LOST, name=""))], ids=["many", "lost"]
)
def test_more_than_is_kept_is_told_once(run, happened):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        watches.made[0].put(created("before"))
        watches.made[0].put(happened)
        watches.made[0].put(created("just after"))
        with pytest.raises(FileChangedError):
            await kept.fetch(BOX, watch_id)
        watches.made[0].put(created("later"))
        assert await kept.fetch(BOX, watch_id) == created("later")

    run(use)


@pytest.mark.parametrize("is_heard_by_its_task", [True, False])
def test_the_end_of_the_directory_is_told_after_what_happened_before_and_once(run, is_heard_by_its_task):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        (watch,) = watches.made
        watch.put(created(1))
        if is_heard_by_its_task:
            watch.news.set()
            await settled()
        watch.put(UnknownFileError("gone"))
        if is_heard_by_its_task:
            watch.news.set()
            await settled()
        assert await kept.fetch(BOX, watch_id) == created(1)
        with pytest.raises(UnknownFileError):
            await kept.fetch(BOX, watch_id)
        with pytest.raises(UnknownWatchError):
            await kept.fetch(BOX, watch_id)

    run(use)


def test_a_watch_ends_with_its_sandbox(run):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        watches.made[0].put(UnknownSandboxError("ended"))
        watches.made[0].news.set()
        await settled()
        assert not watches.made[0].is_open
        with pytest.raises(UnknownWatchError):
            await kept.fetch(BOX, watch_id)

    run(use)


def test_a_watch_that_nobody_asks_for_is_forgotten(run, monkeypatch):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        watches.made[0].news.set()
        await settled()
        assert await kept.fetch(BOX, watch_id) == ()
        monkeypatch.setattr(kept_watches, "FORGOTTEN_S", -1.0)
        watches.made[0].news.set()
        await settled()
        assert not watches.made[0].is_open
        with pytest.raises(UnknownWatchError):
            await kept.fetch(BOX, watch_id)

    run(use)


def test_a_watch_is_its_sandboxs_and_ends_once(run):
    async def use(kept, watches):
        watch_id = await kept.begin(owners.EVERYBODY, BOX, "a")
        for method in (kept.fetch, kept.end):
            with pytest.raises(UnknownWatchError):
                await method("sbx_2", watch_id)
        await kept.end(BOX, watch_id)
        assert not watches.made[0].is_open
        with pytest.raises(UnknownWatchError):
            await kept.end(BOX, watch_id)

    run(use)


def test_a_watch_that_cannot_begin_is_none(run):
    async def use(kept, watches):
        with pytest.raises(CapacityError):
            await kept.begin(owners.EVERYBODY, BOX, "full")
        await settled()

    run(use)


def test_who_does_not_wait_for_the_beginning_leaves_nothing(run):
    async def use(kept, watches):
        beginning = asyncio.ensure_future(kept.begin(owners.EVERYBODY, BOX, "a"))
        await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.wait([beginning])
        await settled()
        assert kept._tasks == {}

    run(use)


def test_who_waits_for_the_beginning_does_not_wait_for_ever_when_the_server_stops(run):
    async def use(kept, watches):
        beginning = asyncio.ensure_future(kept.begin(owners.EVERYBODY, BOX, "slow"))
        await settled()
        await kept.stop()
        await settled()
        assert beginning.done()
        with pytest.raises(asyncio.CancelledError):
            await beginning

    run(use)
