"""How a kernel shows whose sandbox is paused: Jupyter's list says so, whatever the kernel said last.

It is looked up when it is asked for. What the kernel was, busy or idle, it still is when it goes on, so Jupyter's own
note of that stays.
"""

from __future__ import annotations

from typing import Any, Final

from tornado import web

from jupyter_sandbox.errors import SandboxPausedError
from jupyter_sandbox.provisioner import SandboxProvisioner

PAUSED: Final = "paused"
"""The state of such a kernel. Jupyter's API has a few words of its own, and lets servers have others."""


def find(manager: Any) -> SandboxPausedError | None:
    """Return what is said to whoever wants something of a kernel whose sandbox is paused; None when it is not."""
    provisioner = getattr(manager, "provisioner", None)
    lease = provisioner.lease if isinstance(provisioner, SandboxProvisioner) else None
    return SandboxPausedError(f"sandbox {lease.sandbox} is paused") if lease is not None and lease.is_paused else None


def refuse(manager: Any) -> None:
    """Raise the same as Jupyter's own handlers raise refusals, if there is something to say."""
    if (error := find(manager)) is not None:
        raise web.HTTPError(error.status, str(error), reason=f"Refused ({error.code})") from error


def state(manager: Any) -> str:
    """Return the state of a kernel as it is shown."""
    return PAUSED if find(manager) else str(manager.execution_state)


def show(multi_manager: Any) -> None:
    """Make the models of kernels say it."""
    stock = multi_manager.kernel_model

    def kernel_model(kernel_id: str) -> dict[str, Any]:
        model: dict[str, Any] = stock(kernel_id)
        return model | {"execution_state": PAUSED} if find(multi_manager.get_kernel(kernel_id)) else model

    multi_manager.kernel_model = kernel_model
