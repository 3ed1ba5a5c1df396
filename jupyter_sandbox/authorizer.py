"""What an owner may: the scopes of its token, and its rates. Whose an object is, is judged where it is looked for.

People who logged in may everything, as with Jupyter's own authorizer; an operator who wants less derives from this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_server.auth import Authorizer

from jupyter_sandbox import owners, tokens
from jupyter_sandbox.errors import RateError, ScopeError
from jupyter_sandbox.owners import Bearer
from jupyter_sandbox.rates import Rates
from jupyter_sandbox.web import TokenRoute, http_error

if TYPE_CHECKING:
    from jupyter_server.auth.identity import User


class OwnerAuthorizer(Authorizer):
    """With it owners are kept apart in Jupyter's own API, too: see `jupyter_routes`."""

    def __init__(self, **kwargs: Any) -> None:
        """Everybody's buckets are full."""
        super().__init__(**kwargs)
        self._rates = Rates(parent=self)

    def is_authorized(self, handler: Any, user: User, action: str, resource: str) -> bool:
        """Whether that is in the token's scopes and within the owner's rate; raises HTTPError that says why not."""
        is_bearer = isinstance(user, Bearer)
        if isinstance(handler, TokenRoute) and (is_bearer or owners.of(handler) != owners.EVERYBODY):
            self._count(handler, owners.of(handler), action)
        if isinstance(user, Bearer) and not tokens.allows(user.scopes, resource, action):
            needed = " or ".join(scope for scope in tokens.SCOPES if tokens.allows([scope], resource, action))
            error = ScopeError(f"token {user.token_id} lacks the scope for this: {needed or 'no token has it'}")
            raise http_error(error) from error
        return True

    def _count(self, handler: TokenRoute, owner: owners.Owner, action: str) -> None:
        verdict = self._rates.take(owner, action)
        handler.tell(verdict.headers)
        if verdict.retry_after_s is not None:
            words = f"that was more than {verdict.quota} requests of this kind ({action}) in a minute"
            error = RateError(words, retry_after_s=verdict.retry_after_s)
            raise http_error(error) from error
