"""What the code interpreter's API accepts, and how it says what is wrong with a request. Pure.

The fields and the form of problems are those of the API's first implementation, which FastAPI made; clients look at
`detail` only. A request is judged as a whole: all that is wrong with it is told at once.
"""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import paths, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

Problem = dict[str, Any]
Location = tuple[str | int, ...]

MAX_FILES: Final = 100
MAX_URL: Final = 8192
MAX_PROBLEMS: Final = 100
"""How many are told of one request."""
_MAX_PATH: Final = 1024
_MAX_NAME: Final = 255
_PATH: Final = r"^/sandbox(/[\w\-]+(\.[\w\-]+)*)*/?$"
_NAME: Final = r"^[\w\-\.]+$"
_ECHO: Final = 100


@dataclass(frozen=True, kw_only=True)
class FileName:
    """A file of a request: as the client named it, and its path in the sandbox."""

    path: str
    name: str
    full_path: str
    url: str = field(default="", repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """The fields of a presigned POST; None: the file is PUT."""


def words(problems: Sequence[Problem]) -> str:
    """Return in a sentence what is wrong."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems[:5])


def missing(*location: str | int) -> Problem:
    """Return the problem of a field that is not there."""
    return _problem("missing", location, "Field required", None)


def user(values: Sequence[bytes]) -> tuple[str, list[Problem]]:
    """Judge `user_uuid` of a query; return it as it is written from now on, or what is wrong."""
    location = ("query", "user_uuid")
    if not values:
        return "", [missing(*location)]
    text = values[-1].decode("utf-8", "replace")
    try:
        return str(uuid.UUID(text)), []
    except ValueError:
        return "", [_problem("uuid_parsing", location, "Input should be a valid UUID", text)]


def code(data: bytes, max_characters: int) -> tuple[str, list[Problem]]:
    """Judge the body of an execution."""
    table, problems = _table(data)
    found = _texts(table, {"code": lambda text: _length(text, 0, max_characters)}, (), ("body",), problems)
    return found.get("code", ""), problems


def uploads(data: bytes) -> tuple[list[FileName], list[Problem]]:
    """Judge the body of an upload."""
    return _files(data, "download_url")


def exports(data: bytes) -> tuple[list[FileName], list[Problem]]:
    """Judge the body of an export."""
    return _files(data, "upload_url", has_form=True)


def names(data: bytes) -> tuple[list[FileName], list[Problem]]:
    """Judge the body of a deletion."""
    return _files(data, None)


def full_path(path: str, name: str) -> str:
    """Return where a file is: in the directory `path`, or at `path` if that ends with its name already."""
    whole = path.rstrip("/")
    return whole if whole.rpartition("/")[2] == name and whole not in paths.HOMES else f"{whole}/{name}"


def _files(data: bytes, url: str | None, *, has_form: bool = False) -> tuple[list[FileName], list[Problem]]:
    table, problems = _table(data)
    if problems:
        return [], problems
    problems += _extras(table, {"files"}, ("body",))
    rows = table.get("files")
    if "files" not in table:
        return [], [*problems, missing("body", "files")]
    if not isinstance(rows, list):
        return [], [*problems, _problem("list_type", ("body", "files"), "Input should be a valid list", rows)]
    if not 1 <= len(rows) <= MAX_FILES:
        kind, words = ("too_short", "at least 1 item") if not rows else ("too_long", f"at most {MAX_FILES} items")
        message = f"List should have {words} after validation, not {len(rows)}"
        return [], [*problems, _problem(kind, ("body", "files"), message, None)]
    judges = {"path": _path, "name": _name} | ({url: _url} if url else {})
    found = []
    for index, row in enumerate(rows):
        location: Location = ("body", "files", index)
        if not isinstance(row, dict):
            problems.append(_problem("model_attributes_type", location, "Input should be an object", row))
            continue
        texts = _texts(row, judges, ("upload_fields",) if has_form else (), location, problems)
        form = _form(row.get("upload_fields"), (*location, "upload_fields"), problems) if has_form else None
        if len(texts) == len(judges):
            path, name = texts["path"], texts["name"]
            whole = full_path(path, name)
            found.append(FileName(path=path, name=name, full_path=whole, url=texts.get(url or "", ""), form=form))
    return found, problems


def _form(value: object, location: Location, problems: list[Problem]) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        problems.append(_problem("dict_type", location, "Input should be an object of texts", None))
        return None
    return value


def _table(data: bytes) -> tuple[dict[str, Any], list[Problem]]:
    if not data.strip():
        return {}, [missing("body")]
    try:
        value = shapes.decode(data)
    except InvalidRequestError as error:
        return {}, [_problem("json_invalid", ("body",), f"JSON decode error: {error}", None)]
    if not isinstance(value, dict):
        return {}, [_problem("model_attributes_type", ("body",), "Input should be an object", value)]
    return value, []


def _texts(
    table: dict[str, Any],
    judges: Mapping[str, Callable[[str], tuple[str, str] | None]],
    others: tuple[str, ...],
    location: Location,
    problems: list[Problem],
) -> dict[str, str]:
    """Return the texts of a table that are what `judges` want; what is wrong is added to `problems`."""
    if problems and not table:
        return {}
    found = {}
    for name, judge in judges.items():
        if name not in table:
            problems.append(missing(*location, name))
        elif not isinstance(value := table[name], str):
            problems.append(_problem("string_type", (*location, name), "Input should be a valid string", value))
        elif (verdict := judge(value)) is not None:
            problems.append(_problem(verdict[0], (*location, name), verdict[1], value))
        else:
            found[name] = value
    problems += _extras(table, {*judges, *others}, location)
    return found


def _length(text: str, least: int, most: int) -> tuple[str, str] | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
    if len(text) < least:
        return "string_too_short", f"String should have at least {least} character{'s' * (least != 1)}"
    if len(text) > most:
        return "string_too_long", f"String should have at most {most} characters"
    return None


def _path(text: str) -> tuple[str, str] | None:
    return _length(text, 1, _MAX_PATH) or _pattern(_PATH, text)


def _name(text: str) -> tuple[str, str] | None:
    wrong = _length(text, 1, _MAX_NAME) or _pattern(_NAME, text)
    if wrong is None and text in (".", ".."):
        return "value_error", "Value error, a name is no way to another directory"
    return wrong


def _pattern(pattern: str, text: str) -> tuple[str, str] | None:
    if re.fullmatch(pattern.removesuffix("$"), text) is None:
        return "string_pattern_mismatch", f"String should match pattern '{pattern}'"
    return None


def _url(text: str) -> tuple[str, str] | None:
    wrong = _length(text, 1, MAX_URL)
    if wrong is None and re.match(r"https?://[^/]", text, re.IGNORECASE) is None:
        return "url_parsing", "Input should be a valid URL"
    return wrong


def _extras(table: dict[str, Any], known: Set[str], location: Location) -> list[Problem]:
    """Return the problems of fields that are not known, as many as are told."""
    names = itertools.islice((name for name in table if name not in known), MAX_PROBLEMS)
    words = "Extra inputs are not permitted"
    return [_problem("extra_forbidden", (*location, name[:_ECHO]), words, table[name]) for name in names]


def _problem(kind: str, location: Location, message: str, value: object) -> Problem:
    """Return a problem; a value that is short and no secret is shown."""
    is_short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _ECHO)
    is_shown = is_short and "url" not in str(location[-1])
    return {"type": kind, "loc": list(location), "msg": message, "input": value if is_shown else None}
