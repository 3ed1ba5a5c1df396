"""Variables of the environment that are there while one piece of code runs, in each language. Pure.

A line comes before the code, where it can on the same line as its first, so that tracebacks count as their reader does.
Python puts back what was there before by itself; in other languages that is a piece of code of its own.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.languages import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    if language not in _WORDS:
        raise InvalidRequestError(f"env_vars and the language {language} do not go together")
    return f"{_setting(language, variables)}{code}"


def restoring(language: str, names: Mapping[str, str], before: Mapping[str, str]) -> str | None:
    """Return code to run after `preceded`, or None if that has done it: variables get the values of `before`."""
    return None if language == PYTHON else _setting(language, {name: before.get(name) for name in names})


def _python(code: str, variables: Mapping[str, str]) -> str:
    """One line comes before the code, as far indented as it is; a magic of the whole cell leaves no place for one."""
    stripped = code.lstrip()
    begin = len(code) - len(stripped)  # of the first word
    indent = code[code.rfind("\n", 0, begin) + 1 : begin] if stripped else ""
    if stripped.startswith("%%") and not indent:
        raise InvalidRequestError("env_vars and a magic of the whole cell do not go together")
    return f"{indent}exec({_PYTHON!r}, {{'new': {dict(variables)!r}}})\n{code}"


@dataclass(frozen=True, kw_only=True)
class _Words:
    """How a language sets a variable and takes it away; `quoted` makes a literal of a text."""

    put: str
    drop: str
    quoted: Callable[[str], str] = json.dumps
    end: str = "; "


def _r_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # R knows no pairs of surrogates


_DENO: Final = _Words(put="Deno.env.set({name}, {value})", drop="Deno.env.delete({name})")
_WORDS: Final = {
    "javascript": _DENO,
    "typescript": _DENO,
    "r": _Words(
        put="invisible(do.call(Sys.setenv, list({name} = {value})))",
        drop="invisible(Sys.unsetenv({name}))",
        quoted=_r_text,
    ),
    # Java cannot change its environment: as on E2B they are system properties.
    "java": _Words(put="System.setProperty({name}, {value})", drop="System.clearProperty({name})"),
    "bash": _Words(put="export {name}={value}", drop="unset {name}", quoted=shlex.quote, end="\n"),
}


def _setting(language: str, values: Mapping[str, str | None]) -> str:
    """Return code that gives variables these values; None takes one away."""
    words = _WORDS[language]
    pieces = (
        words.drop.format(name=words.quoted(name))
        if value is None
        else words.put.format(name=words.quoted(name), value=words.quoted(value))
        for name, value in values.items()
    )
    return "".join(f"{piece}{words.end}" for piece in pieces)
