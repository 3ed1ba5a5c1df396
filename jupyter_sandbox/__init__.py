"""jupyter-sandbox: one Jupyter server outside, only the kernel inside an isolated worker."""

from __future__ import annotations

from typing import Any

from jupyter_sandbox._version import __version__

__all__ = ["__version__"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell jupyter_server where our extension is; imported only when a server asks."""
    from jupyter_sandbox.extension import SandboxExtension

    return [{"module": "jupyter_sandbox", "app": SandboxExtension}]
