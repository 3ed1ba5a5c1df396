"""The agent as the first process of a container, whose first module is `__main__`.

A container is isolated before it starts, so nothing is unshared here. It loads what kernels need (and the named
modules), tells the broker over the hand-over socket, gets from there the listener that the host bound for it, and is
the agent from then on: kernels are forked from it as from a zygote. Mounts are attached from outside, since it
has no capability, now or ever.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from IPython.core import completer

from sandbox_worker import bundle, harden, kernel, later_debugger, messages, preload
from sandbox_worker.agent import Agent, Confinement
from sandbox_worker.protocol import IN_TO_AGENT, TO_AGENT, TO_CONTAINER, Bind, Failed, Ready, StandBy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HAND_OVER: Final = "/hand-over/socket"
"""Where the container finds the hand-over socket; the directory is mounted read-only and the socket goes after use."""

_PARSED: Final = f"{sys.prefix}/share/jupyter-sandbox/jedi"
"""What the completer parses at its first use. It is found out when the image is built, see `furnish`."""


def _confine_ahead(request: StandBy) -> None:
    """Take what the container left to this process. Raises OSError or ValueError."""
    if request.uid != os.getuid() or request.uid == 0:
        raise ValueError("a container changes no user")
    harden.restrict(request.rlimits)


def _confine(request: Bind, mounts: Sequence[int], _user_namespace: int | None) -> None:
    """Take what the container left us. Raises OSError or ValueError."""
    if mounts or request.mounts:
        raise ValueError("a container attaches no mounts")
    _confine_ahead(StandBy(uid=request.uid, rlimits=request.rlimits))


CONFINEMENT: Final = Confinement(stand_by=_confine_ahead, bind=_confine)


def prepared(names: Sequence[str], modules: Sequence[str]) -> Agent:
    """Import `names` and what kernels need, get the listener, and return the agent; exits when the broker went away.

    `modules`: what a kernel needs for its first cells, found out when the image was built; empty if it was not.
    """
    os.environ.clear()
    os.environ.update(preload.ENVIRONMENT)
    later_debugger.defer()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as channel:
        channel.connect(HAND_OVER)
        try:
            notes = preload.preload(names, modules or None)
            launcher = kernel.prepare_or_plain(notes, completer=False)
            _lend_parsed()
        except Exception as error:
            messages.send(channel, Failed(reason=f"{type(error).__name__}: {error}"[:500]))
            raise
        messages.learn((*TO_AGENT, *IN_TO_AGENT))
        messages.send(channel, Ready(start_mode=launcher.mode, notes=tuple(notes)))
        received = messages.receive(channel, TO_CONTAINER)
    if received is None or len(received[1]) != 1:
        sys.exit("the broker handed over no listener")
    return Agent(socket.socket(fileno=received[1][0]), launcher, CONFINEMENT)


def _lend_parsed() -> None:
    """Let the completer of the kernels forked from us find what was parsed for the image.

    It writes beside that, so the directory is the container's own; the files are links, or they would fill memory. It
    is imported at its first use, when `HOME` is the sandbox, so it must be told the place.
    """
    directory = _cache_directory()
    if not os.path.isdir(_PARSED):
        return
    shutil.copytree(_PARSED, directory, copy_function=_link, dirs_exist_ok=True)
    load: Callable[[], Any] | None = getattr(completer, "_get_jedi", None)
    if load is None:  # of another version, which imported it already
        return

    def load_and_tell() -> Any:
        jedi = load()
        jedi.settings.cache_directory = directory
        return jedi

    completer._get_jedi = load_and_tell  # type: ignore[assignment]  # noqa: SLF001 - no public way


def _link(source: str, target: str) -> None:
    """Make `target` a link to a parsed file. The other one's age alone counts, and is written: parso's lock."""
    if source.endswith(".pkl"):
        os.symlink(source, target)
    else:
        Path(target).touch()


def _cache_directory() -> str:
    """Return where the completer looks for what it parsed before, while `HOME` is as when kernels are prepared."""
    return os.path.expanduser("~/.cache/jedi")


def furnish() -> None:
    """Write into the image what each of its containers would otherwise have to find out. Called by the Dockerfile."""
    os.environ.update(preload.ENVIRONMENT)
    later_debugger.defer()
    names = preload.modules_of_a_live_kernel(first_cells_only=True)
    if not names:
        sys.exit("no kernel could be started")
    notes = preload.preload((), names)
    kernel.prepare_or_plain(notes, completer=True)
    if notes:
        sys.exit("; ".join(notes))
    shutil.copytree(_cache_directory(), _PARSED)
    bundle.write(bundle.OF_THE_IMAGE, names)
