"""What the kernel tells of a directory, put together: each name once, nothing that came and went."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")

from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.host import changes
from sandbox_worker import linux

pytestmark = pytest.mark.unit

MASKS = [
    *(linux.IN_CREATE, linux.IN_MOVED_TO, linux.IN_DELETE, linux.IN_MOVED_FROM, linux.IN_MODIFY, linux.IN_ATTRIB),
    *(linux.IN_Q_OVERFLOW, linux.IN_DELETE_SELF, linux.IN_MOVE_SELF, linux.IN_UNMOUNT, 0x8000, 0x40000000),
]


def read(*events: tuple[int, bytes]) -> list[tuple[int, str]]:
    """What a read of the kernel's queue tells."""
    return [(mask, os.fsdecode(name)) for mask, name in events]


def told(*events: tuple[int, bytes]) -> changes.Changes:
    return changes.together(read(*events))


def words(*events: tuple[int, bytes]) -> list[tuple[str, str]]:
    return [(change.what, change.name) for change in told(*events).changes]


def test_each_name_is_told_once():
    assert words((linux.IN_CREATE, b"a"), (linux.IN_MODIFY, b"a"), (linux.IN_ATTRIB, b"a")) == [("created", "a")]
    assert words((linux.IN_MODIFY, b"a"), (linux.IN_MODIFY, b"b"), (linux.IN_MODIFY, b"a")) == [
        ("changed", "a"),
        ("changed", "b"),
    ]
    assert words((linux.IN_MODIFY, b"a"), (linux.IN_DELETE, b"a")) == [("deleted", "a")]
    assert words((linux.IN_DELETE, b"a"), (linux.IN_CREATE, b"a")) == [("changed", "a")]
    assert words((linux.IN_MOVED_FROM, b"a"), (linux.IN_MOVED_TO, b"b")) == [("deleted", "a"), ("created", "b")]


def test_what_came_and_went_is_not_told():
    assert words((linux.IN_CREATE, b"a"), (linux.IN_MODIFY, b"a"), (linux.IN_DELETE, b"a")) == []


def test_what_was_there_before_and_went_is_told_though_another_took_its_place():
    assert words((linux.IN_MOVED_TO, b"a"), (linux.IN_DELETE, b"a")) == [("deleted", "a")]
    assert words((linux.IN_DELETE, b"a"), (linux.IN_CREATE, b"a"), (linux.IN_DELETE, b"a")) == [("deleted", "a")]


def test_what_came_or_changed_in_a_directory_that_went_is_not_told():
    gone = (linux.IN_MOVED_FROM | linux.IN_ISDIR, b"d")
    events = ((linux.IN_CREATE, b"d/new"), (linux.IN_MODIFY, b"d/old"), (linux.IN_DELETE, b"d/gone"), gone)
    assert words(*events) == [("deleted", "d/gone"), ("deleted", "d")]
    again = (linux.IN_CREATE | linux.IN_ISDIR, b"d")
    assert words(*events, again, (linux.IN_CREATE, b"d/new"))[1:] == [("created", "d"), ("created", "d/new")]


def test_separately_the_same_name_in_a_directory_that_came_is_told_again():
    there = (linux.IN_CREATE | linux.IN_ISDIR, b"d/e")
    gone = (linux.IN_MOVED_FROM | linux.IN_ISDIR, b"d")
    assert separate(there, gone, there) == [("created", "d/e"), ("moved", "d"), ("created", "d/e")]


def test_a_queue_that_ran_over_is_told():
    assert words((linux.IN_MODIFY, b"a"), (linux.IN_Q_OVERFLOW, b"")) == [("changed", "a"), ("lost", "")]


@pytest.mark.parametrize("mask", [linux.IN_DELETE_SELF, linux.IN_MOVE_SELF])
def test_the_end_of_the_directory_is_told(mask):
    assert told((linux.IN_DELETE, b"a"), (mask, b"")).is_gone
    assert not told((linux.IN_DELETE, b"a")).is_gone


def test_the_end_of_the_disk_is_told():
    assert told((linux.IN_UNMOUNT, b"")).is_unmounted
    assert not told((linux.IN_DELETE_SELF, b"")).is_unmounted


@given(some.lists(some.tuples(some.sampled_from(MASKS), some.sampled_from([b"", b"a", b"b", b"\xff"]))))
def test_there_is_never_more_to_tell_than_there_are_names(events):
    found = told(*events).changes
    assert len({change.name for change in found}) == len(found)
    assert {change.name for change in found} <= {"", *(name.decode("utf-8", "surrogateescape") for _, name in events)}


def separate(*events: tuple[int, bytes]) -> list[tuple[str, str]]:
    return [(change.what, change.name) for change in changes.separately(read(*events)).changes]


def test_separately_each_change_is_told_in_its_order():
    assert separate((linux.IN_CREATE, b"a"), (linux.IN_MODIFY, b"a"), (linux.IN_MODIFY, b"a")) == [
        ("created", "a"),
        ("changed", "a"),
    ]
    assert separate((linux.IN_MODIFY, b"a"), (linux.IN_MODIFY, b"b"), (linux.IN_MODIFY, b"a")) == [
        ("changed", "a"),
        ("changed", "b"),
    ]
    assert separate((linux.IN_CREATE, b"a"), (linux.IN_DELETE, b"a"), (linux.IN_CREATE, b"a")) == [
        *(("created", "a"), ("changed", "a"), ("deleted", "a"), ("created", "a"), ("changed", "a"))
    ]
    assert separate((linux.IN_MOVED_FROM, b"a"), (linux.IN_MOVED_TO, b"b"), (linux.IN_ATTRIB, b"b")) == [
        *(("moved", "a"), ("created", "b"), ("changed", "b"), ("altered", "b"))
    ]


def test_separately_a_directory_has_no_content_that_changes():
    assert separate((linux.IN_CREATE | linux.IN_ISDIR, b"a")) == [("created", "a")]


def test_separately_the_name_for_a_moment_is_not_told():
    moment = b".0123456789abcdef.upload"
    events = ((linux.IN_CREATE, moment), (linux.IN_MOVED_FROM, moment), (linux.IN_MOVED_TO, b"a"))
    assert separate(*events) == [("created", "a"), ("changed", "a")]
    assert separate((linux.IN_CREATE, b"dir/" + moment)) == []


@given(some.lists(some.tuples(some.sampled_from(MASKS), some.binary(max_size=4)), max_size=40))
def test_separately_no_more_is_told_than_happened_and_the_ends_are_the_same(events):
    data = read(*events)
    separated, together = changes.separately(data), changes.together(data)
    assert (separated.is_gone, separated.is_unmounted) == (together.is_gone, together.is_unmounted)
    assert len(separated.changes) <= 2 * len(events)
    lost = changes.Change(what=changes.What.LOST, name="")
    assert (lost in separated.changes) == (lost in together.changes)
    assert {change.name for change in together.changes} <= {change.name for change in separated.changes}
