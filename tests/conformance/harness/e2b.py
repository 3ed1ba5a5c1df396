"""The suites of E2B's code interpreter, for Python and for JavaScript, against a server of ours.

The packages that E2B publishes do not bring their tests: they come from a clone of its repository, at one commit. There
is no stock side, since the reference is E2B's own cloud. The SDK for Python is the published one; the suite for
JavaScript tests the sources beside it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environments import Cache, VirtualEnvironment, unpack_sdist
from harness.errors import ConformanceError
from harness.processes import run_bounded, run_or_raise
from harness.results import Outcome, SuiteResult
from harness.server import Engine, serving
from harness.suites import PytestSuite, run_pytest

REPOSITORY = "e2b-dev/code-interpreter"
COMMIT = "7df1757bfd5baa037f909ce97c2dbe014da973c0"
ARCHIVE_TIMEOUT_S = 60.0
NPM_TIMEOUT_S = 300.0
SUITE_TIMEOUT_S = 1800.0
NPM_PACKAGES = ("e2b@2.51.0", "dotenv@16.6.1", "vitest@4.1.12")
REASON_CHARACTERS = 300

_OUTCOMES: Mapping[str, Outcome] = {"passed": "passed", "failed": "failed"}
"""What vitest says; all else was not run."""

PYTHON = PytestSuite(
    name="e2b-python",
    members=("python/tests", "python/pytest.ini"),
    selection=("tests",),
    # As its own pytest.ini says, but one test after the other, and with the scope of loops that it is written for.
    extra_arguments=(
        *("-o", "addopts=--import-mode=importlib"),
        *("-o", "asyncio_default_fixture_loop_scope=session"),
    ),
    timeout_s=SUITE_TIMEOUT_S,
    about="E2B's SDK for Python: code in six languages, contexts, results, charts, environment, interrupts",
)


@dataclass(frozen=True, kw_only=True)
class VitestSuite:
    """`members` of the repository; vitest runs what its configuration names."""

    name: str
    members: Sequence[str]
    about: str


JAVASCRIPT = VitestSuite(
    name="e2b-javascript",
    members=("js/src", "js/tests", "js/tsconfig.json", "js/vitest.config.mts"),
    about="the same for its SDK for JavaScript; needs Node.js 20 and npm",
)

E2B_SUITES: Mapping[str, PytestSuite | VitestSuite] = {suite.name: suite for suite in (PYTHON, JAVASCRIPT)}


def run_e2b(
    suite: PytestSuite | VitestSuite,
    clone: Path | None,
    engine: Engine,
    cache: Cache,
    environment: VirtualEnvironment,
    *,
    keep: bool,
) -> SuiteResult:
    """Unpack a fresh copy from `clone`, serve, run it. The copy is removed unless `keep`."""
    if clone is None:
        raise ConformanceError(f"{suite.name} needs a clone of {REPOSITORY}: name it by --e2b DIR")
    work = cache.work / suite.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    temporary = Path(tempfile.mkdtemp(prefix="jsc-", dir="/tmp"))
    home = temporary / "home"
    home.mkdir()
    try:
        unpack_sdist(_archive(clone, suite.members, temporary / "suite.tar", cache), suite.members, work)
        variables = environment.process_environment(home=home, temporary=temporary)
        with serving(environment, variables, engine, cache=cache, name=suite.name) as more:
            variables |= more
            if isinstance(suite, PytestSuite):
                return run_pytest(suite, cache, environment, work=work / "python", variables=variables)
            return _run_vitest(suite, cache, environment, work=work / "js", variables=variables)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


def parse_vitest(report: str, directory: Path) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Outcomes and failure reasons from vitest's report in JSON. A file that could not be run counts as failed."""
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    for file in json.loads(report)["testResults"]:
        name = Path(file["name"]).relative_to(directory).as_posix()
        if not file["assertionResults"] and file["status"] == "failed":
            outcomes[name], reasons[name] = "failed", _first_line(file.get("message", ""))
        for test in file["assertionResults"]:
            title = f"{name}::{test['fullName'].strip()}"
            outcomes[title] = _OUTCOMES.get(test["status"], "skipped")
            if outcomes[title] == "failed":
                reasons[title] = _first_line("\n".join(test.get("failureMessages", [])))
    return outcomes, reasons


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:REASON_CHARACTERS]


def _archive(clone: Path, members: Sequence[str], archive: Path, cache: Cache) -> Path:
    """The files of the pinned commit, whatever the clone has checked out, if anything."""
    run_or_raise(
        ["git", "-C", clone.absolute(), "archive", "--prefix=suite/", f"--output={archive}", COMMIT, *members],
        directory=cache.root,
        environment=os.environ,
        timeout_s=ARCHIVE_TIMEOUT_S,
        log=cache.log("e2b-archive"),
        purpose=f"{clone} is no clone of {REPOSITORY} with the commit {COMMIT}",
    )
    return archive


def _run_vitest(
    suite: VitestSuite, cache: Cache, environment: VirtualEnvironment, *, work: Path, variables: Mapping[str, str]
) -> SuiteResult:
    # Of our own: that of the suite names more than the tests need, and without one npm would look above.
    (work / "package.json").write_text('{"private": true}\n')
    print(f"installing the npm packages of {suite.name} ...", flush=True)
    run_or_raise(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent", *NPM_PACKAGES],
        directory=work,
        environment=os.environ,
        timeout_s=NPM_TIMEOUT_S,
        log=cache.log(f"{suite.name}-npm"),
        purpose=f"cannot install what {suite.name} needs",
    )
    report, log = cache.log(suite.name).with_suffix(".json"), cache.log(suite.name)
    report.unlink(missing_ok=True)
    started = time.monotonic()
    finished = run_bounded(
        ["npx", "vitest", "run", "--reporter=default", "--reporter=json", f"--outputFile={report}"],
        directory=work,
        environment=variables,
        timeout_s=SUITE_TIMEOUT_S,
        log=log,
    )
    if not report.is_file():
        raise ConformanceError(f"{suite.name} came to no end\n{finished.tail}")
    outcomes, reasons = parse_vitest(report.read_text(encoding="utf-8"), work)
    return SuiteResult(
        suite=suite.name,
        provisioner=environment.provisioner,
        outcomes=outcomes,
        reasons=reasons,
        duration_s=time.monotonic() - started,
        trouble="" if finished.exit_code in (0, 1) and outcomes else f"vitest broke; its output is in {log.name}",
    )
