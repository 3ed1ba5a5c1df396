"""Templates that were defined while a broker ran, kept for the brokers that come: one JSON file for each.

They may hold secrets in their environments, so the files are their owner's alone. A file that cannot be read, or whose
template the operator's ceiling does not allow any more, is passed over and stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import template_shape
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.guards import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jupyter_sandbox.specs import Ceiling, Template

_MAX_BYTES: Final = 1 << 20

log = logging.getLogger(__name__)


class TemplateStore:
    """A directory of templates. All of it is blocking: call it in threads."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made when there is something to keep."""
        self._directory = directory

    def load(self, ceiling: Ceiling) -> Iterator[Template]:
        """Yield every template that can be used, in the order of their names."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                with path.open("rb") as file:
                    value = shapes.decode(file.read(_MAX_BYTES))
                yield template_shape.judge(path.stem, value, ceiling)
            except (OSError, SandboxError) as error:
                log.error("the template in %s is not used: %s", path.name, error)

    def write(self, template: Template) -> None:
        """Keep a template, whole or as it was before, also over a crash of the machine. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(template.name)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(template_shape.definition(template), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._settle()

    def remove(self, name: str) -> None:
        """Forget a template; quiet when it is not kept. Raises OSError."""
        path = self._path(name)
        if path.exists():
            path.unlink()
            self._settle()

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _settle(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
