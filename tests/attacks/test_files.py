"""The files service against what a sandbox can put on its disk: symlinks, FIFOs, sockets, devices, holes, odd names."""

from __future__ import annotations

import os
import signal

import pytest

from tests.attacks import attacker
from tests.attacks.conftest import only_privileged

SECRET = "s3cret-outside-the-disk"

PLANT = """
import shutil
outside = {outside!r}
os.makedirs('/sandbox/plain', exist_ok=True)
write('/sandbox/plain/file', 'hello')
os.symlink(outside + '/secret', '/sandbox/absolute')
os.symlink('../' * 20 + outside[1:] + '/secret', '/sandbox/relative')
os.symlink(outside, '/sandbox/directory')
os.symlink('/proc/self/root' + outside, '/sandbox/magic')
os.symlink('plain', '/sandbox/own')
os.symlink('loop', '/sandbox/loop')
os.mkfifo('/sandbox/fifo')
s = socket.socket(socket.AF_UNIX); s.bind('/sandbox/socket'); s.listen()
attempt(os.mknod, '/sandbox/whiteout', stat.S_IFCHR | 0o600, 0)
tell(sorted(os.listdir('/sandbox')))
"""


@pytest.fixture(scope="module")
def outside(host):
    """A directory of the host's user, with a secret, that no sandbox has to do with."""
    directory = host.directory / "outside"
    host.run(
        "os.makedirs(path + '/deep'); open(path + '/secret', 'w').write(secret); open(path + '/deep/file', 'w').close()",
        path=str(directory),
        secret=SECRET,
    )
    return directory


@pytest.fixture(scope="module")
def planted(host, outside):
    box = host.sandbox("tiny")
    assert "absolute" in box.probe(PLANT.format(outside=str(outside)))
    yield box
    box.release()


@pytest.fixture
def box(claim):
    return claim()


def refusal(box, *arguments, **keywords) -> str:
    with pytest.raises(attacker.Refusal) as caught:
        box.file(*arguments, **keywords)
    return caught.value.code


def untouched(outside) -> bool:
    return (
        sorted(path.name for path in outside.rglob("*")) == ["deep", "file", "secret"]
        and (outside / "secret").read_text() == SECRET
    )


LINKS = ["absolute", "relative", "directory/secret", "magic/secret", "own/file", "loop"]


@pytest.mark.parametrize("path", LINKS)
def test_no_symlink_is_read_written_or_listed_through(planted, outside, path):
    assert refusal(planted, "reading", path) == "file_refused"
    assert refusal(planted, "write", path, "x") == "file_refused"
    assert refusal(planted, "listing", path) == "file_refused"
    assert refusal(planted, "make_directory", f"{path}/new") == "file_refused"
    assert refusal(planted, "move", "plain/file", f"{path}/new") in ("file_refused", "file_conflict")
    assert untouched(outside)


@pytest.mark.parametrize("path", ["directory", "magic"])
def test_nothing_is_moved_or_deleted_through_a_symlink(planted, outside, path):
    assert refusal(planted, "delete", f"{path}/secret") == "file_refused"
    assert refusal(planted, "delete", f"{path}/deep", recursive=True) == "file_refused"
    assert refusal(planted, "move", f"{path}/secret", "stolen") == "file_refused"
    assert refusal(planted, "stat", f"{path}/secret") == "file_refused"
    assert untouched(outside)


def test_a_tree_with_symlinks_is_deleted_without_what_they_point_to(box, outside):
    links = [f"os.symlink({str(outside)!r}, '/sandbox/tree/link{number}')" for number in range(3)]
    box.execute(
        "os.makedirs('/sandbox/tree/sub')\n" + "\n".join(links) + "\nos.symlink('/sandbox', '/sandbox/tree/sub/up')"
    )
    box.file("delete", "tree", recursive=True)
    assert refusal(box, "stat", "tree") == "unknown_file"
    assert untouched(outside)


@pytest.mark.parametrize("path", ["fifo", "socket", "whiteout"])
def test_what_is_no_regular_file_is_refused_at_once_and_can_be_deleted(planted, path):
    assert planted.file("stat", path)["kind"] == "other"
    assert refusal(planted, "reading", path) == "file_refused"
    assert refusal(planted, "write", path, "x") == "file_refused"
    assert refusal(planted, "listing", path) == "file_conflict"
    planted.file("delete", path)


@pytest.mark.parametrize(
    "path", ["../upper", "/etc/passwd", "plain/../../work", "%2e%2e/upper", "a\x00b", "\ud800", ""]
)
def test_a_path_that_leads_out_is_refused_before_anything_is_opened(planted, path):
    for operation in ("reading", "listing", "stat", "delete", "make_directory"):
        assert refusal(planted, operation, path) == "invalid_request"


@pytest.mark.parametrize("source", ["/etc/passwd", "/usr/bin/env", "/proc/version", "/tmp/mine", "/dev/null"])
def test_a_file_of_another_file_system_cannot_be_linked_onto_the_disk(inside, source):
    inside.execute("write('/tmp/mine', 'x')")
    assert inside.ask(f"attempt(os.link, {source!r}, '/sandbox/linked')") in ("EXDEV", "EPERM")


def test_a_hard_link_shows_the_sandboxs_own_file_and_a_write_parts_it(box):
    box.execute("write('/sandbox/one', 'own'); os.link('/sandbox/one', '/sandbox/two')")
    assert box.file("reading", "two") == "own"
    box.file("write", "two", "new")
    assert (box.file("reading", "one"), box.file("reading", "two")) == ("own", "new")


def test_what_one_side_writes_the_other_owns(box):
    box.file("write", "dir/ours", "from the host", parents=True)
    box.file("make_directory", "made")
    own = "[os.stat('/sandbox/' + name).st_uid == os.getuid() for name in ('dir', 'dir/ours', 'made')]"
    assert box.ask(own) == [True, True, True]
    box.execute(
        "write('/sandbox/dir/ours', 'changed'); write('/sandbox/theirs', 'x'); os.chmod('/sandbox/theirs', 0o600)"
    )
    assert box.file("reading", "dir/ours") == "changed"
    assert box.file("reading", "theirs") == "x"
    box.execute("shutil = __import__('shutil'); shutil.rmtree('/sandbox/dir'); os.rmdir('/sandbox/made')")
    assert refusal(box, "stat", "dir") == refusal(box, "stat", "made") == "unknown_file"


def test_permissions_that_a_sandbox_took_away_do_not_keep_its_tree_from_being_deleted(box):
    box.execute(
        "os.makedirs('/sandbox/a/b/c/d'); write('/sandbox/a/b/file', 'x')\n"
        "for path in ('a/b/c/d', 'a/b/c', 'a/b', 'a'): os.chmod('/sandbox/' + path, 0)"
    )
    box.file("delete", "a", recursive=True)
    assert box.ask("os.listdir('/sandbox')") == []


def test_a_tree_deeper_than_any_path_is_deleted(box):
    deep = (
        "os.mkdir('/sandbox/deep'); os.chdir('/sandbox/deep')\n"
        "for _ in range(400): os.mkdir('x' * 40); os.chdir('x' * 40); write('file', '') if _ % 8 == 0 else None\n"
        "os.chdir('/'); tell('made')"
    )
    assert box.probe(deep) == "made"
    assert refusal(box, "delete", "deep") == "file_conflict"
    box.file("delete", "deep", recursive=True)
    assert box.ask("os.listdir('/sandbox')") == []


def test_names_that_are_no_text_are_listed_and_deleted_with_their_directory(box):
    names = [b"\xff\xfe", b"new\nline", b"\xe2\x80\xaegnp.exe", b"x" * 255, b"-rf", b"%2e%2e", b"..."]
    box.execute(f"os.mkdir('/sandbox/odd')\nfor name in {names!r}: open(b'/sandbox/odd/' + name, 'w').close()")
    found = box.file("listing", "odd")["entries"]
    assert sorted(entry["name"].encode("utf-8", "surrogateescape") for entry in found) == sorted(names)
    assert [entry["name"] for entry in found if entry["is_nameable"]] == ["-rf", "...", "x" * 255, "\u202egnp.exe"]
    assert refusal(box, "reading", "odd/new\nline") == "invalid_request"
    box.file("delete", "odd", recursive=True)
    assert box.ask("os.listdir('/sandbox')") == []


def test_pages_of_a_large_directory_fit_together_while_it_changes(box):
    box.execute("os.mkdir('/sandbox/many')\nfor i in range(300): os.mkdir(f'/sandbox/many/{i:05}')")
    seen, after = [], ""
    while True:
        page = box.file("listing", "many", after=after, limit=100)
        names = [entry["name"] for entry in page["entries"]]
        seen += names
        after = page["after"]
        if after is None:
            break
        box.execute(f"os.rmdir('/sandbox/many/{names[0]}'); os.mkdir('/sandbox/many/{names[0]}x')")
    assert seen == sorted(seen)
    assert {f"{i:05}" for i in range(300)} <= set(seen)


@only_privileged
def test_a_directory_of_100_000_names_is_listed_in_pages_and_deleted(box):
    fill = (
        "os.mkdir('/sandbox/many')\n"
        "for i in range(100_000):\n"
        "    if i % 50_000 == 0: write(f'/sandbox/first{i}', ''); first = f'/sandbox/first{i}'\n"
        "    os.link(first, f'/sandbox/many/{i:06}')\n"
        "tell('made')"
    )
    assert box.probe(fill, timeout=60) == "made"
    page = box.file("listing", "many", after="050000", limit=1000)
    assert [entry["name"] for entry in page["entries"]] == [f"{i:06}" for i in range(50_001, 51_001)]
    assert page["after"] == "051000"
    box.file("delete", "many", recursive=True)
    assert box.ask("sorted(os.listdir('/sandbox'))") == ["first0", "first50000"]


MEMORY = """
import resource
async def read_some(path, limit):
    total = 0
    async with FILES.reading(box.id, path) as reading:
        async for block in reading:
            total += len(block)
            if total >= limit:
                break
    return reading.size, total
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = asyncio.run(read_some(path, limit))
result = [*answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]
"""


def test_a_hole_of_a_terabyte_is_read_in_blocks_and_takes_no_memory(box):
    assert box.ask("attempt(os.truncate, os.open('/sandbox/hole', os.O_CREAT | os.O_RDWR), 1 << 40)") == "done"
    assert box.file("reading", "hole", start=-3) == "\0\0\0"
    assert box.file("reading", "hole", start=(1 << 40) - 2, size=100) == "\0\0"
    size, total, grown_kib = box.host.run(
        f"box = SANDBOXES[number]\n{MEMORY}", number=box.number, path="hole", limit=300 << 20
    )
    assert (size, total) == (1 << 40, 300 << 20)
    assert grown_kib < 32 * 1024
    box.file("delete", "hole")


CHANGING = """
async def read_changing(path, code):
    async with FILES.reading(box.id, path) as reading:
        blocks = aiter(reading)
        first = await anext(blocks)
        box.execute(code)
        return reading.size, len(first) + sum([len(block) async for block in blocks])
result = list(asyncio.run(read_changing(path, code)))
"""


def test_a_file_that_grows_is_read_as_long_as_it_was(box):
    box.execute("write('/sandbox/file', 'x' * 3_000_000)")
    order = f"box = SANDBOXES[number]\n{CHANGING}"
    grow = "write('/sandbox/file', 'y' * 9_000_000)"
    assert box.host.run(order, number=box.number, path="file", code=grow) == [3_000_000, 3_000_000]


def test_a_file_that_shrinks_ends_with_an_error_not_with_a_wrong_length(box):
    box.execute("write('/sandbox/file', 'x' * 3_000_000)")
    with pytest.raises(attacker.Refusal) as caught:
        box.host.run(
            f"box = SANDBOXES[number]\n{CHANGING}",
            number=box.number,
            path="file",
            code="os.truncate('/sandbox/file', 1_500_000)",
        )
    assert caught.value.code == "file_changed"


def test_a_lease_that_a_sandbox_holds_on_a_file_does_not_keep_the_host_waiting(box):
    lease = "import fcntl; write('/sandbox/file', 'x'); f = open('/sandbox/file', 'r+'); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)"
    assert box.ask(f"(exec({lease!r}, globals()), 'held')[1]") == "held"
    assert refusal(box, "reading", "file") == "file_changed"


def test_a_full_disk_is_told_with_the_sandbox_and_leaves_the_old_file(box):
    box.file("write", "file", "old")
    used = box.do("box.row().disk_bytes")
    with pytest.raises(attacker.Refusal, match=box.id) as caught:
        box.host.run(
            "box = SANDBOXES[number]\n"
            "async def endless():\n"
            "    while True: yield bytes(1 << 20)\n"
            "asyncio.run(FILES.write(box.id, 'file', endless()))",
            number=box.number,
        )
    assert caught.value.code == "disk_full"
    assert box.file("reading", "file") == "old"
    assert box.ask("os.listdir('/sandbox')") == ["file"]
    attacker.wait_until(lambda: box.do("box.row().disk_bytes") <= used + (1 << 20))


def test_a_tree_is_deleted_from_a_disk_that_is_full_to_the_last_block(box):
    fill = (
        "for i in range(60): os.makedirs(f'/sandbox/tree/a/{i}' + 'x' * 200 + '/deep/deeper')\n"
        "os.mkdir('/sandbox/tree/a/full')\n"
        "for size in (1 << 20, 4096, 1):\n"
        "    try:\n"
        "        for i in range(300):\n"
        "            with open(f'/sandbox/tree/a/full/{size}-{i}', 'wb') as f: f.write(bytes(size))\n"
        "    except OSError as error: last = error.errno\n"
        "tell(_errno.errorcode[last])"
    )
    assert box.probe(fill) == "ENOSPC"
    assert refusal(box, "write", "file", "x" * 4096) == "disk_full"
    box.file("delete", "tree", recursive=True)
    assert box.ask("os.listdir('/sandbox')") == []


def test_a_disk_without_inodes_is_full(box):
    box.execute(
        "os.mkdir('/sandbox/many')\nwhile attempt(os.mkdir, f'/sandbox/many/{os.urandom(8).hex()}') == 'done': pass"
    )
    assert refusal(box, "write", "file", "x") == "disk_full"
    assert refusal(box, "make_directory", "new") == "disk_full"
    box.file("delete", "many", recursive=True)
    box.file("write", "file", "x")


def lose_broker(host, box):
    """Kill the broker, and take the sandbox over with the next one."""
    broker = host.broker_pid()
    os.kill(broker, signal.SIGKILL)
    attacker.wait_until(lambda: not os.path.exists(f"/proc/{broker}"))
    box.do("(box.lease.listen(), asyncio.run(box.lease.reattach()))")
    assert box.do("box.lease.loss") is None


def test_without_root_the_files_of_a_sandbox_whose_broker_was_killed_can_be_used_from_inside_only():
    with attacker.running_host(attacker.USER) as host:
        box = host.sandbox("tiny")
        box.execute("write('/sandbox/theirs', 'x')")
        lose_broker(host, box)
        assert refusal(box, "reading", "theirs") == "invalid_request"
        assert box.ask("read('/sandbox/theirs')") == "x"
        box.release()


def test_the_files_of_a_sandbox_whose_root_broker_was_killed_can_be_used_as_before():
    with attacker.running_host(0) as host:
        box = host.sandbox("tiny")
        box.execute("write('/sandbox/theirs', 'x'); os.chmod('/sandbox/theirs', 0o600)")
        lose_broker(host, box)
        for _ in range(2):
            assert box.file("reading", "theirs") == "x"
        box.file("write", "dir/ours", "y", parents=True)
        assert box.ask("read('/sandbox/dir/ours')") == "y"
        assert box.ask("os.stat('/sandbox/dir/ours').st_uid == os.getuid()")
        flags = host.run(
            "box = SANDBOXES[number]\nview = box.disk()\nresult = os.fstatvfs(view).f_flag\nos.close(view)",
            number=box.number,
        )
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOEXEC
        assert box.do("box.row().disk_bytes") > 0
        box.release()
