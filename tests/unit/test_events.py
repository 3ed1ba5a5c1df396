"""Events: each has a schema that says exactly what it holds, and none holds what it must not."""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from enum import StrEnum

import jsonschema
import pytest
from jupyter_events.schema import EventSchema

from jupyter_sandbox import events
from jupyter_sandbox.event_log import SCHEMAS, encoded
from jupyter_sandbox.execution_fold import Outcome

pytestmark = pytest.mark.unit

SANDBOX, EXECUTION = f"sbx_{'0' * 20}", f"exe_{'0' * 20}"
VALUES = {
    "owner": "user alice",
    "request_id": "7f3a",
    "sandbox_id": SANDBOX,
    "context_id": "6ab0-1",
    "execution_id": EXECUTION,
    "command_id": f"cmd_{'0' * 20}",
    "template": "python",
    "kernel_name": "sandbox-python",
    "path": "/sandbox/a\ud800",
    "target": "/sandbox/b",
    "code_sha256": "0" * 64,
    "argv_sha256": "0" * 64,
    "code": "no_capacity",
    "operation": "claim_sandbox",
    "host": "storage.example",
    "message": "The sandbox was lost.",
    "denied": "0.0.0.0/0 ::/0",
    "excepted": "203.0.113.7/32",
    "token_id": f"tok_{'0' * 20}",
    "issued_by": f"tok_{'1' * 20}",
    "scopes": "kernels files",
}
"""A value for each field that is a text."""


def example(kind: type[events.Event]) -> events.Event:
    """An event with every field filled in."""
    values = {}
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        (main, *_) = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if main is str:
            values[name] = VALUES[name]
        elif issubclass(main, StrEnum):
            values[name] = next(iter(main))
        else:
            values[name] = main(1)
    return kind(**values)


def schema_of(kind: type[events.Event]) -> dict:
    return EventSchema._load_schema(SCHEMAS / f"{kind.name}.yaml")


@pytest.mark.parametrize("kind", events.ALL)
def test_every_event_has_a_schema_with_exactly_its_fields(kind):
    schema = schema_of(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    assert schema["$id"] == kind.schema_id()
    assert sorted(schema["properties"]) == sorted(schema["required"]) == sorted(fields)
    assert schema["additionalProperties"] is False
    assert schema["personal-data"] is True


def test_every_schema_belongs_to_an_event_and_every_event_is_listed():
    assert {path.stem for path in SCHEMAS.iterdir()} == {kind.name for kind in events.ALL}
    assert len(events.ALL) == len({kind.name for kind in events.ALL})


@pytest.mark.parametrize("kind", events.ALL)
def test_every_word_of_an_enumeration_is_one_of_the_schema(kind):
    properties = schema_of(kind)["properties"]
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            assert properties[name]["enum"] == list(hint)


@pytest.mark.parametrize("kind", events.ALL)
def test_an_event_fits_its_schema_and_another_value_does_not(kind):
    schema = EventSchema(SCHEMAS / f"{kind.name}.yaml")
    data = encoded(example(kind))
    schema.validate(data)
    for name in data:
        for wrong in ([], {"a": 1}):
            with pytest.raises(jsonschema.ValidationError):
                schema.validate(data | {name: wrong})
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(data | {"code_itself": "1"})


@pytest.mark.parametrize("text", ["", "1 + 1", "ä\n", "\ud800", "x" * 100_000])
def test_of_code_its_length_and_its_hash_are_told(text):
    told = events.Code.of(text)
    assert told.characters == len(text)
    assert told.sha256 == hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    assert dataclasses.asdict(told).keys() == {"characters", "sha256"}


def test_every_outcome_is_an_end():
    assert set(Outcome) < set(events.ExecutionEnd)


@pytest.mark.parametrize("word", ["", "MEMORY", "out of cheese", "\n"])
def test_a_word_of_the_broker_that_is_not_known_is_unknown(word):
    assert events.kernel_end(word) is events.KernelEnd.UNKNOWN
    assert events.kernel_end("memory") is events.KernelEnd.MEMORY


def test_a_sentence_is_shortened():
    assert events.shortened(None) is None
    assert events.shortened("short") == "short"
    assert len(events.shortened("x" * 5000) or "") == 1000
