"""Whom an object belongs to: the identity that Jupyter found behind a request.

Jupyter's own providers make up an anonymous user for each request that brings the server's token, so everybody who may
log in is one owner with them. Every other provider knows people: an owner is a user name then. Who brings a token of
ours is the owner that the operator issued it for.
"""

from __future__ import annotations

import contextlib
import hashlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NewType

from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider, User

from jupyter_sandbox import events, request_ids
from jupyter_sandbox.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jupyter_server.base.handlers import JupyterHandler

    from jupyter_sandbox.events import Emit

Owner = NewType("Owner", str)

EVERYBODY: Final = Owner("*")
"""The one owner where nobody is told apart."""
_ANONYMOUS: Final = (IdentityProvider, PasswordIdentityProvider)
_USER: Final = "user "


@dataclass
class Bearer(User):
    """Who came with a token of ours: some of what its owner may, in all its sandboxes or in one."""

    owner: Owner = EVERYBODY
    token_id: str = ""
    scopes: tuple[str, ...] = ()
    sandbox_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Whose kernels somebody may know of: an owner's, those in one sandbox only if it is named."""

    owner: Owner
    sandbox_id: str | None = None

    def has(self, manager: Any) -> bool:
        """Whether a kernel, by Jupyter's manager of it, is one of them."""
        owner = of_kernel(manager)
        if owner != self.owner and not (owner is None and self.owner == EVERYBODY):
            return False
        inside = getattr(getattr(manager, "provisioner", None), "sandbox_id", None)
        return self.sandbox_id is None or inside == self.sandbox_id

    def has_event(self, data: Mapping[str, Any]) -> bool:
        """Whether an event that names an owner is one of theirs."""
        return data["owner"] == self.owner and self.sandbox_id in (None, data.get("sandbox_id"))


@dataclass
class Start:
    """A kernel that is being made for somebody who has room for it."""

    owner: Owner
    is_over: bool = False


_start: ContextVar[Start | None] = ContextVar("start of a kernel", default=None)


def named(name: str) -> Owner:
    """Return the owner with that name."""
    return Owner(f"{_USER}{name}")


def name_of(owner: Owner) -> str:
    """Return the name of an owner."""
    return owner.removeprefix(_USER)


def on_behalf(owner: Owner | None) -> str:
    """Return what an owner is called where places are shared out: the broker need not know who it is."""
    return "" if owner in (None, EVERYBODY) else hashlib.sha256(str(owner).encode()).hexdigest()[:16]


def tells_apart(provider: object) -> bool:
    """Whether an identity provider knows people, so that there may be several owners without any token of ours."""
    return bool(getattr(provider, "knows_people", type(provider) not in _ANONYMOUS))


def of(handler: JupyterHandler) -> Owner:
    """Return who is behind an authenticated request."""
    user = handler.current_user
    if isinstance(user, Bearer):
        return user.owner
    return named(user.username) if tells_apart(handler.identity_provider) else EVERYBODY


def reach(handler: JupyterHandler) -> Reach:
    """Return what who is behind an authenticated request may know of."""
    user = handler.current_user
    return Reach(owner=of(handler), sandbox_id=user.sandbox_id if isinstance(user, Bearer) else None)


def current() -> Owner | None:
    """Return who is behind the request that is being served where this is called; None when there is nobody."""
    handler = request_ids.served()
    return of(handler) if handler is not None and _user(handler) else None


def _user(handler: JupyterHandler | None) -> User | None:
    """Return who was found behind a request; None before that, and without a request."""
    user: User | None = getattr(handler, "_jupyter_current_user", None)
    return user


def require_operator(owner: Owner) -> None:
    """Raise ForbiddenError unless `owner` operates this server: who is told apart from others does not."""
    if owner != EVERYBODY:
        raise ForbiddenError("only operators may do this; the command line on the host can, too")


def of_kernel(manager: Any) -> Owner | None:
    """Return who asked for a kernel; None when nobody did, but the server itself."""
    owner: Owner | None = getattr(manager, "sandbox_owner", None)
    return owner


def is_being_made(manager: Any) -> bool:
    """Whether a kernel's start is not over, so that room is kept for it."""
    start: Start | None = getattr(manager, "sandbox_start", None)
    return start is not None and not start.is_over


@contextlib.contextmanager
def making(owner: Owner) -> Iterator[None]:
    """Mark the kernels that are started meanwhile, by this task, as being made, for `owner`."""
    start = Start(owner)
    before = _start.set(start)
    try:
        yield
    finally:
        _start.reset(before)
        start.is_over = True


def note_owners(multi_manager: Any, emit: Emit = events.ignore) -> None:
    """Make every kernel manager that `multi_manager` will make remember who asked for it, and where to tell of it.

    A kernel that a token's bearer starts does not show the server's files: `sandbox_hides_files`, see the provisioner.
    """
    stock = getattr(multi_manager, "kernel_manager_factory", None)
    if stock is None:
        return

    def make(*args: Any, **kwargs: Any) -> Any:
        manager = stock(*args, **kwargs)
        start = _start.get()
        manager.sandbox_owner = current() if start is None else start.owner  # its request may have gone
        manager.sandbox_hides_files = isinstance(_user(request_ids.served()), Bearer)
        manager.sandbox_start = start
        manager.sandbox_emit = emit
        return manager

    multi_manager.kernel_manager_factory = make
