"""What a request may hold: shapes that judge a decoded JSON value, and print themselves as JSON Schema. Pure.

A surface says with them what it accepts, once; the judgement and the published schema cannot differ. Also decodes JSON
strictly: one value, no NaN or infinite numbers, no name twice, no half characters.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import json_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Schema = dict[str, Any]

REQUIRED: Final = object()
NAME: Final = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
"""Text on one line: no control characters, no line breaks of any kind."""
NO_NUL: Final = r"^[^\u0000]*$"

_SHOWN: Final = 3
"""Of unknown names, in a refusal."""


class Shape(Protocol):
    """Judges a value, and describes itself."""

    def judge(self, value: object, where: str) -> Any:
        """Return the judged value; raises InvalidRequestError that names `where` and never quotes the value."""
        ...

    def schema(self) -> Schema:
        """Return the JSON Schema of what is accepted."""
        ...


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text of so many characters. `pattern` is anchored, and means the same to Python and ECMAScript."""

    max_length: int
    min_length: int = 0
    pattern: str = NO_NUL
    examples: tuple[str, ...] = ()

    def judge(self, value: object, where: str) -> str:
        """See Shape."""
        if not isinstance(value, str):
            raise InvalidRequestError(f"{where} must be a text")
        if not self.min_length <= len(value) <= self.max_length:
            raise InvalidRequestError(f"{where} must have {self.min_length} to {self.max_length} characters")
        if _has_half_characters(value):
            raise InvalidRequestError(f"{where} holds half a character (a lone surrogate)")
        if re.search(self.pattern.removesuffix("$") + r"\Z", value) is None:
            raise InvalidRequestError(f"{where} holds characters that are not accepted there; see {self.pattern}")
        return value

    def schema(self) -> Schema:
        """See Shape."""
        schema: Schema = {"type": "string", "maxLength": self.max_length}
        if self.min_length:
            schema["minLength"] = self.min_length
        if self.pattern:
            schema["pattern"] = self.pattern
        if self.examples:
            schema["examples"] = list(self.examples)
        return schema


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number, with or without a fraction."""

    minimum: float
    maximum: float

    def judge(self, value: object, where: str) -> float:
        """See Shape."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.minimum <= value <= self.maximum:
            raise InvalidRequestError(f"{where} must be a number from {self.minimum:g} to {self.maximum:g}")
        return float(value)

    def schema(self) -> Schema:
        """See Shape."""
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An integer. In a query it comes as decimal digits."""

    minimum: int
    maximum: int

    def judge(self, value: object, where: str) -> int:
        """See Shape."""
        if isinstance(value, float) and value.is_integer():  # JSON knows one kind of number: 1.0 is 1
            value = int(value)
        if type(value) is not int or not self.minimum <= value <= self.maximum:
            raise InvalidRequestError(f"{where} must be an integer from {self.minimum} to {self.maximum}")
        return value

    def schema(self) -> Schema:
        """See Shape."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def judge(self, value: object, where: str) -> bool:
        """See Shape."""
        if not isinstance(value, bool):
            raise InvalidRequestError(f"{where} must be true or false")
        return value

    def schema(self) -> Schema:
        """See Shape."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def judge(self, value: object, where: str) -> str:
        """See Shape."""
        if not isinstance(value, str) or value not in self.words:
            raise InvalidRequestError(f"{where} must be one of {', '.join(self.words)}")
        return value

    def schema(self) -> Schema:
        """See Shape."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, kw_only=True)
class Table:
    """An object with names of the client's choice."""

    names: Text
    values: Text
    max_entries: int
    max_characters: int | None = None
    """Of all names and values together."""

    def judge(self, value: object, where: str) -> dict[str, str]:
        """See Shape."""
        if not isinstance(value, dict) or len(value) > self.max_entries:
            raise InvalidRequestError(f"{where} must be an object with at most {self.max_entries} entries")
        judged = {
            self.names.judge(name, f"a name in {where}"): self.values.judge(text, f"a value in {where}")
            for name, text in value.items()
        }
        size = sum(len(name) + len(text) for name, text in judged.items())
        if self.max_characters is not None and size > self.max_characters:
            raise InvalidRequestError(f"{where} must have at most {self.max_characters} characters in all")
        return judged

    def schema(self) -> Schema:
        """See Shape."""
        schema: Schema = {
            "type": "object",
            "maxProperties": self.max_entries,
            "propertyNames": self.names.schema(),
            "additionalProperties": self.values.schema(),
        }
        if self.max_characters is not None:
            schema["description"] = f"At most {self.max_characters} characters in all, names and values."
        return schema


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of values of one shape."""

    shape: Shape
    min_items: int
    max_items: int

    def judge(self, value: object, where: str) -> tuple[Any, ...]:
        """See Shape."""
        if not isinstance(value, list) or not self.min_items <= len(value) <= self.max_items:
            raise InvalidRequestError(f"{where} must be a list of {self.min_items} to {self.max_items} values")
        return tuple(self.shape.judge(each, f"{where}[{number}]") for number, each in enumerate(value))

    def schema(self) -> Schema:
        """See Shape."""
        return {
            "type": "array",
            "items": self.shape.schema(),
            "minItems": self.min_items,
            "maxItems": self.max_items,
        }


@dataclass(frozen=True)
class Nullable:
    """A value of that shape, or null."""

    shape: Shape

    def judge(self, value: object, where: str) -> Any:
        """See Shape."""
        return None if value is None else self.shape.judge(value, where)

    def schema(self) -> Schema:
        """See Shape."""
        return {"anyOf": [self.shape.schema(), {"type": "null"}]}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named value of a record. `default` stands for a value that is not there."""

    shape: Shape
    summary: str
    default: object = REQUIRED


@dataclass(frozen=True, kw_only=True)
class Record:
    """An object with known names and no others; `build` makes a frozen value of them.

    Of `alternatives` one may be there at most, and if `needs_one` exactly one.
    """

    name: str
    fields: Mapping[str, Field]
    build: Callable[..., Any] = field(default=dict)
    alternatives: tuple[str, ...] = ()
    needs_one: bool = False

    def judge(self, value: object, where: str = "the body") -> Any:
        """See Shape."""
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{where} must be a JSON object")
        unknown = heapq.nsmallest(_SHOWN, (name for name in value if name not in self.fields))
        if unknown:
            shown = ", ".join(ascii(name[:40]) for name in unknown)
            raise InvalidRequestError(f"{where} has unknown fields: {shown}; known: {', '.join(self.fields) or 'none'}")
        missing = [name for name, each in self.fields.items() if each.default is REQUIRED and name not in value]
        if missing:
            raise InvalidRequestError(f"{where} lacks {', '.join(missing)}")
        chosen = sum(name in value for name in self.alternatives)
        if chosen > 1 or (self.needs_one and not chosen):
            raise InvalidRequestError(f"{where} needs one of {', '.join(self.alternatives)}, and not more of them")
        return self.build(
            **{
                name: each.shape.judge(value[name], name) if name in value else each.default
                for name, each in self.fields.items()
            }
        )

    def schema(self) -> Schema:
        """See Shape."""
        properties = {}
        for name, each in self.fields.items():
            properties[name] = each.shape.schema() | {"description": _joined(each)}
            if each.default is not REQUIRED and each.default is not None:
                properties[name]["default"] = each.default
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [name for name, each in self.fields.items() if each.default is REQUIRED]
        choices: list[Schema] = [{"required": [name]} for name in self.alternatives]
        if self.alternatives and not self.needs_one:
            choices.append({"not": {"anyOf": list(choices)}})
        return schema | ({"required": required} if required else {}) | ({"oneOf": choices} if choices else {})


def decode(data: bytes) -> object:
    """Return the one JSON value that `data` is, if it is not too deep and has not too many values or hard numbers.

    Raises InvalidRequestError.
    """
    if not json_structure.is_bounded(data):
        raise InvalidRequestError(
            "the body is nested too deeply, or holds too many values, or numbers that are hard to read"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not UTF-8") from None
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None
    except ValueError:  # its message may quote the body
        raise InvalidRequestError(
            "the body is not JSON, or names a field twice, or holds a number that is none"
        ) from None


def decode_object(data: bytes) -> dict[str, Any]:
    """Return the one JSON object that `data` is; raises InvalidRequestError."""
    value = decode(data)
    if not isinstance(value, dict):
        raise InvalidRequestError("the body must be a JSON object")
    return value


def _joined(each: Field) -> str:
    return " ".join(filter(None, (each.summary, each.shape.schema().get("description"))))


def _has_half_characters(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name comes twice")
    return table


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_constant, object_pairs_hook=_unique)
