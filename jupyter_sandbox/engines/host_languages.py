"""Which languages the kernels of an embedded worker can speak: what of the host's programs it sees.

It looks, and starts nothing: whether a kernel works is known when it starts.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_sandbox.engines import zygotes
from jupyter_sandbox.languages import TABLE, Language
from sandbox_worker.protocol import PREFIX, PROGRAM_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence


def of_this_host() -> tuple[str, ...]:
    """Return the languages of workers made here by this Python, by name. Blocking."""
    return found(zygotes.shown_paths(), PROGRAM_PATH, sys.prefix)


def found(shown: Sequence[str], path: str, prefix: str) -> tuple[str, ...]:
    """Return the languages by name. `shown`: what workers see of the host; `path`, `prefix`: theirs. Blocking."""
    importlib.invalidate_caches()  # what was installed since is found, too
    return tuple(language.name for language in TABLE if _is_there(language, shown, path, prefix))


def _is_there(language: Language, shown: Sequence[str], path: str, prefix: str) -> bool:
    files = [Path(file.replace(PREFIX, prefix)) for file in language.files]
    return (
        all(_is_seen(shutil.which(program, path=path), shown) for program in language.programs)
        and all(importlib.util.find_spec(module) is not None for module in language.modules)
        and (not files or any(file.exists() for file in files))
    )


def _is_seen(program: str | None, shown: Sequence[str]) -> bool:
    """Whether a program is there for a worker: what it is a symlink to may lie where workers see nothing."""
    return program is not None and any(Path(program).resolve().is_relative_to(directory) for directory in shown)
