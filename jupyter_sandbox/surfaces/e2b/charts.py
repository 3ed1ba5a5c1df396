"""What is a chart, and what the data of a frame, to E2B's clients. Pure.

Sandboxes may make up what they like, and a client looks fields up without asking whether they are there: what it would
stumble over is none. Fields that it does not know are let pass.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Final

_Fields = dict[str, tuple[type, ...]]
"""What there has to be, and of which types it may be."""

_TEXT: Final = (str, NoneType)
_NUMBER: Final = (int, float, NoneType)
_TEXT_OR_NUMBER: Final = (str, int, float, NoneType)
_PLANE: Final[_Fields] = dict.fromkeys(("x_label", "y_label", "x_unit", "y_unit"), _TEXT)
_SCALES: Final[_Fields] = {f"{axis}_{name}": (list,) for axis in "xy" for name in ("ticks", "tick_labels")}
_FIELDS: Final[dict[str, _Fields]] = {
    "line": _PLANE | _SCALES,
    "scatter": _PLANE | _SCALES,
    "bar": _PLANE,
    "box_and_whisker": _PLANE,
    "pie": {},
    "superchart": {},
    "unknown": {},
}
"""What a chart has by its type, beside `title` and `elements`."""
_POINTS: Final[_Fields] = {"label": _TEXT, "points": (list,)}
_ELEMENTS: Final[dict[str, _Fields]] = {
    "bar": {"label": _TEXT, "group": _TEXT, "value": _NUMBER},
    "pie": {"label": _TEXT, "angle": _NUMBER, "radius": _NUMBER},
    "box_and_whisker": {"label": _TEXT, "outliers": (list,)}
    | dict.fromkeys(("min", "first_quartile", "median", "third_quartile", "max"), _NUMBER),
}


def is_chart(value: object) -> bool:
    """Whether a JSON value is a chart; a superchart holds others, and none of its own kind."""
    return _is_chart(value, frozenset(_FIELDS))


def is_data(value: object) -> bool:
    """Whether a JSON value is the data of a frame: a list for each column, as long as the others."""
    if not isinstance(value, dict) or not all(isinstance(column, list) for column in value.values()):
        return False
    return len({len(column) for column in value.values()}) <= 1


def _is_chart(value: object, kinds: frozenset[str]) -> bool:
    if not isinstance(value, dict):
        return False
    kind, elements = value.get("type"), value.get("elements")
    if not isinstance(kind, str) or kind not in kinds or not isinstance(elements, list):
        return False
    if not _has(value, {"title": _TEXT} | _FIELDS[kind]):
        return False
    match kind:
        case "superchart":
            return all(_is_chart(each, kinds - {kind}) for each in elements)
        case "line" | "scatter":
            return all(_has(each, _POINTS) and all(map(_is_point, each["points"])) for each in elements)
        case "unknown":
            return True
    return all(_has(each, _ELEMENTS[kind]) for each in elements)


def _has(value: Any, fields: _Fields) -> bool:
    return isinstance(value, dict) and all(
        name in value and isinstance(value[name], kinds) for name, kinds in fields.items()
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, _TEXT_OR_NUMBER) for each in value)
