"""Shapes judge as their own schema says, and decoding is strict."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards.shapes import (
    NAME,
    Choice,
    Field,
    Flag,
    Items,
    Nullable,
    Number,
    Record,
    Table,
    Text,
    Whole,
    decode,
)

pytestmark = pytest.mark.unit

SHAPES = {
    "text": Text(max_length=3, min_length=1),
    "name": Text(max_length=9, pattern=NAME),
    "pattern": Text(max_length=9, pattern=r"^[a-z]+$"),
    "number": Number(minimum=1, maximum=9),
    "whole": Whole(minimum=0, maximum=9),
    "flag": Flag(),
    "choice": Choice(("a", "b")),
    "table": Table(names=Text(max_length=2, pattern=r"^[a-z]*$"), values=Text(max_length=2), max_entries=2),
    "items": Items(shape=Whole(minimum=0, maximum=9), min_items=1, max_items=2),
    "nullable": Nullable(Flag()),
    "record": Record(
        name="Point",
        fields={
            "x": Field(shape=Number(minimum=0, maximum=1), summary="."),
            "y": Field(shape=Flag(), summary=".", default=None),
        },
    ),
    "one of two": Record(
        name="Either",
        alternatives=("x", "y"),
        needs_one=True,
        fields={name: Field(shape=Flag(), summary=".", default=None) for name in ("x", "y", "a")},
    ),
    "one of two or none": Record(
        name="Or",
        alternatives=("x", "y"),
        fields={name: Field(shape=Flag(), summary=".", default=None) for name in ("x", "y", "a")},
    ),
}
JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-2, 12)
    | some.floats(-2, 12)
    | some.text(max_size=4)
    | some.sampled_from("abx"),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["x", "y", "a", "B", "abc"]), inner, max_size=3)
    ),
    max_leaves=5,
)
TEXTS = ["", "a", "abcd", "a\n", "\n", "a\0", "\x7f", "\u2028", "é", "\U0001f600" * 3]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@given(value=JSON | some.sampled_from(TEXTS))
def test_a_shape_accepts_what_its_schema_accepts(shape, value):
    assume('\\n"' not in json.dumps(value))  # Python's `$`, which this judge of schemas uses, lets a last newline pass
    is_valid = Draft202012Validator(shape.schema()).is_valid(value)
    try:
        shape.judge(value, "it")
    except InvalidRequestError as refused:
        assert not is_valid, refused
    else:
        assert is_valid


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_schema_is_one(shape):
    Draft202012Validator.check_schema(shape.schema())


def test_half_a_character_is_refused_though_a_schema_cannot_say_so():
    with pytest.raises(InvalidRequestError, match="half a character"):
        SHAPES["text"].judge("\ud800", "it")


@pytest.mark.parametrize("shape", [SHAPES["name"], SHAPES["pattern"]], ids=["name", "pattern"])
def test_a_last_newline_does_not_pass(shape):
    with pytest.raises(InvalidRequestError):
        shape.judge("a\n", "it")


def test_a_refusal_names_the_place_and_does_not_quote_the_value():
    with pytest.raises(InvalidRequestError) as refused:
        SHAPES["record"].judge({"x": "s3cret"}, "the body")
    assert str(refused.value) == "x must be a number from 0 to 1"


def test_an_unknown_name_is_shown_in_ascii_and_short():
    with pytest.raises(InvalidRequestError) as refused:
        SHAPES["record"].judge({"\u202e" * 1000: 1})
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 400


def test_what_is_not_there_has_its_default():
    assert SHAPES["record"].judge({"x": 1}) == {"x": 1.0, "y": None}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{} {}",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"9" * 5000,
        b'{"a": 1, "a": 1}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_is_refused_without_a_quote(data):
    with pytest.raises(InvalidRequestError) as refused:
        decode(data)
    assert len(str(refused.value)) < 200


@given(JSON)
def test_json_is_decoded(value):
    assert decode(json.dumps(value).encode()) == value


def test_a_refusal_names_three_of_many_unknown_fields_and_sorts_none_of_the_rest():
    compared = 0

    class Name(str):
        __slots__ = ()

        def __lt__(self, other):
            nonlocal compared
            compared += 1
            return str.__lt__(self, other)

    names = [Name(f"{at * 7919 % 10_007:05}") for at in range(10_007)]
    with pytest.raises(InvalidRequestError, match="fields: '00000', '00001', '00002'; known"):
        Record(name="none", fields={}).judge(dict.fromkeys(names))
    assert compared < 2 * len(names)
