"""Run the specs of @jupyterlab/services on our kernels: `python tests/conformance/lab.py CHECKOUT [PROVISIONER]`

CHECKOUT is one of JupyterLab's repository: its npm packages do not bring the specs. Needs Node.js 20 and `npm`, and JupyterLab in
this Python (`make .venv/.test`). Every kernel of these specs is started by PROVISIONER: ours, or `local-provisioner` for comparison.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SPECS = ("test/kernel/", "test/session", "test/kernelspec", "test/manager.spec.ts")
"""What needs kernels; the rest speaks to other services of Jupyter."""
PACKAGES = (
    "@jupyter/ydoc@4",
    *(f"@jupyterlab/{name}" for name in ("coreutils", "nbformat", "settingregistry", "statedb", "testing")),
    *(f"@lumino/{name}" for name in ("coreutils", "disposable", "polling", "properties", "signaling")),
    *("jest@29", "jest-environment-jsdom@29", "ts-jest@29", "typescript@5.9", "ws"),
)
JEST = """
const config = require('@jupyterlab/testing/lib/jest-config')(__dirname);
const tsconfig = { target: 'ES2018', module: 'commonjs', esModuleInterop: true, lib: ['dom', 'es2020'] };
config.transform = { ...config.transform, '^.+\\\\.tsx?$': ['ts-jest', { diagnostics: false, tsconfig }] };
config.reporters = ['default'];
module.exports = config;
"""
SERVER = """#!/bin/sh
export {variables}
exec {python} -m jupyterlab --allow-root "$@"
"""


def prepare(checkout: Path, folder: Path, provisioner: str) -> None:
    """Make a folder with the specs, what they import, and a `jupyter-lab` that takes our provisioner."""
    services = checkout / "packages/services"
    for name in ("src", "test"):
        shutil.copytree(services / name, folder / name)
    shutil.copy(services / "babel.config.js", folder)
    (folder / "package.json").write_text(json.dumps({"name": "@jupyterlab/services", "version": "7.0.0"}))
    (folder / "jest.config.js").write_text(JEST)
    (folder / "bin").mkdir()
    (folder / "sandboxes").mkdir()
    variables = {
        "JUPYTER_DEFAULT_PROVISIONER_NAME": provisioner,
        "JUPYTER_SANDBOX_DIR": str(folder / "sandboxes"),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    server = folder / "bin/jupyter-lab"
    words = " ".join(f"{name}='{value}'" for name, value in variables.items())
    server.write_text(SERVER.format(variables=words, python=sys.executable))
    server.chmod(0o755)
    print("installing the npm packages ...", flush=True)
    install = ["npm", "install", "--legacy-peer-deps", "--no-audit", "--no-fund", "--silent", *PACKAGES]
    subprocess.run(install, cwd=folder, check=True)


def main() -> int:
    """Return 0 when every spec passed."""
    checkout, provisioner = Path(sys.argv[1]), (*sys.argv[2:], "sandbox-provisioner")[0]
    with tempfile.TemporaryDirectory(prefix="jsbl", dir="/tmp") as made:
        folder = Path(made)
        prepare(checkout, folder, provisioner)
        environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            ["npx", "jest", "-i", "--silent", *SPECS], cwd=folder, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
