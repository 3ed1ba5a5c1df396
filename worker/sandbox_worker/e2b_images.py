"""Images that E2B's clients get: those that code shows with Pillow, and those that it saves under a name.

Pillow is changed when the user's code imports it, or at once if it is imported already; nothing is imported for it.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any, Final

from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_MODULE: Final = "PIL.Image"


def display_images() -> None:
    """Make images that are shown, or saved under a name, outputs of this kernel."""
    if module := sys.modules.get(_MODULE):
        _change(module)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds nothing; changes Pillow when it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        del path, target
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                _change(module)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _change(module: Any) -> None:
    save = module.Image.save

    def save_and_display(image: Any, fp: Any, format: str | None = None, **params: Any) -> None:
        save(image, fp, format, **params)
        if isinstance(fp, str):
            display(image)

    module.Image.save = save_and_display
    module._show = lambda image, **_: display(image)  # noqa: SLF001 - what Image.show calls
