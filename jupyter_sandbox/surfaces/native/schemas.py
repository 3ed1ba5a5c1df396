"""Pieces that answers and their schemas are put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from jupyter_sandbox.guards.shapes import Schema

TIME: Final[Schema] = {"type": "string", "format": "date-time"}
TEXT: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def time(value: datetime | None) -> str | None:
    """ISO 8601 in UTC, as Jupyter writes it."""
    return None if value is None else value.isoformat(timespec="microseconds").replace("+00:00", "Z")


def record(**properties: Schema) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def or_null(schema: Schema) -> Schema:
    """What that schema says, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(name: str) -> Schema:
    """A list of values with that schema of the document."""
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
