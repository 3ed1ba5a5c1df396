"""The command line: which suites, on which provisioner, and what the exit code means."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.e2b import COMMIT, E2B_SUITES, REPOSITORY, run_e2b
from harness.environments import (
    CONFORMANCE,
    Cache,
    VirtualEnvironment,
    default_cache_root,
    default_python,
    prepare_environment,
    read_requirements,
)
from harness.errors import ConformanceError
from harness.notebooks import Kinds, Notebook, read_notebooks, run_notebooks
from harness.provisioners import Provisioner
from harness.results import Exceptions, SuiteResult, Verdict, describe, judge, read_exceptions, table
from harness.server import Engine
from harness.suites import SUITES, run_suite

NOTEBOOKS = "notebooks"
E2B = "e2b"
EXCEPTIONS_FILE = CONFORMANCE / "exceptions.toml"

DESCRIPTION = """\
Run other people's test suites and notebooks, unchanged, on the stock kernel provisioner and on ours.

Each suite is fetched at run time as the sdist of a pinned release, unpacked, run in a virtual environment of
its own and thrown away. JUPYTER_DEFAULT_PROVISIONER_NAME in the environment chooses who starts the kernels.

E2B's suites come from a clone of its repository instead, and run against `jupyter sandbox serve`: on ours only.
"""

EPILOG = """\
{suites}
  {notebooks:<20} notebooks.toml: real notebooks by nbclient, papermill, jupyter execute and nbconvert
{e2b}
  {all:<20} all of these, in this order; E2B's if --e2b is given

Failures are held against exceptions.toml. The exit code is
  0  no suite failed otherwise than expected there
  1  a test failed that is not in it, or a suite was cut off or broke
  2  the run could not be prepared, or the command line makes no sense

environment:
  JUPYTER_SANDBOX_CONFORMANCE_DIR  where virtual environments, sdists and logs are kept
                                   (default: jupyter-sandbox-conformance in the user's cache directory)
  PIP_*                            pip's own settings: index, proxy, certificates

examples:
  run nbclient papermill                  both provisioners, side by side
  run --provisioner local all             the reference counts; the project need not be installable
  run --provisioner sandbox --keep nbclient
  run --e2b ../code-interpreter --docker-image jupyter-sandbox-worker:all e2b-python e2b-javascript
"""


@dataclass(kw_only=True)
class Session:
    """One invocation: what it may use, and what it has found so far."""

    cache: Cache
    python: str
    keep: bool
    exceptions: Exceptions
    notebooks: Sequence[Notebook]
    clone: Path | None  # of E2B's repository
    engine: Engine  # for its suites
    environments: dict[tuple[str, Provisioner], VirtualEnvironment] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    stock_kinds: dict[str, Kinds] = field(default_factory=dict)

    def environment(self, kind: str, provisioner: Provisioner) -> VirtualEnvironment:
        """Prepared when first asked for."""
        key = (kind, provisioner)
        if key not in self.environments:
            requirements = read_requirements(CONFORMANCE / f"requirements-{kind}.txt")
            if kind == NOTEBOOKS:
                requirements += sorted({name for notebook in self.notebooks for name in notebook.requires})
            self.environments[key] = prepare_environment(
                self.cache, kind, requirements, provisioner, python=self.python
            )
        return self.environments[key]

    def run(self, name: str, provisioner: Provisioner) -> None:
        """One suite on one provisioner, told about at once and kept for the table."""
        environment = self.environment(_kind(name), provisioner)
        print(f"running {name} on {provisioner} ...", flush=True)
        result = self._run(name, environment)
        expected = self.exceptions.of(name, provisioner)
        verdict = judge(result, expected)
        self.verdicts.append(verdict)
        print(describe(verdict, expected, self._failed_on_stock(name, provisioner)), flush=True)

    def _failed_on_stock(self, name: str, provisioner: Provisioner) -> list[str]:
        if provisioner is Provisioner.LOCAL:
            return []
        stock = (verdict.result for verdict in self.verdicts if verdict.result.provisioner is Provisioner.LOCAL)
        return [test for result in stock if result.suite == name for test in result.failed_ids]

    def _run(self, name: str, environment: VirtualEnvironment) -> SuiteResult:
        if name in E2B_SUITES:
            return run_e2b(E2B_SUITES[name], self.clone, self.engine, self.cache, environment, keep=self.keep)
        if name != NOTEBOOKS:
            return run_suite(SUITES[name], self.cache, environment, keep=self.keep)
        result, kinds = run_notebooks(self.notebooks, self.cache, environment, self.stock_kinds, keep=self.keep)
        if environment.provisioner is Provisioner.LOCAL:
            self.stock_kinds = kinds
        return result


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code, see EPILOG."""
    options = _parse(arguments)
    cache = Cache(root=options.cache.absolute())
    all_names = [*SUITES, NOTEBOOKS, *(E2B_SUITES if options.e2b else ())]
    names = list(dict.fromkeys(all_names if "all" in options.suites else options.suites))
    provisioners = list(Provisioner) if options.provisioner == "both" else [Provisioner(options.provisioner)]
    try:
        session = Session(
            cache=cache,
            python=options.python,
            keep=options.keep,
            exceptions=read_exceptions(EXCEPTIONS_FILE, [*SUITES, NOTEBOOKS, *E2B_SUITES]),
            notebooks=read_notebooks(),
            clone=options.e2b,
            engine=Engine(image=options.docker_image),
        )
        for name in names:
            for provisioner in (each for each in provisioners if name not in E2B_SUITES or each is Provisioner.SANDBOX):
                session.run(name, provisioner)
        if not session.verdicts:
            raise ConformanceError("E2B's suites have no stock side: nothing was run")
    except ConformanceError as error:
        print(f"conformance: {error}", flush=True)
        return 2
    except KeyboardInterrupt:
        print("conformance: interrupted", flush=True)
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(cache.work, ignore_errors=True)
    print(f"\n{table(session.verdicts)}")
    return 0 if all(verdict.good for verdict in session.verdicts) else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    suites = "suites:\n" + "\n".join(f"  {suite.name:<20} {_title(suite.name)}" for suite in SUITES.values())
    e2b = "\n".join(f"  {suite.name:<20} {suite.about}" for suite in E2B_SUITES.values())
    parser = argparse.ArgumentParser(
        prog="tests/conformance/run",
        description=DESCRIPTION,
        epilog=EPILOG.format(suites=suites, notebooks=NOTEBOOKS, e2b=e2b, all="all"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = [*SUITES, NOTEBOOKS, *E2B_SUITES, "all"]
    parser.add_argument("suites", nargs="+", metavar="SUITE", choices=choices, help="what to run, see below")
    parser.add_argument(
        "--provisioner",
        choices=["local", "sandbox", "both"],
        default="both",
        help="who starts the kernels: jupyter_client's own, ours (the project is installed from this checkout), "
        "or one after the other (default)",
    )
    parser.add_argument(
        "--e2b", type=Path, metavar="DIR", help=f"a clone of {REPOSITORY} that has the commit {COMMIT[:12]}"
    )
    parser.add_argument(
        "--docker-image",
        default="",
        metavar="NAME",
        help="E2B's suites: run on the engine docker, with this image of all languages (default: engine embedded)",
    )
    parser.add_argument("--keep", action="store_true", help="leave the unpacked suites in the cache, in work/")
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache_root(),
        metavar="DIR",
        help="instead of JUPYTER_SANDBOX_CONFORMANCE_DIR",
    )
    parser.add_argument(
        "--python",
        default=default_python(),
        metavar="PROGRAM",
        help="interpreter of the virtual environments (default: the one running this)",
    )
    return parser.parse_args(arguments)


def _kind(name: str) -> str:
    """The environment that a suite runs in."""
    return E2B if name in E2B_SUITES else NOTEBOOKS if name == NOTEBOOKS else "suites"


def _title(name: str) -> str:
    suite = SUITES[name]
    return f"{suite.project} {suite.version}: {suite.about}" if suite.project else suite.about
