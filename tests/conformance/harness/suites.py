"""The foreign test suites: where each comes from, what of it is run, and how.

Every suite is taken from the sdist of the release it tests (all of them carry their tests); the tests then run against
the installed release, except papermill's, which live inside their package.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.broker import Share, serving_broker
from harness.environments import CONFORMANCE, Cache, VirtualEnvironment, fetch_sdist, unpack_sdist
from harness.errors import ConformanceError
from harness.processes import run_bounded
from harness.provisioners import Provisioner
from harness.results import SuiteResult, parse_results

TEST_TIMEOUT_S = 120

# The loop scope: the settings of some suites predate the pytest-asyncio in use. `signal`: at a timeout `thread`, which
# two suites ask for, ends the whole run.
PYTEST_ARGUMENTS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "--color=no",
    f"--timeout={TEST_TIMEOUT_S}",
    "--timeout-method=signal",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)

# Those that start a kernel; the rest of ipykernel's tests stay inside one process.
IPYKERNEL_PARTS = (
    "async",
    "comm",
    "curve",
    "debugger",
    "embed_kernel",
    "eventloop",
    "kernel",
    "kernelapp",
    "message_spec",
    "start_kernel",
    "subshell_wedge",
    "subshells",
)


@dataclass(frozen=True, kw_only=True)
class PytestSuite:
    """One suite: `members` of the sdist of `project`, or `own_files` of this directory; pytest runs `selection`."""

    name: str
    project: str = ""
    version: str = ""
    members: Sequence[str] = ()
    own_files: Sequence[str] = ()
    selection: Sequence[str]
    extra_arguments: Sequence[str] = ()
    timeout_s: float = 1200
    kernel_variables: Sequence[str] = ()  # variables that it sets and reads again in its kernels
    names_kernel: bool = False  # it asks for a kernel by the name in CONFORMANCE_KERNEL_NAME
    about: str


SUITES: Mapping[str, PytestSuite] = {
    suite.name: suite
    for suite in (
        PytestSuite(
            name="nbclient",
            project="nbclient",
            version="0.11.0",
            members=("tests", "pyproject.toml"),
            selection=("tests",),
            kernel_variables=("IPYKERNEL_CELL_NAME", "NBEXECUTE_TEST_PARALLEL_TMPDIR"),
            about="executing notebooks: errors, timeouts, widgets, hooks, parallel runs",
        ),
        PytestSuite(
            name="jupyter_kernel_test",
            own_files=("kernel_tests.py",),
            selection=("kernel_tests.py",),
            extra_arguments=("-c", os.devnull, "--rootdir", "."),
            names_kernel=True,
            about="the messages a kernel must answer; the class is ours, the cases are theirs",
        ),
        PytestSuite(
            name="papermill",
            project="papermill",
            version="2.7.0",
            members=("papermill", "pyproject.toml"),
            selection=tuple(
                f"papermill/tests/test_{part}.py" for part in ("execute", "engines", "clientwrap", "autosave", "cli")
            ),
            about="parameterized notebooks; without its storage back ends",
        ),
        PytestSuite(
            name="ipykernel",
            project="ipykernel",
            version="7.4.0",
            members=("tests", "pyproject.toml"),
            selection=tuple(f"tests/test_{part}.py" for part in IPYKERNEL_PARTS),
            about="the kernel from outside: protocol, debugger, subshells, comms",
        ),
        PytestSuite(
            name="jupyter_server",
            project="jupyter_server",
            version="2.21.1",
            members=("tests", "pyproject.toml"),
            selection=tuple(f"tests/services/{part}" for part in ("kernels", "kernelspecs", "sessions")),
            about="REST and websockets: kernels, sessions, culling, restarts, events",
        ),
        PytestSuite(
            name="jupyter_client",
            project="jupyter_client",
            version="8.10.0",
            members=("tests", "pyproject.toml"),
            selection=("tests",),
            about="kernel managers, restarter, provisioning, clients, transport security",
        ),
    )
}


def run_suite(suite: PytestSuite, cache: Cache, environment: VirtualEnvironment, *, keep: bool) -> SuiteResult:
    """Unpack a fresh copy, run it, read what it recorded. The copy is removed unless `keep`."""
    provisioner = environment.provisioner
    work = cache.work / f"{suite.name}-{provisioner}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if suite.project:
        archive = fetch_sdist(cache, environment.python, suite.project, suite.version)
        unpack_sdist(archive, suite.members, work)
    for name in suite.own_files:
        shutil.copy(CONFORMANCE / name, work / name)
    # Short, and not below the cache: tests put sockets there, and a socket's path has 107 bytes. Sandboxes show it.
    temporary = Path(tempfile.mkdtemp(prefix="jsc-", dir="/tmp"))
    home = temporary / "home"
    home.mkdir()
    try:
        variables = environment.process_environment(home=home, temporary=temporary)
        broker = serving_broker(
            environment,
            variables,
            shares=[Share(source=temporary, target=str(temporary), writable=True)],
            kernel_variables=suite.kernel_variables,
            log=cache.log(f"{suite.name}-broker"),
        )
        with broker as more:
            return run_pytest(suite, cache, environment, work=work, variables={**variables, **more})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


def run_pytest(
    suite: PytestSuite, cache: Cache, environment: VirtualEnvironment, *, work: Path, variables: dict[str, str]
) -> SuiteResult:
    """Run what is unpacked in `work`, and read what it recorded."""
    provisioner = environment.provisioner
    results = cache.log(f"{suite.name}-{provisioner}").with_suffix(".jsonl")
    results.unlink(missing_ok=True)
    if suite.names_kernel:
        variables["CONFORMANCE_KERNEL_NAME"] = provisioner.kernel_name
    recorder = CONFORMANCE / "harness" / "record_results.py"
    log = cache.log(f"{suite.name}-{provisioner}")
    started = time.monotonic()
    finished = run_bounded(
        [environment.python, recorder, results, *PYTEST_ARGUMENTS, *suite.extra_arguments, *suite.selection],
        directory=work,
        environment=variables,
        timeout_s=suite.timeout_s,
        log=log,
    )
    duration_s = time.monotonic() - started
    if not results.is_file():
        raise ConformanceError(f"{suite.name} on {provisioner} did not start\n{finished.tail}")
    outcomes, reasons = parse_results(results.read_text(encoding="utf-8").splitlines())
    return SuiteResult(
        suite=suite.name,
        provisioner=provisioner,
        outcomes=outcomes,
        reasons=reasons,
        duration_s=duration_s,
        trouble=_trouble(suite, provisioner, finished.exit_code, outcomes, log),
    )


def _trouble(
    suite: PytestSuite, provisioner: Provisioner, exit_code: int | None, outcomes: Mapping[str, str], log: Path
) -> str:
    """Why the run as a whole is not to be trusted; pytest's 0 and 1 mean that it ran to its end."""
    if exit_code is None:
        return f"cut off after {suite.timeout_s:.0f} s; its output is in {log.name}"
    if exit_code not in (0, 1):
        return f"pytest ended with exit code {exit_code}; its output is in {log.name}"
    if not outcomes:
        return f"no test was collected; {suite.name} has changed its layout ({provisioner})"
    return ""
