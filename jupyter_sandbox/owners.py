"""Whom an object belongs to: the identity that Jupyter found behind a request.

Jupyter's own providers make up an anonymous user for each request that brings the server's token, so everybody who may
log in is one owner with them. Every other provider knows people: an owner is a user name then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NewType

from jupyter_server import CallContext
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider

from jupyter_sandbox.errors import ForbiddenError

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler

Owner = NewType("Owner", str)

EVERYBODY: Final = Owner("*")
"""The one owner where nobody is told apart."""
_ANONYMOUS: Final = (IdentityProvider, PasswordIdentityProvider)


def of(handler: JupyterHandler) -> Owner:
    """Return who is behind an authenticated request."""
    user = handler.current_user
    return EVERYBODY if type(handler.identity_provider) in _ANONYMOUS else Owner(f"user {user.username}")


def require_operator(owner: Owner) -> None:
    """Raise ForbiddenError unless `owner` operates this server: who is told apart from others does not."""
    if owner != EVERYBODY:
        raise ForbiddenError("only operators may do this; the command line on the host can, too")


def of_kernel(manager: Any) -> Owner | None:
    """Return who asked for a kernel; None when nobody did, but the server itself."""
    owner: Owner | None = getattr(manager, "sandbox_owner", None)
    return owner


def note_owners(multi_manager: Any) -> None:
    """Make every kernel manager that `multi_manager` will make remember who asked for it."""
    stock = getattr(multi_manager, "kernel_manager_factory", None)
    if stock is None:
        return

    def make(*args: Any, **kwargs: Any) -> Any:
        manager = stock(*args, **kwargs)
        handler = CallContext.get(CallContext.JUPYTER_HANDLER)
        manager.sandbox_owner = of(handler) if handler is not None and handler.current_user else None
        return manager

    multi_manager.kernel_manager_factory = make
