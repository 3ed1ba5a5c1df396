"""Real clients, real workers: a broker tree, kernelspecs of the tests' own, and how clients are run.

The browser test beside us brings its own things: nothing here is autouse.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_sandbox.host import places
from tests.e2e import kernels
from tests.e2e.served import served_for_e2b
from tests.server.brokers import Tree, nothing_is_claimed

OURS = "test_browser.py"
KERNELSPEC = Path(__file__).resolve().parents[2] / "kernelspecs" / "sandbox-python" / "kernel.json"


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name != OURS:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def kept_tree():
    """A broker tree for all tests of this folder."""
    tree = Tree()
    yield tree
    tree.stop()


@pytest.fixture(scope="module")
def tree(kept_tree, tmp_path_factory):
    """The broker tree of a module, with its broker running; at the end everything must have been given back."""
    kept_tree.start()
    scratch = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(places.SOCKET_VARIABLE, raising=False)
        patch.setenv(places.DIRECTORY_VARIABLE, str(kept_tree.directory))
        patch.setenv("JUPYTER_PATH", str(scratch / "share"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(scratch / "runtime"))
        patch.setenv("IPYTHONDIR", str(scratch / "ipython"))
        kept_tree.kernelspecs = scratch / "share" / "kernels"
        yield kept_tree
        asyncio.run(nothing_is_claimed())


@pytest.fixture(scope="module")
def served(tree, tmp_path_factory):
    """A server, and the settings that lead E2B's SDK to it; modules that want another one say so."""
    with served_for_e2b(tmp_path_factory.mktemp("e2b"), "--min-idle-workers=1", "--max-total-workers=6") as server:
        yield server


@pytest.fixture(scope="module")
def add_kernelspec(tree):
    """Install a kernelspec for this module: `add_kernelspec("ro", workspace="ro", argv=[...])`; returns its name."""

    def add(name, *, argv=None, interrupt_mode=None, env=None, **config):
        spec = json.loads(KERNELSPEC.read_text())
        spec["argv"] = argv or spec["argv"]
        spec["interrupt_mode"] = interrupt_mode or spec["interrupt_mode"]
        spec["env"] = env or {}
        spec["metadata"]["kernel_provisioner"].setdefault("config", {}).update(config)
        directory = tree.kernelspecs / name
        directory.mkdir(parents=True)
        (directory / "kernel.json").write_text(json.dumps(spec))
        return name

    return add


@pytest.fixture(scope="module")
def kernel(tree, tmp_path_factory):
    """One sandbox kernel for a whole module; tests must leave it usable."""
    with kernels.started(cwd=tmp_path_factory.mktemp("notebooks")) as started:
        yield started


@pytest.fixture
def new_kernel(tree, tmp_path):
    """Start kernels that end with the test: `kernel = new_kernel("ro")`."""
    with kernels.several(tmp_path) as start:
        yield start


@pytest.fixture
def run_module(tree, tmp_path):
    """Run a client program: `done = run_module("nbconvert", "--execute", ...)`; fails when it does not end in time."""

    def run(*command, cwd=tmp_path, timeout=60, **kwargs):
        return subprocess.run(
            [sys.executable, "-m", *map(str, command)],
            cwd=cwd,
            env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            timeout=timeout,
            text=True,
            capture_output=True,
            check=False,
            **kwargs,
        )

    return run
