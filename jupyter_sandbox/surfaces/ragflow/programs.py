"""Programs as a sandbox gets them: which files, which command. Pure, but for the texts of the runners."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from typing import Any, Final

from jupyter_sandbox.command import NewCommand

WORK: Final = "/sandbox/run"
"""Where a program runs. The disk is new, so the directory is."""
ARTIFACTS: Final = f"{WORK}/artifacts"
RESULT: Final = "/sandbox/result.json"
MAX_RESULT_BYTES: Final = 2 << 20
MAX_OUTPUT_BYTES: Final = 1 << 20
"""Of each of standard output and error."""
ARGUMENTS: Final = "args.json"
_EXPORT: Final = "\n\nif (typeof main !== 'undefined') module.exports = { main };\n"


class Language(StrEnum):
    """What a program is written in."""

    PYTHON = "python"
    NODEJS = "nodejs"


@dataclass(frozen=True, kw_only=True)
class Program:
    """Code that defines `main`, and what to call it with."""

    language: Language
    code: str = field(repr=False)
    arguments: dict[str, Any] = field(repr=False)


_INTERPRETERS: Final[dict[Language, tuple[str, ...]]] = {
    Language.PYTHON: ("python3", "-I", "-B", "-u", "-c"),
    Language.NODEJS: ("node", "--max-old-space-size=65536", "-e"),  # the sandbox's limit of memory is the only one
}
_HERE: Final = resources.files("jupyter_sandbox.surfaces.ragflow")
_RUNNERS: Final = {
    Language.PYTHON: (_HERE / "runner.py").read_text(encoding="utf-8"),
    Language.NODEJS: (_HERE / "runner.js").read_text(encoding="utf-8"),
}


def files(program: Program) -> dict[str, bytes]:
    """Return what is written for a program, by path."""
    if program.language is Language.PYTHON:
        name, code = "main.py", program.code
    else:
        name, code = "main.js", program.code + _EXPORT
    return {f"{WORK}/{name}": code.encode(), f"{WORK}/{ARGUMENTS}": json.dumps(program.arguments).encode()}


def command(language: Language, timeout_s: float) -> NewCommand:
    """Return the command that runs a program where its files are."""
    return NewCommand(
        argv=(*_INTERPRETERS[language], _RUNNERS[language], RESULT, str(MAX_RESULT_BYTES)),
        cwd=WORK,
        env={"MPLBACKEND": "Agg"},  # the usual one is for notebooks
        timeout_s=timeout_s,
        max_output_bytes=MAX_OUTPUT_BYTES,
    )
