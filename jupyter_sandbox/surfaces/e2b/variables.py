"""Variables of the environment that are there while one piece of code runs, in each language. Pure.

A line comes before the code, where it can on the same line as its first, so that tracebacks count as their reader does.
Python puts back what was there before by itself; in other languages that is a piece of code of its own.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.languages import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, str | None]

_PYTHON: Final = """
import os
from IPython import get_ipython
before = {name: os.environ.get(name) for name in new}
os.environ.update(new)
events = get_ipython().events
def restore(*_):
    events.unregister("post_run_cell", restore)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
events.register("post_run_cell", restore)
"""


def preceded(language: str, code: str, new: Mapping[str, str], usual: Mapping[str, str]) -> str:
    """Return code that has the variables `new` while it runs. Raises InvalidRequestError where there is no way.

    `usual` are those of the sandbox, which the kernel was started with; to Java they are told again and again.
    """
    variables = {**usual, **new} if language == "java" else new
    if not variables:
        return code
    if language == PYTHON:
        return _python(code, variables)
    if language not in _SETTERS:
        raise InvalidRequestError(f"env_vars and the language {language} do not go together")
    return f"{_SETTERS[language](variables)}{code}"


def restoring(language: str, names: Mapping[str, str], before: Mapping[str, str]) -> str | None:
    """Return code to run after `preceded`, or None if that has done it: variables get the values of `before`."""
    return None if language == PYTHON else _SETTERS[language]({name: before.get(name) for name in names})


def _python(code: str, variables: Mapping[str, str]) -> str:
    """One line comes before the code, as far indented as it is; a magic of the whole cell leaves no place for one."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    if first.startswith("%%"):
        raise InvalidRequestError("env_vars and a magic of the whole cell do not go together")
    indent = first[: len(first) - len(first.lstrip())]
    return f"{indent}exec({_PYTHON!r}, {{'new': {dict(variables)!r}}})\n{code}"


def _deno(values: Values) -> str:
    calls = (
        f"Deno.env.delete({json.dumps(name)});"
        if value is None
        else f"Deno.env.set({json.dumps(name)}, {json.dumps(value)});"
        for name, value in values.items()
    )
    return f"{' '.join(calls)} "


def _r(values: Values) -> str:
    calls = (
        f"Sys.unsetenv({_r_text(name)});"
        if value is None
        else f"do.call(Sys.setenv, list({_r_text(name)} = {_r_text(value)}));"
        for name, value in values.items()
    )
    return f"invisible({{{' '.join(calls)}}}); "


def _r_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # R knows no pairs of surrogates


def _java(values: Values) -> str:
    """Java cannot change its environment: as on E2B they are system properties."""
    calls = (
        f"System.clearProperty({json.dumps(name)});"
        if value is None
        else f"System.setProperty({json.dumps(name)}, {json.dumps(value)});"
        for name, value in values.items()
    )
    return f"{' '.join(calls)} "


def _bash(values: Values) -> str:
    lines = (
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}" for name, value in values.items()
    )
    return "".join(f"{line}\n" for line in lines)


_SETTERS: Final[dict[str, Callable[[Values], str]]] = {
    "javascript": _deno,
    "typescript": _deno,
    "r": _r,
    "java": _java,
    "bash": _bash,
}
