"""The image of workers as the engine sees it: its name, its labels, and whether it fits this installation.

The image carries a copy of `sandbox_worker`. Broker and agent must be of one making, so the image is labelled with a
fingerprint of that package, which is compared before the first worker is made. `image_build` makes images.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sandbox_worker
from jupyter_sandbox._version import __version__
from jupyter_sandbox.languages import NAMES, PYTHON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FINGERPRINT: Final = "jupyter-sandbox.fingerprint"
VERSION: Final = "jupyter-sandbox.version"
LANGUAGES: Final = "jupyter-sandbox.languages"
"""Which ones it has kernels for, separated by commas. An image that does not say has Python's."""
DEFAULT: Final = "jupyter-sandbox-worker:latest"
REMEDY: Final = "jupyter sandbox image build"


def sources() -> dict[str, bytes]:
    """Return the modules of `sandbox_worker` by file name."""
    directory = Path(sandbox_worker.__file__).parent
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.py"))}


def fingerprint() -> str:
    """Return what an image for this installation must be labelled with: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, content in sources().items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def labels(spoken: Sequence[str]) -> dict[str, str]:
    """Return the labels of an image that is built now, with kernels for these languages."""
    return {FINGERPRINT: fingerprint(), VERSION: __version__, LANGUAGES: ",".join(spoken)}


def languages(found: Mapping[str, str]) -> tuple[str, ...]:
    """Return the languages of the image with labels `found`; those that we do not know do not count."""
    named = set(found.get(LANGUAGES, "").split(",")) | {PYTHON}
    return tuple(name for name in NAMES if name in named)


def misfit(name: str, found: Mapping[str, str] | None) -> str | None:
    """Return why the image `name` with labels `found` cannot be used, with the remedy; None when it fits.

    `found` is None when there is no such image.
    """
    if found is None:
        return f"there is no image {name}; make it: {_remedy(name)}"
    if FINGERPRINT not in found:
        return f"the image {name} is none of ours; make one: {_remedy(name)}"
    if found[FINGERPRINT] != fingerprint():
        version = found.get(VERSION, "unknown")[:40]
        return (
            f"the image {name} holds the worker of version {version} and does not fit this installation "
            f"({__version__}); build it again: {_remedy(name)}"
        )
    return None


def _remedy(name: str) -> str:
    """Return the command that makes an image of this name, as far as the name says it."""
    if name == DEFAULT:
        return f"`{REMEDY}`"
    return f"`{REMEDY}` with its --language options, or --tag {name}; one of your own on top of ours anew after that"
