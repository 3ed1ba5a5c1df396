"""The languages of code in sandboxes: how each is called, found on a host and put into an image. Pure.

The kernel of each is an ordinary Jupyter kernel, so its command is in a kernelspec, `kernelspecs/` beside this module:
this table and those files are all that knows languages by name. No client names a command, only a language.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

PYTHON: Final = "python"
"""What every worker speaks: its agent is written in it."""

_KERNELSPECS: Final = Path(__file__).parent / "kernelspecs"


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language. `name` is also what Jupyter's kernelspecs call it."""

    name: str
    aliases: tuple[str, ...] = ()
    """What else E2B's clients call it."""
    programs: tuple[str, ...] = ()
    """What a worker must find on its PATH, all of them."""
    modules: tuple[str, ...] = ()
    """Modules that its Python must have, all of them."""
    files: tuple[str, ...] = ()
    """Files or directories of which it must have one, as a worker sees them; `{prefix}` is where its Python lies."""
    requirements: tuple[str, ...] = ()
    """Packages of Python, pinned, that bring the kernel into an image."""
    packages: tuple[str, ...] = ()
    """Packages of Debian that do."""

    @property
    def kernelspec(self) -> str:
        """The name of its kernelspec."""
        return f"sandbox-{self.name}"

    @property
    def directory(self) -> Path:
        """A directory that holds its kernelspec and no other: what Jupyter looks for kernelspecs in."""
        return _KERNELSPECS / self.name


_DENO: Final = ("deno==2.9.8",)

TABLE: Final = (
    Language(name=PYTHON, aliases=("py", "python3")),
    Language(name="javascript", aliases=("js",), programs=("deno",), requirements=_DENO),
    Language(name="typescript", aliases=("ts", "deno"), programs=("deno",), requirements=_DENO),
    Language(
        name="r",
        programs=("R",),
        files=tuple(
            f"{library}/IRkernel"
            for library in ("/usr/lib/R/site-library", "/usr/local/lib/R/site-library", "/usr/lib/R/library")
        ),
        packages=("r-cran-irkernel",),
    ),
    Language(
        name="java",
        programs=("java", "javac"),  # a runtime alone has no jshell to evaluate with
        files=("{prefix}/share/jupyter/kernels/java/jjava.jar",),
        requirements=("jjava==1.0a8",),
        packages=("default-jdk-headless",),
    ),
    Language(name="bash", programs=("bash",), modules=("bash_kernel",), requirements=("bash_kernel==0.10.0",)),
)

NAMES: Final = tuple(language.name for language in TABLE)

_BY_WORD: Final = {word: language for language in TABLE for word in (language.name, *language.aliases)}


def find(word: str) -> Language | None:
    """Return the language that is called so, in letters of any case, or None."""
    return _BY_WORD.get(word.strip().lower())


def spoken_with(installed: Collection[str]) -> tuple[str, ...]:
    """Return what a machine speaks on which the packages of these languages are installed, by name."""
    parts = {part for language in TABLE if language.name in installed for part in _parts(language)}
    return tuple(language.name for language in TABLE if _parts(language) <= parts)


def _parts(language: Language) -> set[str]:
    return {*language.requirements, *language.packages}
