"""Run schemathesis against the REST surface of a server of its own: `python tests/conformance/rest.py PATH-OF-st`

Twice: with the ids of a sandbox and a context that live, and with ids that schemathesis finds in answers or makes up.
Jupyter answers 403, not 401, to who is not known, so the check of that is left out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("JUPYTER_SANDBOX_ENGINE", "embedded")

from tests.server.brokers import Tree  # noqa: E402 - the path is set above
from tests.server.server_process import TOKEN, a_server, request  # noqa: E402

KEPT = ("release_sandbox", "delete_context", "restart_context")
"""Not with fixed ids: they would end what the others need."""
UNENDING = ("watch_files",)
"""It answers until its client hangs up, which this one does not."""
SETTINGS = (
    "--ServerApp.log_level=CRITICAL",
    "--SandboxExtension.max_execution_timeout_s=2",
    "--SandboxExtension.execution_timeout_s=1",
    '--ServerApp.jpserver_extensions={"jupyter_sandbox": True, "jupyter_server_terminals": False}',
)


async def a_context(url: str) -> tuple[str, str]:
    """Ids of a sandbox and of a context in it."""
    sandbox = (await request(f"{url}api/sandboxes", "POST", {"timeout_s": 3600}))["id"]
    return sandbox, (await request(f"{url}api/sandboxes/{sandbox}/contexts", "POST", {}))["id"]


def run(program: str, url: str, folder: Path, *options: str) -> int:
    """Run schemathesis; return its exit code."""
    common = [program, *options[:2], "run", f"{url}api/sandboxes/openapi.json", "--url", url.rstrip("/")]
    common += ["-H", f"Authorization: token {TOKEN}", "--exclude-checks", "missing_required_header", *options[2:]]
    common += [word for name in UNENDING for word in ("--exclude-operation-id", name)]
    return subprocess.run(common, cwd=folder, check=False).returncode


def main() -> int:
    """Return 0 when no answer was wrong."""
    program, folder = sys.argv[1], Path(tempfile.mkdtemp())
    shutil.copytree(REPOSITORY / "kernelspecs", folder / "jupyter/kernels")
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    tree = Tree()
    tree.start()
    try:
        with a_server(tree, folder, *SETTINGS) as (_, url):
            sandbox, context = asyncio.run(a_context(url))
            config = folder / "fixed.toml"
            config.write_text(f'[parameters]\n"path.sandbox_id" = "{sandbox}"\n"path.context_id" = "{context}"\n')
            kept = [word for name in KEPT for word in ("--exclude-operation-id", name)]
            fixed = run(
                program, url, folder, "--config-file", str(config), "-n", "60", "--phases", "coverage,fuzzing", *kept
            )
            config.write_text("")
            free = run(
                program, url, folder, "--config-file", str(config), "-n", "30", "--phases", "coverage,fuzzing,stateful"
            )
            return fixed or free
    finally:
        tree.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
