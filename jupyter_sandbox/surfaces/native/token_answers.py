"""What REST operations on the tokens of a sandbox answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sandbox.errors import ForbiddenError, ScopeError
from jupyter_sandbox.surfaces.native import token_models
from jupyter_sandbox.surfaces.native.answers import ROOT, Answer
from jupyter_sandbox.tokens import SCOPES

if TYPE_CHECKING:
    from jupyter_sandbox.sandbox_tokens import SandboxTokens
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.answers import Call


def _known(services: Services) -> SandboxTokens:
    if services.tokens is None:
        raise ForbiddenError(
            "this server takes no tokens of sandboxes: its operator has not set identity_provider_class"
        )
    return services.tokens


async def issue_token(services: Services, call: Call) -> Answer:
    """A new token with its text, this once."""
    (sandbox_id,) = call.ids
    bearer = call.bearer
    if bearer is not None:  # nobody gives away what he does not have
        given = {pair for scope in call.body.scopes for pair in SCOPES[scope]}
        if not given <= {pair for scope in bearer.scopes for pair in SCOPES[scope]}:
            raise ScopeError(f"token {bearer.token_id} can issue no token with more scopes than it has")
    issued_by = None if bearer is None else bearer.token_id
    token, text = _known(services).issue(call.owner, sandbox_id, call.body, issued_by)
    await services.sandboxes.noted(sandbox_id)
    location = f"{ROOT}/{token.sandbox_id}/tokens/{token.id}"
    return Answer(model=token_models.token(token) | {"token": text}, location=location)


async def list_tokens(services: Services, call: Call) -> Answer:
    """The tokens of a sandbox."""
    return Answer(
        model={"tokens": [token_models.token(each) for each in _known(services).all_of(call.owner, *call.ids)]}
    )


async def revoke_token(services: Services, call: Call) -> Answer:
    """Nothing."""
    _known(services).revoke(call.owner, *call.ids)
    await services.sandboxes.noted(call.ids[0])
    return Answer()
