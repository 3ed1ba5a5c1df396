"""Run schemathesis against servers of its own: `python tests/conformance/rest.py PATH-OF-st [sandboxes] [jupyter]`

`sandboxes` is our REST surface by our OpenAPI; `jupyter` is Jupyter's own kernels, sessions and kernelspecs of a server
in exclusive mode, by Jupyter's description. Each twice: with the ids of things that live, and with ids that
schemathesis finds in answers or makes up. Jupyter answers 403, not 401, to who is not known, so the check of that is
left out.

The exit status is 1 if an answer was wrong, or if both surfaces together got fewer than `CASES_AT_LEAST` requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("JUPYTER_SANDBOX_ENGINE", "embedded")

from tests.conformance import jupyter_description  # noqa: E402 - the path is set above
from tests.server.brokers import Tree  # noqa: E402
from tests.server.server_process import TOKEN, a_server, request  # noqa: E402

KEPT = ("release_sandbox", "delete_context", "restart_context")
"""Not with fixed ids: they would end what the others need."""
UNENDING = ("watch_files",)
"""It answers until its client hangs up, which this one does not."""
RULES = """
[[operations]] # with type=directory it takes no body, which a document cannot say
include-operation-id = "put_file"
checks.positive_data_acceptance.enabled = false
[[operations]] # nor how large a file is, of which a range is asked for
include-operation-id = "get_file"
checks.positive_data_acceptance.enabled = false
[[operations]] # who allows something must deny something
include-operation-id = "claim_sandbox"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-operation-id = "restrict_sandbox"
checks.positive_data_acceptance.enabled = false
[[operations]] # a command that is not detached is not kept when it is over
include-operation-id = "signal_command"
checks.ensure_resource_availability.enabled = false
"""
SETTINGS = (
    "--ServerApp.log_level=CRITICAL",
    "--SandboxExtension.max_execution_timeout_s=2",
    "--SandboxExtension.execution_timeout_s=1",
    '--ServerApp.jpserver_extensions={"jupyter_sandbox": True, "jupyter_server_terminals": False}',
)
EXCLUSIVE = (f"--config={REPOSITORY / 'jupyter_server_config.py'}", "--ServerApp.log_level=CRITICAL")
SWEEPING_S = 2
CASES_AT_LEAST = 2000
GENERATED = re.compile(r"(\d+) generated")


@dataclass(frozen=True)
class Judged:
    """How many requests were made, and whether all answers were right."""

    cases: int
    is_sound: bool

    def __add__(self, other: Judged) -> Judged:
        return Judged(self.cases + other.cases, self.is_sound and other.is_sound)


async def a_context(url: str) -> tuple[str, str]:
    """Ids of a sandbox and of a context in it."""
    sandbox = (await request(f"{url}api/sandboxes", "POST", {"timeout_s": 3600}))["id"]
    return sandbox, (await request(f"{url}api/sandboxes/{sandbox}/contexts", "POST", {}))["id"]


async def a_session(url: str) -> tuple[str, str]:
    """Ids of a session and of its kernel."""
    model = await request(f"{url}api/sessions", "POST", {"path": "a.ipynb", "type": "notebook"})
    return model["id"], model["kernel"]["id"]


def run(
    program: str,
    url: str,
    description: str,
    folder: Path,
    fixed: dict[str, str],
    *options: str,
    rules: str = "",
    unchecked: str = "",
) -> Judged:
    """Run schemathesis with those path parameters and rules for operations, without a check."""
    config = folder / "schemathesis.toml"
    parameters = "".join(f'"path.{name}" = "{value}"\n' for name, value in fixed.items())
    config.write_text(f"[parameters]\n{parameters}{rules}")
    common = [program, "--config-file", str(config), "run", description, "--url", url.rstrip("/")]
    common += [
        "-H",
        f"Authorization: token {TOKEN}",
        "--exclude-checks",
        f"missing_required_header{unchecked}",
        *("--request-timeout", "60"),
        *options,
    ]
    said = []
    with subprocess.Popen(common, cwd=folder, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            sys.stdout.write(line)
            said.append(line)
    return Judged(sum(int(count) for count in GENERATED.findall("".join(said))), running.returncode == 0)


def excluded(names: tuple[str, ...]) -> list[str]:
    """Options that leave operations out."""
    return [word for name in names for word in ("--exclude-operation-id", name)]


def sandboxes(program: str, tree: Tree, folder: Path) -> Judged:
    """Our REST surface."""
    with a_server(tree, folder, *SETTINGS) as (_, url):
        sandbox, context = asyncio.run(a_context(url))
        description, ids = f"{url}api/sandboxes/openapi.json", {"sandbox_id": sandbox, "context_id": context}
        kept, unending = excluded(KEPT), excluded(UNENDING)
        fixed = run(
            *(program, url, description, folder, ids, "-n", "20", "--phases", "coverage,fuzzing", *kept, *unending),
            rules=RULES,
        )
        free = run(
            *(program, url, description, folder, {}, "-n", "10", "--phases", "coverage,fuzzing,stateful", *unending),
            rules=RULES,
        )
        return fixed + free


def jupyter(program: str, tree: Tree, folder: Path) -> Judged:
    """Jupyter's own kernels, sessions and kernelspecs, in exclusive mode."""
    with a_server(tree, folder, *EXCLUSIVE) as (_, url):
        description = folder / "jupyter.json"
        description.write_text(json.dumps(jupyter_description.corrected()))
        session, kernel = asyncio.run(a_session(url))
        with swept(url, kernel):
            fixed = run(
                program,
                url,
                str(description),
                folder,
                {"session": session, "kernel_id": kernel},
                *("-n", "60", "--phases", "coverage,fuzzing", "--exclude-method", "DELETE"),
            )
            free = run(
                *(program, url, str(description), folder, {}, "-n", "60", "--phases", "coverage,fuzzing,stateful"),
                unchecked=",ensure_resource_availability",  # `swept` ends them meanwhile
            )
        return fixed + free


@contextlib.contextmanager
def swept(url: str, kept: str):
    """End what is older than a moment, but for one kernel, again and again: schemathesis starts hundreds."""
    is_over = threading.Event()

    def sweep() -> None:
        old: set[str] = set()
        while not is_over.wait(SWEEPING_S):
            found = asyncio.run(request(f"{url}api/kernels"))
            for kernel in found:
                if kernel["id"] in old - {kept}:
                    gone = urllib.request.Request(
                        f"{url}api/kernels/{kernel['id']}", method="DELETE", headers={"Authorization": f"token {TOKEN}"}
                    )
                    with contextlib.suppress(urllib.error.HTTPError):  # schemathesis may have ended it
                        urllib.request.urlopen(gone).close()
            old = {kernel["id"] for kernel in found}

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


SURFACES = {"sandboxes": sandboxes, "jupyter": jupyter}


def main() -> int:
    """Return 0 when no answer was wrong and there were requests enough."""
    program, names = sys.argv[1], sys.argv[2:] or list(SURFACES)
    total = Judged(0, is_sound=True)
    for name in names:
        folder = Path(tempfile.mkdtemp())
        shutil.copytree(REPOSITORY / "kernelspecs", folder / "jupyter/kernels")
        os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
        tree = Tree()
        tree.start()
        began = time.monotonic()
        try:
            judged = SURFACES[name](program, tree, folder)
            total += judged
            print(f"{name}: {judged.cases} cases in {time.monotonic() - began:.0f} s", flush=True)
        finally:
            tree.stop()
            shutil.rmtree(folder, ignore_errors=True)
    if names == list(SURFACES) and total.cases < CASES_AT_LEAST:
        print(f"{total.cases} cases are fewer than {CASES_AT_LEAST}")
        return 1
    return 0 if total.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
