"""The claim of a sandbox with what it shows of the host: directories, opened with this process's own rights."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_sandbox.broker import client
from jupyter_sandbox.errors import WorkspaceError
from jupyter_sandbox.specs import WorkspaceMode

if TYPE_CHECKING:
    import logging

    from jupyter_client.kernelspec import KernelSpec

    from jupyter_sandbox.broker import verbs
    from jupyter_sandbox.specs import Restriction


async def claim(
    template: str,
    mode: str,
    cwd: str | None,
    spec: KernelSpec,
    kernel: verbs.Kernel,
    keepsake: client.Keepsake,
    on_behalf: str,
    restriction: Restriction,
    log: logging.Logger,
) -> tuple[client.Lease, str | None]:
    """Claim a sandbox that shows the notebook's directory, if there is one to show, and start `kernel` in it.

    Returns its lease and the directory that it shows. `on_behalf`: see verbs.Claim. Raises SandboxError.
    """
    directory = os.path.realpath(cwd or ".")  # noqa: ASYNC240 - one lstat of a start
    with ExitStack() as opened:

        def show(path: str) -> int:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            return descriptor

        shown = kernelspec = None
        if mode != WorkspaceMode.NONE and directory == "/":
            log.warning("A kernel gets no workspace: the root directory is not shown")
        elif mode != WorkspaceMode.NONE:
            try:
                shown = show(directory)
            except OSError as error:
                log.warning("A kernel gets no workspace: %s", error.strerror)
        if any("{resource_dir}" in argument for argument in spec.argv):
            try:
                kernelspec = show(spec.resource_dir)
            except OSError as error:
                raise WorkspaceError(f"the kernelspec's directory cannot be shown in the sandbox: {error}") from error
        used = mode if shown is not None else str(WorkspaceMode.NONE)
        name = Path(directory).name
        lease = await client.Lease.claim(
            template,
            used,
            name,
            shown,
            kernelspec,
            kernel,
            on_behalf=on_behalf,
            keepsake=keepsake,
            restriction=restriction,
        )
    return lease, directory if shown is not None else None
