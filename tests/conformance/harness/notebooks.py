"""Real notebooks that nobody here wrote, executed unchanged in four ways.

A notebook comes from the sdist of a release, with the files that it reads. Each way gets a fresh copy in the same
relative layout and starts in the notebook's directory. It passes if the program succeeds, every code cell was executed
and none shows an error; on ours, each cell must also show the same kinds of output as on stock.
"""

import json
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from harness.broker import Share, serving_broker
from harness.environments import CONFORMANCE, Cache, VirtualEnvironment, fetch_sdist, unpack_sdist
from harness.errors import ConformanceError
from harness.processes import run_bounded
from harness.results import Outcome, SuiteResult

NOTEBOOKS_FILE = CONFORMANCE / "notebooks.toml"
EXECUTION_TIMEOUT_S = 180.0
CELL_TIMEOUT_S = 120
WAYS = ("nbclient", "papermill", "jupyter-execute", "nbconvert")
EXECUTED = "executed-by-conformance.ipynb"

Kinds = list[list[str]]  # per code cell, the kinds of its outputs


class Output(TypedDict, total=False):
    output_type: str
    name: str
    data: dict[str, object]
    ename: str
    evalue: str


class Cell(TypedDict, total=False):
    cell_type: str
    source: str | list[str]
    execution_count: int | None
    outputs: list[Output]


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """One notebook of a release; `files` are what it reads, as paths in the same sdist."""

    package: str
    version: str
    path: str
    files: Sequence[str] = ()
    shares: Mapping[str, str] = field(
        default_factory=dict
    )  # directories above the notebook's, and where kernels see them
    requires: Sequence[str]

    @property
    def name(self) -> str:
        return f"{self.package}/{self.path}"


def read_notebooks(path: Path = NOTEBOOKS_FILE) -> list[Notebook]:
    """The list; `requires` names keys of the table `libraries`, which pins them."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        libraries = document["libraries"]
        return [
            Notebook(
                package=entry["package"],
                version=entry["version"],
                path=entry["path"],
                files=tuple(entry.get("files", ())),
                shares=entry.get("shares", {}),
                requires=tuple(f"{library}=={libraries[library]}" for library in entry["requires"]),
            )
            for entry in document["notebook"]
        ]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise ConformanceError(f"{path.name}: {type(error).__name__}: {error}") from error


def run_notebooks(
    notebooks: Sequence[Notebook],
    cache: Cache,
    environment: VirtualEnvironment,
    stock_kinds: Mapping[str, Kinds],
    *,
    keep: bool,
) -> tuple[SuiteResult, dict[str, Kinds]]:
    """Run all of them all ways. Also returns what each showed, to compare the other provisioner with."""
    outcomes: dict[str, Outcome] = {}
    reasons: dict[str, str] = {}
    kinds: dict[str, Kinds] = {}
    started = time.monotonic()
    for notebook in notebooks:
        archive = fetch_sdist(cache, environment.python, notebook.package, notebook.version)
        for way in WAYS:
            test = f"{notebook.name}[{way}]"
            begun = time.monotonic()
            try:
                kinds[test] = _execute(notebook, archive, way, cache, environment, keep=keep)
                _compare(kinds[test], stock_kinds.get(test))
                outcomes[test] = "passed"
            except NotebookFailedError as failure:
                outcomes[test] = "failed"
                reasons[test] = str(failure)
            print(f"  {outcomes[test]} {test} ({time.monotonic() - begun:.1f} s)", flush=True)
    result = SuiteResult(
        suite="notebooks",
        provisioner=environment.provisioner,
        outcomes=outcomes,
        reasons=reasons,
        duration_s=time.monotonic() - started,
    )
    return result, kinds


class NotebookFailedError(Exception):
    """One notebook did not do one way what it should; the message says what it did."""


def _execute(
    notebook: Notebook, archive: Path, way: str, cache: Cache, environment: VirtualEnvironment, *, keep: bool
) -> Kinds:
    """Execute a fresh copy and return what its cells showed."""
    provisioner = environment.provisioner
    work = cache.work / f"notebooks-{provisioner}" / notebook.package / Path(notebook.path).stem / way
    shutil.rmtree(work, ignore_errors=True)
    unpack_sdist(archive, [notebook.path, *notebook.files], work / "tree")
    source = work / "tree" / notebook.path
    before = source.read_bytes()
    home = work / "home"
    home.mkdir()
    temporary = Path(tempfile.mkdtemp(prefix="jsc-"))
    log = cache.log(f"notebook-{notebook.package}-{source.stem}-{way}-{provisioner}".replace(" ", "-"))
    variables = environment.process_environment(home=home, temporary=temporary)
    try:
        with _operators_help(notebook, work / "tree", environment, variables, cache) as more:
            finished = run_bounded(
                _command(way, source, environment),
                directory=source.parent,
                environment={**variables, **more},
                timeout_s=EXECUTION_TIMEOUT_S,
                log=log,
            )
        if finished.exit_code is None:
            raise NotebookFailedError(f"cut off after {EXECUTION_TIMEOUT_S:.0f} s; its output is in {log.name}")
        if finished.exit_code != 0:
            last_line = finished.tail.splitlines()[-1] if finished.tail else "without a word"
            raise NotebookFailedError(f"exit code {finished.exit_code}: {last_line}; its output is in {log.name}")
        if source.read_bytes() != before:
            raise NotebookFailedError("the notebook itself was changed")
        return _kinds(before, source.with_name(EXECUTED))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not keep:
            shutil.rmtree(work, ignore_errors=True)


def _operators_help(
    notebook: Notebook, tree: Path, environment: VirtualEnvironment, variables: Mapping[str, str], cache: Cache
) -> AbstractContextManager[dict[str, str]]:
    """Most notebooks need none: their sandboxes come from a broker that starts on demand, with its defaults."""
    if not notebook.shares:
        return nullcontext({})
    shares = [Share(source=tree / path, target=target, writable=False) for path, target in notebook.shares.items()]
    log = cache.log(f"notebook-{notebook.package}-broker")
    return serving_broker(environment, variables, shares=shares, kernel_variables=(), log=log)


def _command(way: str, source: Path, environment: VirtualEnvironment) -> list[str | Path]:
    """The words a user would type, in the notebook's directory."""
    kernel = environment.provisioner.kernel_name
    match way:
        case "nbclient":
            program = CONFORMANCE / "harness" / "execute_with_nbclient.py"
            return [environment.python, program, source.name, EXECUTED, kernel, str(CELL_TIMEOUT_S)]
        case "papermill":
            options = ["--kernel", kernel, "--execution-timeout", str(CELL_TIMEOUT_S), "--no-progress-bar"]
            return [environment.program("papermill"), source.name, EXECUTED, *options]
        case "jupyter-execute":
            options = [f"--kernel_name={kernel}", f"--timeout={CELL_TIMEOUT_S}", f"--output={Path(EXECUTED).stem}"]
            return [environment.program("jupyter"), "execute", *options, source.name]
        case "nbconvert":
            options = [f"--ExecutePreprocessor.kernel_name={kernel}", f"--ExecutePreprocessor.timeout={CELL_TIMEOUT_S}"]
            options += ["--to", "notebook", "--output", EXECUTED]
            return [environment.program("jupyter"), "nbconvert", "--execute", *options, source.name]
    raise ConformanceError(f"no way to execute a notebook is called {way!r}")


def _kinds(before: bytes, executed: Path) -> Kinds:
    """Check the executed copy against the original; return the kinds of output of each code cell."""
    if not executed.is_file():
        raise NotebookFailedError("there is no executed notebook")
    cells = _code_cells(executed.read_bytes())
    wanted = [_text(cell) for cell in _code_cells(before)]
    if [_text(cell) for cell in cells] != wanted:
        raise NotebookFailedError("the code of the executed notebook is not the original's")
    for number, cell in enumerate(cells, start=1):
        if _text(cell).strip() and not cell.get("execution_count"):
            raise NotebookFailedError(f"code cell {number} was not executed")
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                raise NotebookFailedError(f"code cell {number}: {output.get('ename')}: {output.get('evalue')}")
    return [sorted({_kind(output) for output in cell.get("outputs", [])}) for cell in cells]


def _code_cells(content: bytes) -> list[Cell]:
    document: dict[str, list[Cell]] = json.loads(content)
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def _text(cell: Cell) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _kind(output: Output) -> str:
    detail = output.get("name") or ",".join(sorted(output.get("data", {})))
    return f"{output.get('output_type')}({detail})"


def _compare(ours: Kinds, stock: Kinds | None) -> None:
    """Nothing to compare with is no failure: the other provisioner was not asked for, or has failed by itself."""
    if stock is None:
        return
    for number, (found, wanted) in enumerate(zip(ours, stock, strict=True), start=1):
        if found != wanted:
            raise NotebookFailedError(f"code cell {number} shows {found}, on stock {wanted}")
