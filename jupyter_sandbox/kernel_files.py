"""The connection file of a sandbox kernel: written if that can be, and no reason to end a kernel that runs.

Jupyter writes one for each kernel, and fails where it cannot. A kernel in a sandbox never reads it: programs outside
do, as `jupyter console --existing`. One that is missing is written when the kernel is started again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from jupyter_client.connect import port_names

from jupyter_sandbox.provisioner import SandboxProvisioner


def spare(manager: Any) -> None:
    """Let a kernel manager that was just made do without the file, if its kernel is in a sandbox."""
    stock = manager._reconcile_connection_info  # noqa: SLF001 - where jupyter_client writes it, after each launch

    def reconcile(info: Any) -> None:
        if not isinstance(manager.provisioner, SandboxProvisioner):
            stock(info)
            return
        for name in port_names:  # or what is there already would be kept
            setattr(manager, name, 0)
        manager.load_connection_info(info)
        try:
            stock(info)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(manager.connection_file).unlink(missing_ok=True)  # half of it would hinder the next start
            manager.log.warning(
                "The connection file of kernel %s cannot be written (%s); the kernel runs, and programs that look for "
                "the file do not find it: free disk space in Jupyter's runtime directory, and restart the kernel",
                manager.kernel_id,
                error.strerror,
            )

    manager._reconcile_connection_info = reconcile  # noqa: SLF001
