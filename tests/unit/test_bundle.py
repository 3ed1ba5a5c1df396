"""Modules from one file look, and are, as if they came from their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_worker import bundle

WRITE = """
import sys
import fruit.apple
from sandbox_worker import bundle
bundle.write(sys.argv[1], ["fruit", "fruit.apple", "sys", "absent"])
"""
USE = """
import importlib, inspect, json, sys
from sandbox_worker import bundle
read = []
sys.addaudithook(lambda event, what: read.append(str(what[0])) if event == "open" else None)
with bundle.used(sys.argv[1]) as names:
    import fruit.apple
files = [path for path in read if "fruit" in path]
module = sys.modules["fruit.apple"]
print(json.dumps({
    "names": names,
    "finders": len([each for each in sys.meta_path if type(each).__module__ == bundle.__name__]),
    "files": files,
    "kind": fruit.apple.KIND,
    "file": module.__file__,
    "path": list(fruit.__path__),
    "cached": module.__cached__,
    "loaders": [type(each).__name__ for each in (module.__loader__, module.__spec__.loader)],
    "source": inspect.getsource(fruit.apple),
    "reloaded": importlib.reload(fruit.apple).KIND,
}))
"""


class Orchard:
    """A directory with the package `fruit`, and a bundle of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.apple = directory / "fruit" / "apple.py"
        self.bundle = directory / "bundle"
        self.apple.parent.mkdir()
        (directory / "fruit" / "__init__.py").write_text("SIZE = 1\n")
        self.grow("red")
        self.run(WRITE)

    def grow(self, kind: str) -> None:
        self.apple.write_text(f"KIND = {kind!r}\n")

    def run(self, code: str) -> str:
        paths = f"{Path(bundle.__file__).parents[1]}:{self.directory}"
        command = [sys.executable, "-P", "-c", code, str(self.bundle)]
        done = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def used(self) -> dict[str, object]:
        found = json.loads(self.run(USE))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def orchard(tmp_path: Path) -> Orchard:
    return Orchard(tmp_path)


def test_a_module_comes_from_the_bundle_and_looks_as_if_it_came_from_its_file(orchard: Orchard):
    found = orchard.used()
    assert found["names"] == ["fruit", "fruit.apple"], "what is not Python or not there is left out"
    assert found["files"] == [], "no file of the package was opened to import it"
    assert found["kind"] == "red"
    assert found["file"] == str(orchard.apple)
    assert found["path"] == [str(orchard.apple.parent)]
    assert str(found["cached"]).startswith(str(orchard.apple.parent / "__pycache__"))
    assert found["loaders"] == ["SourceFileLoader", "SourceFileLoader"]
    assert found["source"] == "KIND = 'red'\n"


def test_nothing_comes_from_the_bundle_any_more_when_it_was_used(orchard: Orchard):
    found = orchard.used()
    assert found["finders"] == 0
    assert found["reloaded"] == "red"


@pytest.mark.parametrize("kind", ["yellow", "tan"])
def test_a_module_that_was_changed_since_comes_from_its_file(orchard: Orchard, kind: str):
    """Of another size, or of the same size and another time: an image was derived, with another version."""
    before = orchard.apple.stat()
    orchard.grow(kind)
    os.utime(orchard.apple, (before.st_atime, before.st_mtime + (kind == "tan")))
    assert orchard.used()["kind"] == kind


def test_a_module_that_went_away_is_not_imported(orchard: Orchard):
    orchard.apple.unlink()
    with pytest.raises(AssertionError, match=r"No module named 'fruit\.apple'"):
        orchard.used()


def test_without_a_bundle_modules_come_from_their_files(orchard: Orchard):
    orchard.bundle.unlink()
    found = orchard.used()
    assert found["names"] == []
    assert found["kind"] == "red"
    assert found["files"] != []
