"""Depth and number of values of JSON, as they are judged before it is read."""

from __future__ import annotations

import json
import math

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


EXTREME = [f"{digit}.{'7' * 16}e{exponent}" for digit in (1, 2, -3) for exponent in ("-310", "+300", "300")]


def numbers(number, size_bytes=8 << 20):
    """JSON of that size, a list of one number again and again."""
    return b"[" + b", ".join([number.encode()] * (size_bytes // (len(number) + 2))) + b"]"


@pytest.mark.parametrize("number", [*EXTREME, EXTREME[0].upper(), "9" * 4300, "-" + "1" * 2100, "0." + "3" * 60_000])
def test_numbers_that_cost_far_more_than_others_are_few(number):
    assert not json_structure.is_bounded(numbers(number))
    assert json_structure.is_bounded(numbers(number, 1 << 20))


@pytest.mark.parametrize("number", ["0.12345678901234567", "-1.2345678901234567e-05", "3E+17", "9" * 1000])
def test_of_ordinary_numbers_there_may_be_as_many_as_of_other_values(number):
    assert json_structure.is_bounded(numbers(number, min(8 << 20, len(number) * 500_000)))


def test_the_tails_of_a_distribution_pass():
    tails = [math.exp(-((at / 5_000) ** 2)) for at in range(-130_000, 130_000)]
    assert json_structure.is_bounded(json.dumps(tails).encode())


@pytest.mark.parametrize("text", ["9" * (8 << 20), 'e-300 "\\ ' * 800_000, "1e300\\" * 1_000_000], ids=["pi", "2", "3"])
def test_what_a_text_holds_is_no_number(text):
    assert json_structure.is_bounded(json.dumps([text, *range(100)]).encode())


def test_numbers_between_texts_are_counted():
    data = json.dumps([['\\"', "e", 1.7e300]] * 65_000 + ["\\", 1.7e300] * 70_000).encode()
    assert not json_structure.is_bounded(data)


@given(
    st.integers(min_value=1, max_value=10**400),
    st.sampled_from(["", "e", "E", "e+", "E+", "e00", "E+0", "e-"]),
    st.integers(min_value=0, max_value=400),
    st.sampled_from(["", ".0", "." + "0" * 300]),
)
def test_an_infinite_number_is_never_overlooked(whole, sign, exponent, fraction):
    number = f"-{whole}{fraction}" + (f"{sign}{exponent}" if sign else "")
    data = json.dumps([0] * 100).encode() + number.encode()
    assert json_structure.may_be_infinite(data) or math.isfinite(float(number))


def test_ordinary_numbers_are_known_to_be_finite():
    assert not json_structure.may_be_infinite(json.dumps([1.2345678901234567e-05, 10**18, 0.1] * 1000).encode())
