"""`jupyter sandbox languages`: what code in sandboxes can be written in here, and kernelspecs for use without a server.

Servers offer the languages by themselves; nbclient, papermill and `jupyter console` find only what is installed.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from jupyter_sandbox import kernel_specs
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import ForbiddenError
from jupyter_sandbox.languages import PYTHON, TABLE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from jupyter_sandbox.languages import Language


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `add` takes name, function and summary."""
    command = add("languages", _languages, "Show the languages that code in sandboxes can be written in here.")
    command.add_argument(
        "--install",
        nargs="?",
        choices=("environment", "user"),
        const="environment",
        help="install the kernelspecs of these languages, and remove those of others, for programs without a server: "
        "in this Python's environment, or for this user only. Servers need none",
    )


async def _languages(options: argparse.Namespace) -> int:
    status = await client.call(verbs.Status(), verbs.StatusReport)
    manager = KernelSpecManager()
    for language in TABLE:
        is_spoken = language.name in status.languages
        if options.install and language.name != PYTHON:
            if is_spoken:
                _install(manager, language, for_user=options.install == "user")
            else:
                _remove(manager, language)
        print(f"{language.name:12}{language.kernelspec:20}{'yes' if is_spoken else 'no: ' + _missing(language)}")
    return 0


def _missing(language: Language) -> str:
    ways = []
    if language.packages:
        ways.append(f"apt install {' '.join(language.packages)}")
    if language.requirements:
        ways.append(f"pip install {' '.join(language.requirements)}")
    return " and ".join(ways)


def _install(manager: KernelSpecManager, language: Language, *, for_user: bool) -> None:
    source, name = str(language.directory / language.kernelspec), language.kernelspec
    try:
        manager.install_kernel_spec(source, name, user=for_user, prefix=None if for_user else sys.prefix)
    except OSError as error:
        raise ForbiddenError(f"the kernelspec {name} could not be installed ({error}); try --install user") from error


def _remove(manager: KernelSpecManager, language: Language) -> None:
    """Remove a kernelspec of ours that can start nothing any more; another's of that name stays."""
    try:
        spec = manager.get_kernel_spec(language.kernelspec)
    except NoSuchKernel:
        return
    if kernel_specs.is_ours(spec.metadata):
        shutil.rmtree(spec.resource_dir, ignore_errors=True)
