"""Depth and number of values of JSON, as they are judged before it is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox.guards import json_structure

pytestmark = pytest.mark.unit


@given(st.text(alphabet='[]{},:"\\a1 ', max_size=400))
def test_depth_is_never_misjudged_for_what_a_reader_accepts(text):
    """Compared with a reader that knows nothing of our shortcuts."""

    def depth(value) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0

    raw = text.encode()
    try:
        value = json.loads(raw)
    except ValueError:
        return
    padded = b"[" * 90 + raw + b"]" * 90 + b" " * 20
    assert json_structure.is_bounded(padded) == (90 + depth(value) <= 100)


@pytest.mark.parametrize(
    ("data", "is_bounded"),
    [
        (b'{"a": [1, 2]}', True),
        (json.dumps(["[" * 100_000]).encode(), True),
        (json.dumps([0] * 500_000).encode(), True),
        (json.dumps([0] * 600_000).encode(), False),
        (b"[" + b"[]," * 65_535 + b"1]", True),
        (b"[" + b"[]," * 65_536 + b"1]", False),
        (b"[" * 100_000, False),
        (b"[" * 51 + b"]" * (8 << 20), False),
    ],
    ids=["small", "brackets in a text", "many", "too many", "wide", "too wide", "deep", "endless ends"],
)
def test_the_number_of_values_is_bounded(data, is_bounded):
    assert json_structure.is_bounded(data) == is_bounded
