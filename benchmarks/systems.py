"""The table of systems that are measured against each other.

A system is a way to get a kernel from a Jupyter server. This module knows what each one needs to run; it refuses to
know how it is measured. To add one, add a row to `SYSTEMS`: no other module names a system.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASELINES = ("local", "local-nodelay")
"""Each result is divided by the result of these systems in the same run."""

OUR_EXTENSION = "jupyter_sandbox"
NODELAY_EXTENSION = "benchmarks.nodelay"


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to get a kernel.

    `extensions` are Jupyter server extensions switched on or off; the server's log is checked for each of them.
    In the values of `environment` and in `options`, `{directory}` stands for the private directory of the server.
    `engine_pattern` is only for engines whose workers are children of a daemon that runs already (Docker): who matches
    in name or arguments and is younger than the server counts as part of the system. What the server starts itself,
    however detached, is found without it.
    `roles` sorts the system's processes for the memory report: first match wins.
    """

    name: str
    summary: str
    kernel_name: str
    packages: tuple[str, ...] = ()
    extensions: Mapping[str, bool] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    engine_pattern: re.Pattern[str] | None = None
    roles: tuple[tuple[str, re.Pattern[str]], ...] = ()

    def role_of(self, command: str) -> str:
        """Return the first role whose pattern occurs in `command` (process name and arguments)."""
        return next((role for role, pattern in self.roles if pattern.search(command)), "other")

    def missing_packages(self) -> list[str]:
        """Return the Python packages that this system needs and this environment does not have."""
        return [package for package in self.packages if installed_version(package) is None]


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if there is none (a folder of that name does not count)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


SERVER_ROLE = "server"
_SERVER = (SERVER_ROLE, re.compile(r"-m jupyter_server\b"))
_LOCAL_ROLES = (_SERVER, ("kernel", re.compile("ipykernel")))

SYSTEMS: Sequence[System] = (
    System(
        name="local",
        summary="stock jupyter_server, kernel python3 beside it, no isolation",
        kernel_name="python3",
        extensions={OUR_EXTENSION: False},
        roles=_LOCAL_ROLES,
    ),
    System(
        name="local-nodelay",
        summary="the same with TCP_NODELAY on the kernel websocket",
        kernel_name="python3",
        extensions={OUR_EXTENSION: False, NODELAY_EXTENSION: True},
        roles=_LOCAL_ROLES,
    ),
    System(
        name="sandbox",
        summary="this product: extension jupyter_sandbox, kernel sandbox-python",
        kernel_name="sandbox-python",
        packages=("jupyter-sandbox",),
        extensions={OUR_EXTENSION: True},
        environment={"JUPYTER_SANDBOX_DIR": "{directory}/broker"},
        roles=(
            _SERVER,
            ("broker", re.compile("broker")),
            ("agent", re.compile("^sandbox-agent")),
            ("zygote", re.compile("^sandbox-zygote")),
            ("kernel", re.compile("kernel")),
        ),
    ),
)
