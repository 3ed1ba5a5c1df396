"""Which directory each of the kernel's numbers stands for, whatever is moved, and that nothing is told twice or missed."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")

from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.host import changes
from jupyter_sandbox.host.trees import READ_BYTES, Found, Tree
from sandbox_worker import linux

pytestmark = pytest.mark.unit

TOP = 1
DIR = linux.IN_ISDIR


def tree(*paths: str, is_deep: bool = True) -> Tree:
    """A tree in which the watched directory has number 1, and the directories below it 2, 3, ..."""
    return Tree(Found(top=TOP, watched=dict(enumerate(paths, 2))), is_deep=is_deep)


def read(*events: tuple[int, int, str], size: int = 0) -> bytes:
    """What a read of the kernel's queue gives; `size`: how large it is at least."""
    data = b""
    for number, mask, name in events:
        raw = name.encode()
        padded = raw + bytes(16 - len(raw) % 16) if raw else b""
        data += struct.pack("iIII", number, mask, 0, len(padded)) + padded
    while len(data) < size:
        data += struct.pack("iIII", 99, linux.IN_MODIFY, 0, 16) + b"unknown".ljust(16, b"\0")
    return data


def names(watched: Tree, *events: tuple[int, int, str]) -> list[str]:
    """The paths of which something was told."""
    return [path for _, path in watched.hear(read(*events)).happened]


def test_a_name_is_told_by_its_path():
    assert names(tree("a", "a/b"), (1, linux.IN_MODIFY, "x"), (2, linux.IN_MODIFY, "x"), (3, linux.IN_MODIFY, "x")) == [
        *("x", "a/x", "a/b/x")
    ]


def test_new_directories_are_to_be_looked_into_unless_they_went_again():
    heard = tree("a").hear(
        read((1, linux.IN_CREATE | DIR, "b"), (2, linux.IN_MOVED_TO | DIR, "c"), (1, linux.IN_CREATE, "file"))
    )
    assert (heard.new, heard.left, heard.is_lost) == (("b", "a/c"), (), False)
    assert tree().hear(read((1, linux.IN_CREATE | DIR, "b"), (1, linux.IN_DELETE | DIR, "b"))).new == ()


def test_one_directory_alone_looks_into_none():
    heard = tree(is_deep=False).hear(read((1, linux.IN_CREATE | DIR, "b"), (-1, linux.IN_Q_OVERFLOW, "")))
    assert (heard.new, heard.is_lost) == ((), False)
    assert heard.happened == [(linux.IN_CREATE | DIR, "b"), changes.MORE]


def test_what_is_below_a_directory_that_moved_is_forgotten_and_the_new_name_is_looked_into():
    watched = tree("a", "a/b", "a/b/c", "ab")
    heard = watched.hear(
        read(
            (1, linux.IN_MOVED_FROM | DIR, "a"),
            (1, linux.IN_MOVED_TO | DIR, "z"),
            *((number, linux.IN_MODIFY, "old") for number in (2, 3, 4, 5)),
        )
    )
    assert (sorted(heard.left), heard.new) == ([2, 3, 4], ("z",))
    assert [path for _, path in heard.happened] == ["a", "z", "ab/old"], "under the old name nothing is told"
    watched.add(Found(top=TOP, watched={6: "z", 7: "z/b"}))
    assert names(watched, (7, linux.IN_MODIFY, "new")) == ["z/b/new"]


def test_a_number_is_given_to_another_directory_only_after_the_kernel_said_so():
    watched = tree("a")
    watched.hear(read((1, linux.IN_MOVED_FROM | DIR, "a")))
    watched.add(Found(top=TOP, watched={2: "b"}))
    assert names(watched, (2, linux.IN_MODIFY, "old"), (2, linux.IN_IGNORED, ""), (2, linux.IN_MODIFY, "new")) == [
        "b/new"
    ]


def test_a_directory_that_is_gone_is_forgotten():
    watched = tree("a")
    assert names(watched, (2, linux.IN_DELETE_SELF, ""), (2, linux.IN_IGNORED, ""), (2, linux.IN_MODIFY, "x")) == []
    assert len(watched) == 1


def test_the_end_of_the_watched_directory_is_told_and_that_of_one_below_is_not():
    watched = tree("a")
    assert not changes.together(watched.hear(read((2, linux.IN_MOVE_SELF, ""))).happened).is_gone
    assert changes.together(watched.hear(read((1, linux.IN_MOVE_SELF, ""))).happened).is_gone
    assert changes.together(watched.hear(read((2, linux.IN_UNMOUNT, ""))).happened).is_unmounted


def found(number: int, path: str, *inside: str) -> Found:
    return Found(top=TOP, watched={number: path}, names=[(linux.IN_CREATE, f"{path}/{name}") for name in inside])


def test_what_was_found_in_a_new_directory_is_told_once():
    watched = tree()
    watched.hear(read((1, linux.IN_CREATE | DIR, "a")))
    assert [path for _, path in watched.add(found(2, "a", "x", "y"))] == ["a/x", "a/y"]
    told = changes.separately(watched.hear(read((2, linux.IN_CREATE, "x"))).happened).changes
    assert [change.what for change in told] == ["changed"], "it may have another content than the one found"
    assert [
        change.what for change in changes.together(watched.hear(read((2, linux.IN_CREATE, "y"))).happened).changes
    ] == ["created"], "all that was in the queue had been heard"


def test_what_was_found_and_came_again_is_told_again():
    watched = tree()
    watched.add(found(2, "a", "x"))
    happened = watched.hear(
        read((2, linux.IN_CREATE, "x"), (2, linux.IN_DELETE, "x"), (2, linux.IN_CREATE, "x"))
    ).happened
    assert [change.what for change in changes.separately(happened).changes] == [
        "changed",
        "deleted",
        "created",
        "changed",
    ]


def test_a_directory_that_is_found_before_the_kernel_tells_of_it_is_looked_into_once():
    watched = tree()
    inside = Found(top=TOP, watched={2: "a", 3: "a/b"}, names=[(linux.IN_CREATE | DIR, "a/b")])
    watched.add(inside)
    heard = watched.hear(read((2, linux.IN_CREATE | DIR, "b")))
    assert (heard.new, heard.left, changes.separately(heard.happened).changes) == ((), (), ())
    assert names(watched, (3, linux.IN_MODIFY, "x")) == ["a/b/x"]


def test_another_directory_in_the_place_of_one_that_was_found_is_looked_into():
    watched = tree()
    watched.add(Found(top=TOP, watched={2: "a", 3: "a/b"}, names=[(linux.IN_CREATE | DIR, "a/b")]))
    heard = watched.hear(read((2, linux.IN_MOVED_TO | DIR, "b")))
    assert (heard.new, heard.left) == (("a/b",), (3,))


def test_after_a_loss_what_is_found_takes_the_place_of_all():
    watched = tree("a", "b")
    heard = watched.hear(read((-1, linux.IN_Q_OVERFLOW, "")))
    assert (heard.is_lost, heard.happened) == (True, [changes.MORE])
    assert watched.renew(Found(top=TOP, watched={1: "", 2: "c", 4: "d"})) == (3,)
    assert names(watched, (1, 2, "x"), (2, 2, "x"), (3, 2, "x"), (4, 2, "x")) == ["x", "c/x", "d/x"]


EVENTS = some.lists(
    some.tuples(
        some.integers(1, 6),
        some.sampled_from(
            [
                *(linux.IN_CREATE, linux.IN_MOVED_TO, linux.IN_DELETE, linux.IN_MOVED_FROM, linux.IN_MODIFY),
                *(linux.IN_Q_OVERFLOW, linux.IN_DELETE_SELF, linux.IN_IGNORED),
            ]
        ),
        some.sampled_from([0, DIR]),
        some.sampled_from(["", "a", "b"]),
    )
)
PATHS = some.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a"])


@given(some.lists(some.tuples(EVENTS, some.dictionaries(some.integers(2, 6), PATHS), some.booleans()), max_size=6))
def test_however_directories_come_and_go_no_two_numbers_mean_the_same(rounds):
    watched = tree("a", "a/b")
    for events, dirs, is_full in rounds:
        data = read(*((number, mask | more, name) for number, mask, more, name in events), size=READ_BYTES * is_full)
        heard = watched.hear(data)
        assert len(heard.happened) <= len(events)
        new = Found(top=TOP, watched=dirs, names=[(linux.IN_CREATE, f"{path}/x") for path in dirs.values()])
        told = watched.renew(new) if heard.is_lost else watched.add(new)
        assert len(told) <= max(6, len(dirs))
        assert watched._numbers == {path: number for number, path in watched._paths.items()}
        assert {path for paths in watched._below.values() for path in paths} == {
            path for path in watched._numbers if path
        }, "nothing is remembered of directories that are gone"
        assert watched.top == TOP
        assert watched._paths[TOP] == ""


@given(some.binary(max_size=200))
def test_any_bytes_are_heard(data):
    tree("a").hear(data)
