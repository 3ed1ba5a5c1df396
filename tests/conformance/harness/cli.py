"""The command line: which suites, on which provisioner, and what the exit code means."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from harness.suites import SUITES, run_suite

NOTEBOOKS = "notebooks"
EXCEPTIONS_FILE = CONFORMANCE / "exceptions.toml"

DESCRIPTION = """\
Run other people's test suites and notebooks, unchanged, on the stock kernel provisioner and on ours.

Each suite is fetched at run time as the sdist of a pinned release, unpacked, run in a virtual environment of
its own and thrown away. JUPYTER_DEFAULT_PROVISIONER_NAME in the environment chooses who starts the kernels.
"""

EPILOG = """\
{suites}
  {notebooks:<20} notebooks.toml: real notebooks by nbclient, papermill, jupyter execute and nbconvert
  {all:<20} all of these, in this order

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
"""


@dataclass(kw_only=True)
class Session:
    """One invocation: what it may use, and what it has found so far."""

    cache: Cache
    python: str
    keep: bool
    exceptions: Exceptions
    notebooks: Sequence[Notebook]
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
        environment = self.environment(NOTEBOOKS if name == NOTEBOOKS else "suites", provisioner)
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
    names = list(dict.fromkeys([*SUITES, NOTEBOOKS] if "all" in options.suites else options.suites))
    provisioners = list(Provisioner) if options.provisioner == "both" else [Provisioner(options.provisioner)]
    try:
        session = Session(
            cache=cache,
            python=options.python,
            keep=options.keep,
            exceptions=read_exceptions(EXCEPTIONS_FILE, [*SUITES, NOTEBOOKS]),
            notebooks=read_notebooks(),
        )
        for name in names:
            for provisioner in provisioners:
                session.run(name, provisioner)
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
    parser = argparse.ArgumentParser(
        prog="tests/conformance/run",
        description=DESCRIPTION,
        epilog=EPILOG.format(suites=suites, notebooks=NOTEBOOKS, all="all"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = [*SUITES, NOTEBOOKS, "all"]
    parser.add_argument("suites", nargs="+", metavar="SUITE", choices=choices, help="what to run, see below")
    parser.add_argument(
        "--provisioner",
        choices=["local", "sandbox", "both"],
        default="both",
        help="who starts the kernels: jupyter_client's own, ours (the project is installed from this checkout), "
        "or one after the other (default)",
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


def _title(name: str) -> str:
    suite = SUITES[name]
    return f"{suite.project} {suite.version}: {suite.about}" if suite.project else suite.about
