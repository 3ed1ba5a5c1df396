"""Tokens that reach one sandbox and nothing else: issued by who holds it, kept in memory, ended with it.

Their digests are noted with a claimed sandbox, for the next start of the server.

It knows no HTTP. An operator's tokens are another thing: `token_file`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import events, notes, tokens
from jupyter_sandbox.errors import CapacityError, UnknownSandboxError, UnknownTokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandbox import Sandbox
    from jupyter_sandbox.sandboxes import Sandboxes

SCOPES: Final = ("kernels", "kernels:read", "files", "files:read")
"""What may be asked for. Its own sandbox may always be looked at; it is neither renewed nor released by its token."""
_ALWAYS: Final = "sandboxes:read"
_PART: Final = "tokens"
MAX_TOKENS: Final = 32
"""Of one sandbox at a time."""


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """What is wanted."""

    timeout_s: float
    scopes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SandboxToken:
    """A token of one sandbox, without its secret. `ends_at` is on our clock."""

    id: str
    owner: Owner
    sandbox_id: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    ends_at: float
    digest: bytes = field(repr=False)
    issued_by: str | None
    """The id of the operator's token that asked for it, with which it ends; None: a person did."""


@dataclass(frozen=True, kw_only=True)
class _NotedToken:
    """A token in a note."""

    id: str
    scopes: tuple[str, ...]
    created_at: str
    expires_at: str
    ends_at: float
    digest: str = field(repr=False)
    issued_by: str | None


@dataclass(frozen=True, kw_only=True)
class _Noted:
    tokens: tuple[_NotedToken, ...]


class SandboxTokens:
    """The tokens of all sandboxes of one server."""

    def __init__(
        self, sandboxes: Sandboxes, clock: Callable[[], float] = time.monotonic, emit: Emit = events.ignore
    ) -> None:
        """There are none."""
        self._sandboxes, self._clock, self._emit = sandboxes, clock, emit
        self._tokens: dict[str, SandboxToken] = {}

    def issue(self, owner: Owner, sandbox_id: str, wanted: NewToken, issued_by: str | None) -> tuple[SandboxToken, str]:
        """Return a new token and its text, which nobody can ask for again."""
        sandbox = self._sandboxes.find_ready(owner, sandbox_id)
        self._tokens = {token_id: token for token_id, token in self._tokens.items() if self._is_good(token)}
        if len(self.all_of(owner, sandbox.id)) >= MAX_TOKENS:
            raise CapacityError(f"sandbox {sandbox.id} has {MAX_TOKENS} tokens; revoke those that are not needed")
        token_id, text, digest = tokens.mint()
        now = datetime.now(UTC)
        token = SandboxToken(
            id=token_id,
            owner=owner,
            sandbox_id=sandbox.id,
            scopes=(_ALWAYS, *dict.fromkeys(wanted.scopes)),
            created_at=now,
            expires_at=now + timedelta(seconds=wanted.timeout_s),
            ends_at=self._clock() + wanted.timeout_s,
            digest=digest,
            issued_by=issued_by,
        )
        self._tokens[token.id] = token
        self._note(sandbox)
        self._emit(
            events.TokenIssued(
                owner=owner,
                sandbox_id=sandbox.id,
                token_id=token.id,
                scopes=" ".join(token.scopes),
                timeout_s=wanted.timeout_s,
                issued_by=issued_by,
            )
        )
        return token, text

    def take_back(self) -> None:
        """Know again the tokens that the server before this one issued."""
        for sandbox, text in self._sandboxes.parts(_PART):
            noted = notes.read(_Noted, text)
            for each in noted.tokens[:MAX_TOKENS] if noted else ():
                token = _token(each, sandbox)
                if token is not None:
                    self._tokens[token.id] = token

    def _note(self, sandbox: Sandbox) -> None:
        """Note the tokens of a sandbox for the next start of the server."""
        if sandbox.claim is not None:
            mine = [_noted(token) for token in self._tokens.values() if token.sandbox_id == sandbox.id]
            self._sandboxes.notes.keep(sandbox, _PART, notes.text_of(_Noted(tokens=tuple(mine))))

    def all_of(self, owner: Owner, sandbox_id: str) -> list[SandboxToken]:
        """Return the tokens of a sandbox of `owner`, oldest first; raises UnknownSandboxError."""
        sandbox = self._sandboxes.find(owner, sandbox_id)
        return [token for token in self._tokens.values() if token.sandbox_id == sandbox.id and self._is_in_time(token)]

    def revoke(self, owner: Owner, sandbox_id: str, token_id: str) -> None:
        """End a token; raises UnknownSandboxError or UnknownTokenError."""
        if token_id not in {token.id for token in self.all_of(owner, sandbox_id)}:
            raise UnknownTokenError(f"no token {token_id[:60]!r} of sandbox {sandbox_id}")
        del self._tokens[token_id]
        self._note(self._sandboxes.find(owner, sandbox_id))
        self._emit(events.TokenRevoked(owner=owner, sandbox_id=sandbox_id, token_id=token_id))

    def get(self, token_id: str) -> SandboxToken | None:
        """Return a token that is in its time and whose sandbox lives."""
        token = self._tokens.get(token_id)
        return token if token is not None and self._is_good(token) else None

    def _is_in_time(self, token: SandboxToken) -> bool:
        return self._clock() < token.ends_at

    def _is_good(self, token: SandboxToken) -> bool:
        try:
            self._sandboxes.find(token.owner, token.sandbox_id)
        except UnknownSandboxError:
            return False
        return self._is_in_time(token)


def _noted(token: SandboxToken) -> _NotedToken:
    return _NotedToken(
        id=token.id,
        scopes=token.scopes,
        created_at=token.created_at.isoformat(),
        expires_at=token.expires_at.isoformat(),
        ends_at=token.ends_at,
        digest=token.digest.hex(),
        issued_by=token.issued_by,
    )


def _token(noted: _NotedToken, sandbox: Sandbox) -> SandboxToken | None:
    """Return a token that was noted; None when that is none."""
    if sandbox.owner is None or not set(noted.scopes) <= {_ALWAYS, *SCOPES} or not math.isfinite(noted.ends_at):
        return None
    try:
        return SandboxToken(
            id=noted.id,
            owner=sandbox.owner,
            sandbox_id=sandbox.id,
            scopes=noted.scopes,
            created_at=datetime.fromisoformat(noted.created_at),
            expires_at=datetime.fromisoformat(noted.expires_at),
            ends_at=noted.ends_at,
            digest=bytes.fromhex(noted.digest),
            issued_by=noted.issued_by,
        )
    except ValueError:
        return None
