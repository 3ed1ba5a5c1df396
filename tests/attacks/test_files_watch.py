"""Watching a directory of a sandbox: what is told, that it stays little, and that it ends with the sandbox."""

from __future__ import annotations

import pytest

from tests.attacks import attacker

WATCH = """
async def watch(path, code, enough):
    seen = []
    async with WATCHES.watching(OWNER, box.id, path) as changes:
        await asyncio.to_thread(exec, code, globals())
        async with asyncio.timeout(20):
            async for batch in changes:
                seen += [[change.what, change.name] for change in batch]
                if len(seen) >= enough or seen[-1][0] == 'lost':
                    return seen
result = asyncio.run(watch(path, code, enough))
"""


@pytest.fixture
def box(claim):
    return claim()


def watch(box, code, *, path=".", enough=1):
    """What is told while `code` runs in the client process, where `inside(code)` runs code in the sandbox."""
    inside = "def inside(code): assert box.execute(code)['status'] == 'ok'\n"
    return box.host.run(
        f"box = SANDBOXES[number]\n{inside}{WATCH}", number=box.number, path=path, code=code, enough=enough
    )


def test_what_changes_is_told_once_for_each_name(box):
    box.execute("write('/sandbox/old', 'x'); write('/sandbox/moving', 'x')")
    code = "write('/sandbox/new', 'x' * 100_000); os.remove('/sandbox/old')\n"
    code += (
        "os.rename('/sandbox/moving', '/sandbox/moved')\nwrite('/sandbox/passing', ''); os.remove('/sandbox/passing')"
    )
    seen = watch(box, f"inside({code!r})", enough=4)
    assert sorted(seen) == [["created", "moved"], ["created", "new"], ["deleted", "moving"], ["deleted", "old"]]


def test_what_the_host_writes_is_told_like_what_the_sandbox_writes(box):
    box.execute("os.mkdir('/sandbox/dir'); write('/sandbox/dir/file', 'old')")
    code = "for path in ('dir/file', 'dir/other', 'elsewhere'): box.file('write', path, 'x')"
    assert sorted(watch(box, code, path="dir", enough=2)) == [["created", "file"], ["created", "other"]]


def test_more_changes_than_the_kernel_keeps_are_told_as_lost(box):
    box.execute("os.mkdir('/sandbox/a')")
    code = "for _ in range(20_000): os.rename('/sandbox/a', '/sandbox/b'); os.rename('/sandbox/b', '/sandbox/a')"
    code = f"inside({code!r})"
    seen = watch(box, code, enough=1000)
    assert seen[-1] == ["lost", ""]
    assert len(seen) < 200, "two names that flip are not many changes"


@pytest.mark.parametrize("code", ["os.rmdir('/sandbox/dir')", "os.rename('/sandbox/dir', '/sandbox/other')"])
def test_a_watch_ends_when_its_directory_is_moved_or_deleted(box, code):
    box.execute("os.mkdir('/sandbox/dir')")
    with pytest.raises(attacker.Refusal) as caught:
        watch(box, f"inside({code!r})", path="dir")
    assert caught.value.code == "unknown_file"


def test_a_watch_ends_with_its_sandbox_and_keeps_nothing_of_it(box):
    with pytest.raises(attacker.Refusal) as caught:
        watch(box, "box.release()", enough=1000)
    assert caught.value.code == "unknown_sandbox"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        ("os.symlink('/etc', '/sandbox/x')", "file_refused"),
        ("os.mkfifo('/sandbox/x')", "file_conflict"),
        ("write('/sandbox/x', '')", "file_conflict"),
        ("pass", "unknown_file"),
    ],
)
def test_only_a_directory_of_the_disk_is_watched(box, make, code):
    box.execute(make)
    with pytest.raises(attacker.Refusal) as caught:
        watch(box, "", path="x")
    assert caught.value.code == code


def test_the_number_of_watches_is_bounded_and_they_are_given_back(box):
    order = (
        "import contextlib\n"
        "async def many():\n"
        "    async with contextlib.AsyncExitStack() as stack:\n"
        "        for _ in range(17): await stack.enter_async_context(WATCHES.watching(OWNER, box.id, '.'))\n"
    )
    before = box.host.run("result = len(os.listdir('/proc/self/fd'))")
    for _ in range(2):
        with pytest.raises(attacker.Refusal) as caught:
            box.host.run(f"box = SANDBOXES[number]\n{order}asyncio.run(many())", number=box.number)
        assert caught.value.code == "no_capacity"
    assert box.host.run("result = len(os.listdir('/proc/self/fd'))") == before
