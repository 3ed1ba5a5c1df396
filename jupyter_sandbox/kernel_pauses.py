"""How a kernel shows whose sandbox is paused: Jupyter's list says so, whatever the kernel said last.

It is looked up when it is asked for. What the kernel was, busy or idle, it still is when it goes on, so Jupyter's own
note of that stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_core.utils import ensure_async
from tornado import web

from jupyter_sandbox.errors import SandboxPausedError
from jupyter_sandbox.provisioner import SandboxProvisioner

if TYPE_CHECKING:
    from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

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


async def refuse_websocket(handler: KernelWebsocketHandler) -> None:
    """The same for who wants to open a websocket to a kernel, if he may know that there is one."""
    known, kernel_id = handler.kernel_manager, handler.kernel_id
    kernel = known.get_kernel(kernel_id) if kernel_id in known else None
    if find(kernel) is None:
        return
    if await ensure_async(handler.authorizer.is_authorized(handler, handler.current_user, "execute", "kernels")):
        refuse(kernel)


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
