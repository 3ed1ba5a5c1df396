"""The table of systems that are measured against each other.

A system is a way to get a kernel from a Jupyter server. This module knows what each one needs to run; it refuses to
know how it is measured. To add one, add a row to `SYSTEMS`: only goals, page and plots name systems.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import containers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASELINES = ("local", "local-nodelay")
"""Each result is divided by the result of these systems in the same run."""

OUR_EXTENSION = "jupyter_sandbox"
NODELAY_EXTENSION = "benchmarks.nodelay"
WORKER_IMAGE = "jupyter-sandbox-worker:latest"
PEER_IMAGE = "jupyter-sandbox-bench-peer:1"
"""Made by `benchmarks.peer`; counted up when its Dockerfile changes."""
PEER_KERNEL = "bench_peer"
_TEMPLATE = "config/sandbox-templates/python.toml"
PEER_PYTHON = Path(sys.prefix, "peer/bin/python")


@dataclass(frozen=True, kw_only=True)
class System:
    """One way to get a kernel.

    `python` is the interpreter of the server, empty for the one that runs the benchmarks. `extensions` are Jupyter
    server extensions switched on or off; the server's log is checked for each of them, and for the `engine`. In the
    values of `environment` and in `options`, `{directory}` stands for the private directory of the server and `{name}`
    for the name of that; `files` are written into it, by relative path.
    `image` is the container image it needs; then containers that belong to the private directory count as part of the
    system and are removed at the end. What the server starts itself, however detached, is found without it.
    `roles` sorts the system's processes for the memory report: first match wins.
    `only` and `without` say in which measurements it takes part; by default in all.
    """

    name: str
    summary: str
    kernel_name: str
    python: str = ""
    packages: tuple[str, ...] = ()
    extensions: Mapping[str, bool] = field(default_factory=dict)
    engine: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    image: str = ""
    roles: tuple[tuple[str, re.Pattern[str]], ...] = ()
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def role_of(self, command: str) -> str:
        """Return the first role whose pattern occurs in `command` (process name and arguments)."""
        return next((role for role, pattern in self.roles if pattern.search(command)), "other")

    def takes_part(self, measurement: str) -> bool:
        """Whether it is measured there."""
        return measurement not in self.without and (not self.only or measurement in self.only)

    def with_small_disks(self) -> System:
        """Return the same with disks of 64 MiB, if it has any: hundreds fit on the disk of a small machine."""
        return self._with_lines("[limits]\ndisk_mib = 64\n")

    def with_room_for(self, workers: int) -> System:
        """Return the same with a template that allows so many workers, if it has one; before `with_small_disks`."""
        return self._with_lines(f"max_total = {workers}\n")

    def _with_lines(self, lines: str) -> System:
        if not self.engine:
            return self
        return replace(self, files={**self.files, _TEMPLATE: self.files.get(_TEMPLATE, "") + lines})

    def lack(self) -> str | None:
        """Return what this machine does not have of what it needs, None if nothing is known to be missing."""
        if missing := [package for package in self.packages if installed_version(package) is None]:
            return f"it needs {', '.join(missing)}"
        if self.python and not Path(self.python).exists():
            return "it is not prepared: python -m benchmarks.peer"
        return containers.lack_of_image(self.image) if self.image else None


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None if there is none (a folder of that name does not count)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


SERVER_ROLE = "server"
_SERVER = (SERVER_ROLE, re.compile(r"-m jupyter_server\b"))
_SHIM = ("container shim", re.compile("containerd-shim"))
_LOCAL_ROLES = (_SERVER, ("kernel", re.compile("ipykernel")))
_OUR_ROLES = (
    _SERVER,
    ("broker", re.compile("jupyter_sandbox.broker")),
    ("zygote", re.compile("^sandbox-zygote")),
    _SHIM,
    ("agents and kernels", re.compile("sandbox")),
)


def _pool_of(size: int) -> Mapping[str, str]:
    return {_TEMPLATE: f"min_idle = {size}\n"}


_PRELOADED = {_TEMPLATE: 'preload = ["numpy", "pandas", "matplotlib.pyplot"]\n'}
_WITHOUT_SERVER = frozenset({"notebook", "context"})
_OUR_REST = frozenset({"rest", "transfer", "interpreter", "contexts", "e2b"})
_HUNDREDS = frozenset({"density"})
"""Of one system with each engine: the others' kernels would not fit."""
_NOT_OTHERS = _OUR_REST | _HUNDREDS | {"spread"}


def _ours(
    name: str,
    summary: str,
    engine: str,
    files: Mapping[str, str] | None = None,
    only: frozenset[str] = frozenset(),
    without: frozenset[str] = frozenset(),
) -> System:
    return System(
        name=name,
        summary=summary,
        kernel_name="sandbox-python",
        packages=("jupyter-sandbox", *(("docker",) if engine == "docker" else ())),
        extensions={OUR_EXTENSION: True},
        engine=engine,
        environment={"JUPYTER_SANDBOX_DIR": "{directory}/broker", "JUPYTER_SANDBOX_ENGINE": engine},
        files=files or {},
        image=WORKER_IMAGE if engine == "docker" else "",
        roles=_OUR_ROLES,
        only=only,
        without=without,
    )


SYSTEMS: Sequence[System] = (
    System(
        name="local",
        summary="stock jupyter_server, kernel python3 beside it, no isolation",
        kernel_name="python3",
        extensions={OUR_EXTENSION: False},
        roles=_LOCAL_ROLES,
        without=frozenset({"scale"}) | _NOT_OTHERS,
    ),
    System(
        name="local-nodelay",
        summary="the same with TCP_NODELAY on the kernel websocket",
        kernel_name="python3",
        extensions={OUR_EXTENSION: False, NODELAY_EXTENSION: True},
        roles=_LOCAL_ROLES,
        without=frozenset({"memory", "idle"}) | _WITHOUT_SERVER | _NOT_OTHERS,
    ),
    _ours("embedded", "this product, engine embedded, warm pool of one", "embedded", without=_HUNDREDS),
    _ours("docker", "this product, engine docker, warm pool of one", "docker"),
    _ours(
        "embedded-cold",
        "the same without a pool: each start makes a worker",
        "embedded",
        _pool_of(0),
        frozenset({"start", "spread"}),
    ),
    _ours(
        "docker-cold",
        "the same without a pool: each start makes a container",
        "docker",
        _pool_of(0),
        frozenset({"start", "spread"}),
    ),
    _ours(
        "embedded-data",
        "with numpy, pandas and matplotlib preloaded",
        "embedded",
        _PRELOADED,
        frozenset({"memory"}) | _HUNDREDS,
    ),
    _ours("docker-data", "with numpy, pandas and matplotlib preloaded", "docker", _PRELOADED, frozenset({"memory"})),
    System(
        name="gateway",
        summary="peer: gateway-provisioners, Docker kernel containers; given TCP_NODELAY, too",
        kernel_name=PEER_KERNEL,
        python=str(PEER_PYTHON),
        extensions={NODELAY_EXTENSION: True},
        environment={"KERNEL_USERNAME": "{name}", "GP_RESPONSE_PORT_RETRIES": "100"},
        image=PEER_IMAGE,
        roles=(_SERVER, _SHIM, ("kernel", re.compile("kernel"))),
        without=frozenset({"context"}) | _NOT_OTHERS,
    ),
)
POOL_SIZES: Sequence[System] = tuple(
    _ours(
        f"{engine}-pool-{size}",
        f"engine {engine}, a pool of {size}",
        engine,
        _pool_of(size),
        frozenset({"start", "load", "churn", "memory"}),
    )
    for engine in ("embedded", "docker")
    for size in (0, 1, 2, 4, 8)
)
"""Only for who asks how large a pool should be: not part of a run whose systems nobody named."""

BY_NAME: Mapping[str, System] = {system.name: system for system in (*SYSTEMS, *POOL_SIZES)}
