"""Load debugpy when somebody debugs: it is 9 MiB of every container, and 40 ms of its start.

ipykernel imports it with its own debugger, which each kernel has, although only an inspection of variables needs it
there; a debugger that is attached is imported by a cell that ipykernel runs. (The kernels of a zygote share what it
loaded, so they have it at once.)
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

_WANTED: Final = {
    "debugpy.server": ("api",),
    "_pydevd_bundle": ("pydevd_frame_utils",),
    "_pydevd_bundle.pydevd_suspended_frames": ("SuspendedFramesManager", "_FramesTracker"),
}
"""What ipykernel's debugger imports of it, by module."""

_DEBUGGER: Final = "ipykernel.debugger"


def defer() -> None:
    """Import ipykernel's debugger without debugpy. It is left as it comes if it is of a version that wants more."""
    if find_spec("debugpy") is None or any(name in sys.modules for name in (_DEBUGGER, *_WANTED)):
        return
    for name, wanted in _WANTED.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(dict.fromkeys(wanted))
    try:
        debugger: Any = importlib.import_module(_DEBUGGER)
    finally:
        for name in _WANTED:
            del sys.modules[name]
    if debugger._is_debugpy_available and hasattr(debugger, "VariableExplorer"):  # noqa: SLF001 - no public name
        debugger.VariableExplorer = _LaterExplorer
    else:
        importlib.reload(debugger)


class _LaterExplorer:
    """Becomes ipykernel's explorer of variables when it is first used."""

    def __getattr__(self, name: str) -> Any:
        """Return what the explorer has; debugpy is there from now on."""
        debugger: Any = sys.modules[_DEBUGGER]
        if debugger.VariableExplorer is _LaterExplorer:
            importlib.reload(debugger)  # into the same namespace, which is that of the debugger in use
        vars(self).update(vars(debugger.VariableExplorer()))
        self.__class__ = debugger.VariableExplorer
        return getattr(self, name)
