"""An identity provider that knows several people, whose token is their name, and tokens that an operator issued."""

from __future__ import annotations

from jupyter_server.auth.identity import IdentityProvider, User

from jupyter_sandbox.identity import OwnerTokens

PEOPLE = frozenset({"operator", "alice", "bob"})


class People(IdentityProvider):
    """See the module."""

    async def get_user(self, handler):
        name = (handler.request.headers.get("Authorization") or "").removeprefix("token ")
        handler._token_authenticated = name in PEOPLE
        return User(username=name) if name in PEOPLE else None


class PeopleWithTokens(OwnerTokens, People):
    """See the module."""
