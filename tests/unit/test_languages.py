"""The table of languages: its kernelspecs, what it takes to be found on a host, and what an image is told to speak."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from jupyter_sandbox import languages, launch
from jupyter_sandbox.engines import host_languages, image
from jupyter_sandbox.kernel_specs import is_ours
from jupyter_sandbox.languages import TABLE, Language
from jupyter_sandbox.offered_languages import OfferedLanguages
from sandbox_worker.protocol import PYTHON

pytestmark = pytest.mark.unit

OTHERS = [language for language in TABLE if language.name != languages.PYTHON]
INSTALLED = Path(__file__).resolve().parents[2] / "kernelspecs"


def spec_of(language):
    parent = INSTALLED if language.name == languages.PYTHON else language.directory
    return json.loads((parent / language.kernelspec / "kernel.json").read_text())


@pytest.mark.parametrize("language", TABLE, ids=languages.NAMES)
def test_every_language_has_a_kernelspec_of_ours(language):
    spec = spec_of(language)
    assert spec["language"] == language.name
    assert is_ours(spec["metadata"])
    assert spec["argv"][-1] == "{connection_file}"
    assert spec["interrupt_mode"] in ("message", "signal")


@pytest.mark.parametrize("language", TABLE, ids=languages.NAMES)
def test_every_language_is_on_its_page(language):
    page = (INSTALLED.parent / "docs" / "languages.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{language.name}` |")]
    _, _, kernelspec, on_host, in_image, interrupt, _ = row.split("|")
    assert kernelspec.strip() == f"`{language.kernelspec}`"
    assert interrupt.strip() == spec_of(language)["interrupt_mode"]
    assert all(package in on_host and package in in_image for package in language.packages)
    assert in_image.strip() == "the same" or all(
        requirement.partition("==")[0] in in_image for requirement in language.requirements
    )


@pytest.mark.parametrize("language", OTHERS, ids=lambda language: language.name)
def test_a_kernelspec_starts_what_is_looked_for(language):
    command = launch.argument_list(spec_of(language)["argv"], [], {})
    words = {word for word in command if word != "{connection_file}"}
    assert command[0] in {PYTHON, *language.programs}
    assert all(importlib.util.find_spec(module) for module in language.modules)
    assert not language.modules or f"sandbox_worker.{language.name}" in words, "our module, which loads those"
    assert not {word for word in words if "{resource_dir}" in word}, "contexts are started without it"
    jars = {word for word in words if word.startswith("{prefix}")}
    assert not jars or set(language.files) <= jars
    assert [path.name for path in language.directory.iterdir()] == [language.kernelspec]


def test_names_and_aliases_mean_one_language_each():
    words = [word for language in TABLE for word in (language.name, *language.aliases)]
    assert len(words) == len(set(words))
    assert languages.find(" TS ").name == "typescript"
    assert languages.find("cobol") is None


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which one language can be looked for: `host(needs)`, with a place that workers see and one they don't."""
    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    seen.mkdir()
    unseen.mkdir()

    def look(**needs):
        monkeypatch.setattr(host_languages, "TABLE", [Language(name="it", **needs)])
        return host_languages.found([str(seen)], path=str(seen), prefix=str(tmp_path)) == ("it",)

    look.seen, look.unseen = seen, unseen
    return look


def make_program(path):
    path.touch(mode=0o755)
    return path


def test_a_language_is_found_when_all_that_it_needs_is_there(host):
    assert not host(programs=("one", "two"))
    make_program(host.seen / "one")
    assert not host(programs=("one", "two"))
    make_program(host.seen / "two")
    assert host(programs=("one", "two"))
    assert not host(programs=("one",), modules=("no_such_module",))
    assert host(programs=("one",), modules=("json",))
    assert not host(files=("{prefix}/x", "{prefix}/y"))
    (host.seen.parent / "y").touch()
    assert host(files=("{prefix}/x", "{prefix}/y"))


def test_a_program_that_workers_do_not_see_is_not_there(host):
    (host.seen / "one").symlink_to(make_program(host.unseen / "one"))
    assert not host(programs=("one",))
    (host.seen / "two").symlink_to(host.seen / "three")
    assert not host(programs=("two",))
    make_program(host.seen / "three")
    assert host(programs=("two",))


def test_this_machine_speaks_python():
    assert languages.PYTHON in host_languages.of_this_host()


@pytest.mark.parametrize(
    ("installed", "spoken"),
    [
        ((), ("python",)),
        (("typescript",), ("python", "javascript", "typescript")),
        (("r", "bash"), ("python", "r", "bash")),
        (languages.NAMES, languages.NAMES),
    ],
)
def test_an_image_speaks_what_its_packages_bring_and_says_so(installed, spoken):
    assert languages.spoken_with(installed) == spoken
    assert image.languages(image.labels(spoken)) == spoken


def test_an_image_that_says_nothing_speaks_python_and_unknown_words_do_not_count():
    assert image.languages({}) == ("python",)
    assert image.languages({image.LANGUAGES: "r,../../x,,R,klingon"}) == ("python", "r")


class Specs:
    """Of Jupyter's kernelspec manager what is used here."""

    def __init__(self) -> None:
        self.kernel_dirs = ["/share/kernels"]


def test_a_server_looks_where_the_kernelspecs_of_offered_languages_are():
    specs = Specs()
    offered = OfferedLanguages(specs)
    table = {language.name: str(language.directory) for language in TABLE}
    offered.offer(["python", "r", "bash", "klingon"])
    assert specs.kernel_dirs == ["/share/kernels", table["r"], table["bash"]]
    offered.offer(["java"])
    assert specs.kernel_dirs == ["/share/kernels", table["java"]]
    offered.offer([])
    assert specs.kernel_dirs == ["/share/kernels"]
