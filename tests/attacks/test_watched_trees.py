"""Trees that are watched, against sandboxes that make them large, deep or endless, and move them about meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading

import pytest

from jupyter_sandbox.errors import CapacityError
from jupyter_sandbox.host import changes, scans, trees
from jupyter_sandbox.host.beneath import View
from jupyter_sandbox.host.changes import What
from sandbox_worker import linux
from tests.attacks.e2b_calls import Filesystem, making
from tests.attacks.rest_world import as_person, watched
from tests.server.raw_http import opened

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


class Watched:
    """A directory of this machine, watched without a server: what a server does, step by step."""

    def __init__(self, top):
        self.top, self.fold = top, changes.separately
        self.view = View(sandbox="sbx_x", directory=os.open(top, os.O_PATH | os.O_DIRECTORY))
        self.descriptor, self.tree = scans.start(self.view, (), is_deep=True)

    def close(self):
        os.close(self.descriptor)
        os.close(self.view.directory)

    def step(self, size=trees.READ_BYTES):
        """Read, and look where it is needed; return what is told, None when nothing was to be read."""
        try:
            heard = self.tree.hear(os.read(self.descriptor, size))
        except BlockingIOError:
            return None
        left, more = heard.left, []
        self.give_back(left)
        if heard.is_lost:
            found = scans.look_anew(self.view, (), self.descriptor)
            self.give_back(self.tree.renew(found))
        elif heard.new:
            room = scans.MAX_DIRECTORIES - len(self.tree)
            found = scans.look_into(self.view, (), self.descriptor, heard.new, room=room)
            more = self.tree.add(found)
            assert found.problem is None
        return self.fold([*heard.happened, *more]).changes

    def give_back(self, numbers):
        for number in numbers:
            with contextlib.suppress(OSError):
                linux.remove_watch(self.descriptor, number)

    def all(self):
        """All that is told until nothing is to be read."""
        found = []
        while (told := self.step()) is not None:
            found += told
        return found

    def files(self):
        """By its number, the file that the kernel watches."""
        with open(f"/proc/self/fdinfo/{self.descriptor}") as lines:
            fields = [dict(field.split(":") for field in line.split()[1:3]) for line in lines if "inotify" in line]
        return {int(each["wd"], 16): int(each["ino"], 16) for each in fields}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A watched directory with `a/b/c` in it, and no bound of its depth."""
    monkeypatch.setattr(scans, "MAX_DEPTH", 1000)
    (tmp_path / "a/b/c").mkdir(parents=True)
    made = Watched(tmp_path)
    yield made
    made.close()


def churn(top, chance):
    """Do one thing in a tree: make, move, delete directories and files, and links that lead out, which are not taken."""

    def path():
        found = top.joinpath(*(chance.choice("abc") for _ in range(chance.randint(1, 4))))
        return None if any(each.is_symlink() for each in found.parents) else found

    what, one, other = chance.randrange(7), path(), path()
    if one is None or other is None:
        return
    with contextlib.suppress(OSError):
        match what:
            case 0 | 1:
                one.mkdir(parents=True)
            case 2 if not one.is_symlink():
                one.touch()
            case 3:
                one.rename(other)
            case 4:
                one.rmdir()
            case 5:
                one.unlink()
            case 6:
                one.symlink_to(chance.choice(["..", "../..", top]))


def directories(top):
    """Every directory below, by its path; none is a link."""
    return {os.path.relpath(path, top).removeprefix("."): os.stat(path).st_ino for path, _, _ in os.walk(top)}


@pytest.mark.parametrize("seed", range(20))
def test_when_it_is_quiet_every_directory_is_watched_under_its_name(tree, seed):
    chance = random.Random(seed)
    for _ in range(300):
        churn(tree.top, chance)
        if chance.random() < 0.2:
            tree.step(chance.choice([300, trees.READ_BYTES]))
    tree.all()
    files = tree.files()
    assert {path: files[number] for number, path in tree.tree._paths.items()} == directories(tree.top)
    assert len(files) == len(tree.tree), "no watch is left over"


@pytest.mark.parametrize("fold", [changes.separately, changes.together])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_while_it_is_changed_by_somebody_else_and_what_is_there_in_the_end_was_told(tree, seed, fold):
    tree.fold = fold
    there = {"a", "a/b", "a/b/c"}

    def run():
        chance = random.Random(seed)
        for _ in range(3000):
            churn(tree.top, chance)

    changing = threading.Thread(target=run)
    changing.start()
    told = []
    while changing.is_alive():
        told += tree.step() or ()
    told += tree.all()
    files = tree.files()
    assert {path: files[number] for number, path in tree.tree._paths.items()} == directories(tree.top)
    assert not any(change.what is What.LOST for change in told)
    for change in told:
        if change.what in (What.DELETED, What.MOVED, What.CREATED):
            there = {path for path in there if path != change.name and not path.startswith(f"{change.name}/")}
        if change.what in (What.CREATED, What.CHANGED):
            there.add(change.name)
    found = {os.path.join(path, name) for path, dirs, names in os.walk(tree.top) for name in (*dirs, *names)}
    assert there == {os.path.relpath(path, tree.top) for path in found}


def test_a_link_in_the_place_of_a_directory_is_not_followed(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").mkdir()
    (tree.top / "new").mkdir()
    (tree.top / "new").rmdir()
    (tree.top / "new").symlink_to(outside)
    found = scans.look_into(tree.view, (), tree.descriptor, ("new", "new/secret", "a/b"), room=10)
    assert (list(found.watched.values()), found.problem) == (["a/b", "a/b/c"], None)
    assert outside.stat().st_ino not in tree.files().values()


def test_more_than_the_kernel_watches_for_a_user_is_told(tmp_path):
    """In a user namespace, the bounds of which can be set."""
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
    code = (
        "import os, sys\n"
        "from jupyter_sandbox.host import scans\n"
        "from jupyter_sandbox.host.beneath import View\n"
        "view = View(sandbox='sbx_x', directory=os.open(sys.argv[1], os.O_PATH))\n"
        "for bound in ('max_inotify_watches', 'max_inotify_instances'):\n"
        "    with open(f'/proc/sys/user/{bound}', 'w') as file: file.write('10' if 'watches' in bound else '0')\n"
        "    before = len(os.listdir('/proc/self/fd'))\n"
        "    try: scans.start(view, (), is_deep=True)\n"
        "    except Exception as error: print(type(error).__name__, error.retry_after_s)\n"
        "    assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{CapacityError.__name__} 10\n" * 2, "")


# -- in a sandbox


@pytest.fixture
def filesystem(world, jp_asyncio_loop):
    """The files of a new sandbox of `alice`."""
    with making(world, jp_asyncio_loop) as make:
        yield Filesystem(world, jp_asyncio_loop.run_until_complete(make("alice")))


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor n in range(2000): os.mkdir(f'/sandbox/d{n}')",
        "import os\nos.makedirs('/sandbox/' + '/'.join('d' * 100))",
        "import os\nos.chdir('/sandbox')\nfor n in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)",
    ],
    ids=["2000 directories", "100 deep", "a path that is too long"],
)
async def test_a_tree_that_is_too_large_is_refused_and_one_that_becomes_so_is_told_as_lost(filesystem, code):
    watcher = await filesystem.watcher(recursive=True)
    await filesystem.run(code)
    status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
    assert (status, body["code"]) == (409, "aborted")
    status, body = await filesystem("CreateWatcher", path=".", recursive=True)
    assert (status, body["code"]) == (429, "resource_exhausted")
    assert await filesystem.told(await filesystem.watcher()) == [], "one directory alone can be watched"


async def test_a_tree_of_many_names_is_refused_or_told_as_lost(filesystem):
    await filesystem.run("import os\nos.makedirs('/sandbox/w'); os.mkdir('/sandbox/many')")
    await filesystem.run("for n in range(5000): open(f'/sandbox/many/{n}', 'w').close()")
    watcher = await filesystem.watcher("w", recursive=True)
    await filesystem.run("import os; os.rename('/sandbox/many', '/sandbox/w/many')")
    status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
    assert (status, body["code"]) == (409, "aborted")


async def test_links_lead_nowhere(filesystem):
    await filesystem.run(
        "import os; os.makedirs('/sandbox/w/a'); os.mkdir('/sandbox/out')\n"
        "for name, target in (('up', '..'), ('self', '.'), ('out', '/sandbox/out'), ('etc', '/etc')):\n"
        "  os.symlink(target, f'/sandbox/w/{name}')"
    )
    watcher = await filesystem.watcher("w", recursive=True)
    await filesystem.run("import os; os.symlink('/sandbox/out', '/sandbox/w/a/late')")
    await filesystem.run("open('/sandbox/out/x', 'w').close(); open('/sandbox/w/late', 'w').close()")
    assert await filesystem.told(watcher) == [
        *(("CREATE", "a/late"), ("WRITE", "a/late"), ("CREATE", "late"), ("WRITE", "late"))
    ]


async def test_what_is_in_a_subtree_that_moved_is_told_under_its_new_path(filesystem):
    await filesystem.run("import os; os.makedirs('/sandbox/w/a/b'); os.makedirs('/sandbox/w/c')")
    watcher = await filesystem.watcher("w", recursive=True)
    await filesystem.run("import os; os.rename('/sandbox/w/a', '/sandbox/w/c/z')")
    assert await filesystem.told(watcher) == [("RENAME", "a"), ("CREATE", "c/z"), ("CREATE", "c/z/b")]
    await filesystem.run("open('/sandbox/w/c/z/b/x', 'w').close()")
    assert await filesystem.told(watcher) == [("CREATE", "c/z/b/x"), ("WRITE", "c/z/b/x")]
    await filesystem.run(
        "import os; os.rename('/sandbox/w/c/z', '/sandbox/out'); open('/sandbox/out/b/y', 'w').close()"
    )
    assert await filesystem.told(watcher) == [("RENAME", "c/z")], "what left is watched no more"


async def test_what_is_in_a_new_directory_is_told_however_soon_it_came(filesystem):
    watcher = await filesystem.watcher(recursive=True)
    await filesystem.run(
        "import os\nfor n in range(50):\n os.makedirs(f'/sandbox/d{n}/e/f'); open(f'/sandbox/d{n}/e/f/x', 'w').close()"
    )
    told = await filesystem.told(watcher)
    assert [name for what, name in told if what == "CREATE" and name.endswith("x")] == [
        f"d{number}/e/f/x" for number in range(50)
    ]


async def test_trees_that_come_and_go_without_end_take_neither_memory_nor_the_loop(world, filesystem):
    watchers = [await filesystem.watcher(recursive=True, includeEntry=True) for _ in range(8)]
    code = (
        "import os, shutil, time\nend = time.monotonic() + 8\nn = 0\nwhile time.monotonic() < end:\n n += 1\n"
        " os.makedirs(f'/sandbox/d{n}/a/b/c/d/e'); os.rename(f'/sandbox/d{n}/a', f'/sandbox/d{n}/z')\n"
        " for m in range(20): open(f'/sandbox/d{n}/z/{m}', 'w').close(); os.mkdir(f'/sandbox/d{n}/{m}')\n"
        " shutil.rmtree(f'/sandbox/d{n}')"
    )
    async with watched(world), contextlib.AsyncExitStack() as stack:
        rest = f"/api/sandboxes/sbx_{filesystem.box['sandboxID']}/watch/?recursive=1"
        for _ in range(4):
            reader, writer = await opened(world, "GET", rest, {})
            stack.callback(writer.close)
            await reader.readuntil(b"ready")
            reader = await stack.enter_async_context(filesystem.stream(recursive=True, includeEntry=True))
            await reader.readuntil(b'"start"')
        running = asyncio.create_task(filesystem.run(code))
        while not running.done():
            await filesystem("GetWatcherEvents", watcherId=watchers[0])
            await asyncio.sleep(0.1)
        await running
    for watcher in watchers[1:]:
        assert (await filesystem("GetWatcherEvents", watcherId=watcher))[0] in (200, 409)
    await filesystem("GetWatcherEvents", watcherId=watchers[0])
    await filesystem.run("import os; os.makedirs('/sandbox/after/b'); open('/sandbox/after/b/x', 'w').close()")
    for watcher in watchers:
        told = await filesystem.told(watcher)
        assert ("CREATE", "after/b/x") in told


async def test_a_tree_ends_when_its_path_leads_to_it_no_more(filesystem):
    await filesystem.run("import os; os.makedirs('/sandbox/p/w/a')")
    watcher = await filesystem.watcher("p/w", recursive=True)
    await filesystem.run("import os; os.rename('/sandbox/p', '/sandbox/q'); os.mkdir('/sandbox/q/w/b')")
    told = await filesystem.told(watcher)
    assert told == [("CREATE", "b")]
    status, body = await filesystem("GetWatcherEvents", watcherId=watcher)
    assert (status, body["code"]) == (404, "not_found"), "its path leads to it no more, so no tree can be looked at"


async def test_a_stranger_and_a_wrong_word_watch_no_tree(world, filesystem):
    sandbox = f"sbx_{filesystem.box['sandboxID']}"
    reply = await as_person(world, "bob").get(sandbox, "watch", "", params={"recursive": "1"})
    assert (reply.status, reply.code) == (404, "unknown_sandbox")
    reply = await as_person(world, "alice").get(sandbox, "watch", "", params={"recursive": "yes"})
    assert (reply.status, reply.code) == (400, "invalid_request")
    for name in ("recursive", "includeEntry"):
        for value in (1, "true", [], {}):
            status, body = await filesystem("CreateWatcher", path=".", **{name: value})
            assert (status, body["code"]) == (400, "invalid_argument")
