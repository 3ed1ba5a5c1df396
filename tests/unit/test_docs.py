"""The documentation and the code say the same: house rules that a reader could otherwise only hope for."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from jupyter_sandbox import errors, lifecycle
from jupyter_sandbox.broker.app import BrokerApp
from jupyter_sandbox.extension import SandboxExtension
from jupyter_sandbox.file_transfers import FileTransfers
from jupyter_sandbox.files import Files
from jupyter_sandbox.identity import OwnerTokens
from jupyter_sandbox.provisioner import SandboxProvisioner
from jupyter_sandbox.quotas import Quotas
from jupyter_sandbox.rates import Rates
from jupyter_sandbox.surfaces.contexts.api import ContextsApi
from jupyter_sandbox.surfaces.e2b.held import E2b
from jupyter_sandbox.surfaces.interpreter.handlers import CodeInterpreter
from jupyter_sandbox.surfaces.ragflow.executor import RagflowExecutor

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])
MODULES = sorted([*(REPOSITORY / "jupyter_sandbox").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")])
PRODUCT = [
    *MODULES,
    *(REPOSITORY / "kernelspecs").rglob("*.json"),
    *(REPOSITORY / "jupyter-config").rglob("*.json"),
    *(REPOSITORY / ".ci").iterdir(),
    *(REPOSITORY / name for name in ("Makefile", "pyproject.toml", "jupyter_server_config.py")),
]
MAX_LINES = 400

_NAMED_TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)?")
_PROOF = re.compile(r"tests/|benchmark `|make (?:conformance|soak)|pending|the same \|$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# Where packages come from, and where files of one machine lie, is nobody's business but that machine's.
_DOMAIN = re.compile(r"(?<![\w@/.])(?:[a-z]+://)?((?:[\w-]+\.)+(?:org|com|io|net|dev|cloud|internal))\b(?![\w(])")
_KNOWN_DOMAINS = {"keepachangelog.com", "semver.org", "docker.io"}  # the last is a package's name in Debian
_PACKAGE_SOURCE = re.compile(r"(?:index-url|extra-index|find-links|trusted-host)\s*[=: ]")
_MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:root|home/(?!user\b)\w+|work|mnt|media|Users|opt|srv)\b(?:/|(?=[\"'\s]))")


def page(name: str) -> str:
    return (DOCS / name).read_text()


def ids(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def own_traits(application: type) -> list[str]:
    """The traits that an operator may set and that this class, not Jupyter, defines."""
    return sorted(set(application.class_traits(config=True)) & set(vars(application)))


@functools.cache
def functions_in(path: Path) -> frozenset[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def anchors(path: Path) -> set[str]:
    """The anchors that Markdown viewers make from the headings of a page."""
    headings = _HEADING.findall(_FENCE.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_error_code_is_explained_once_with_its_status():
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \|", page("operating.md"), re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SandboxError)]
    assert sorted((code, int(status)) for code, status in rows) == sorted((kind.code, kind.status) for kind in kinds)


SETTINGS = [
    BrokerApp,
    SandboxProvisioner,
    SandboxExtension,
    Files,
    FileTransfers,
    OwnerTokens,
    Quotas,
    Rates,
    CodeInterpreter,
    E2b,
    RagflowExecutor,
    ContextsApi,
]


@pytest.mark.parametrize("application", SETTINGS)
def test_every_setting_is_explained(application):
    names = own_traits(application)
    assert names, "the class has settings"
    rows = re.findall(r"^\| `(\w+)` \|", page("operating.md"), re.MULTILINE)
    assert [name for name in names if name not in rows] == []


@pytest.mark.parametrize("name", ["JUPYTER_SANDBOX_ENGINE", "JUPYTER_SANDBOX_SOCKET", "JUPYTER_SANDBOX_DIR"])
def test_every_environment_variable_is_explained(name):
    assert f"| `{name}` |" in page("operating.md")


def test_no_other_environment_variable_is_read():
    used = {name for module in MODULES for name in re.findall(r"JUPYTER_SANDBOX_[A-Z_]+", module.read_text())}
    assert used == {"JUPYTER_SANDBOX_ENGINE", "JUPYTER_SANDBOX_SOCKET", "JUPYTER_SANDBOX_DIR"}


def test_the_template_example_is_a_template():
    from jupyter_sandbox import templates

    (example,) = re.findall(r"^```toml\n(.*?)^```$", page("operating.md"), re.MULTILINE | re.DOTALL)
    template = templates.parse("data", example, "operating.md")
    assert template.preload
    assert template.environment
    assert template.shares
    values = tomllib.loads(example)
    assert set(values["limits"]) == set(vars(template.limits)), "the example shows every limit"


def test_the_architecture_shows_the_states_of_the_code():
    assert f"\n\n{lifecycle.table()}\n\n" in page("architecture.md")


def test_the_architecture_shows_the_layers_that_are_enforced():
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    (shown,) = re.findall(r"^```layers\n(.*?)^```$", page("architecture.md"), re.MULTILINE | re.DOTALL)
    assert shown.splitlines() == layers


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_every_test_that_is_named_exists(path):
    missing = []
    for named in sorted(set(_NAMED_TEST.findall(path.read_text()))):
        file, _, test = named.partition("::")
        if not (REPOSITORY / file).is_file() or (test and test not in functions_in(REPOSITORY / file)):
            missing.append(named)
    assert missing == []


@pytest.mark.parametrize("name", ["specification.md", "threat-model.md"])
def test_every_promise_names_its_proof_or_is_pending(name):
    """Rows of a table whose last column is `shown by` or `test`."""
    unproven = []
    for table in re.findall(r"(?:^\|.*\n)+", page(name), re.MULTILINE):
        head, _, *rows = table.splitlines()
        proof = head.strip("| ").split("|")[-1].strip()
        assert proof in ("shown by", "test"), head
        unproven += [
            row
            for row in rows
            if not re.search(r"tests/|benchmark `|make (?:conformance|soak)|pending|the same \|$", row)
        ]
    assert unproven == []


def test_every_benchmark_that_is_named_exists():
    defined = "".join(file.read_text() for file in (REPOSITORY / "benchmarks").glob("*.py"))
    named = re.findall(r"benchmark `([\w.]+)`", page("specification.md"))
    assert named
    assert [name for name in named if f'name="{name}"' not in defined] == []


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_every_link_leads_somewhere(path):
    dead = []
    for link in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_decision_is_numbered_without_gaps_and_has_one_title():
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        assert path.read_text().startswith(f"# {int(path.name[:4])}. "), path.name


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_is_not_too_long(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [*PRODUCT, *PAGES], ids=ids)
def test_no_host_is_named_that_packages_could_come_from(path):
    text = path.read_text()
    assert set(_DOMAIN.findall(text)) <= _KNOWN_DOMAINS
    assert _PACKAGE_SOURCE.findall(text) == []


@pytest.mark.parametrize("path", PRODUCT, ids=ids)
def test_no_path_of_a_machine_is_named(path):
    assert _MACHINE_PATH.findall(path.read_text()) == []
