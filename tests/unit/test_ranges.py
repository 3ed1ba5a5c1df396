"""The header Range: one range of bytes, or none."""

from __future__ import annotations

import pytest

from jupyter_sandbox.guards.ranges import ByteRange, judge

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "start", "size"),
    [("bytes=0-0", 0, 1), ("bytes=7-", 7, None), ("bytes=-7", -7, None), ("Bytes= 1-9 ", 1, 9)],
)
def test_one_range_is_understood(text, start, size):
    assert judge(text) == ByteRange(start=start, size=size)


@pytest.mark.parametrize(
    "text", ["", "bytes", "bytes=", "bytes=-", "bytes=2-1", "bytes=0-1,3-4", "bytes=\u0661-", "x=1-2"]
)
def test_what_is_no_range_is_none(text):
    assert judge(text) is None


def test_the_last_no_bytes_are_beyond_every_end():
    assert judge("bytes=-0").start > 1 << 63
