"""E2B's SDK for JavaScript, as it is published: the tests are in `javascript`, and the example."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.served import Served

HERE = Path(__file__).resolve().parent
TESTS = ("e2b.mjs", "files.mjs")
EXAMPLE = HERE.parents[1] / "examples/e2b_sandbox.mjs"


def has_node() -> bool:
    """Whether there is a Node that the SDK runs on; it says so itself in `engines`."""
    if not (shutil.which("node") and shutil.which("npm")):
        return False
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, version.removeprefix("v").split(".")[:2])) >= (20, 18)


needs_node = pytest.mark.skipif(not has_node(), reason="needs Node 20.18 or newer with npm")
pytestmark = [pytest.mark.timeout(240), needs_node]


def install(folder: Path) -> None:
    """Put the tests, the example and the published SDK into a folder."""
    for source in (*(HERE / "javascript" / name for name in ("package.json", *TESTS)), EXAMPLE):
        shutil.copy(source, folder)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    subprocess.run(npm, cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory):
    """Run a program of Node with the published SDK beside it and a server in its environment."""
    folder = tmp_path_factory.mktemp("javascript")
    install(folder)
    server = Served(folder, "--min-idle-workers=1", "--max-total-workers=4")
    environment = os.environ | server.for_e2b

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    yield run
    server.stop()


@pytest.mark.parametrize("tests", TESTS)
def test_the_published_sdk_does_what_its_users_do(run, tests):
    done = run("--test-force-exit", "--test-reporter=tap", tests)  # the SDK leaves timers of a minute behind
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(passed) == (HERE / "javascript" / tests).read_text().count("\ntest(")


def test_the_example_runs(run):
    done = run(EXAMPLE.name)
    expected = "said: 3 days\nmean: 11.0\nfile: 11.0\nlines: 4\nwrong: IndexError\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
