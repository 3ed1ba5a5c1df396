"""Tokens: what a program brings instead of a person's login. Values and judgements; no I/O.

A token is 256 random bits, so a plain SHA-256 of it is enough to store: there is nothing to guess, and no need for a
slow hash. Its id is part of the text, so one record is looked up by what is no secret, and the secret is compared in
constant time. A token has scopes: what it may do of what its owner may.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError, TokenFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX: Final = "jst_"
MAX_TOKENS: Final = 10_000
_TEXT: Final = re.compile(r"jst_([0-9a-f]{20})_[A-Za-z0-9_-]{43}")
_ID: Final = re.compile(r"tok_[0-9a-f]{20}")
_OWNER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = 1

_READ_KERNELS: Final = frozenset((name, "read") for name in ("kernels", "sessions", "kernelspecs", "api"))
SCOPES: Final[dict[str, frozenset[tuple[str, str]]]] = {
    "sandboxes": frozenset({("sandboxes", "read"), ("sandboxes", "write")}),
    "sandboxes:read": frozenset({("sandboxes", "read")}),
    "kernels": _READ_KERNELS
    | {("kernels", "write"), ("kernels", "execute"), ("sessions", "write"), ("events", "execute")},
    "kernels:read": _READ_KERNELS,
    "files": frozenset({("contents", "read"), ("contents", "write")}),
    "files:read": frozenset({("contents", "read")}),
}
"""What each scope allows, as resources and actions of Jupyter's authorizer. `contents` are files of sandboxes: the
server's own files are open to no token."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as it is stored: everything but the secret. `expires_at` None: it does not end by itself."""

    id: str
    owner: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    digest: bytes = field(repr=False)

    def is_over(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


def mint() -> tuple[str, str, bytes]:
    """Return a new token's id, its text, which is shown once, and the digest to store."""
    number = secrets.token_hex(10)
    text = f"{PREFIX}{number}_{secrets.token_urlsafe(32)}"
    return f"tok_{number}", text, digest_of(text)


def digest_of(text: str) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(text.encode()).digest()


def id_in(text: str) -> str | None:
    """Return the id of the token that `text` would be; None when it is none of ours."""
    found = _TEXT.fullmatch(text)
    return f"tok_{found[1]}" if found else None


def is_secret_of(digest: bytes, text: str) -> bool:
    """Whether `text` is the token with that digest, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(digest, digest_of(text))


def allows(scopes: Iterable[str], resource: str, action: str) -> bool:
    """Whether one of the scopes allows that."""
    return any((resource, action) in SCOPES[scope] for scope in scopes)


def owner_name(value: str) -> str:
    """Judge the name of an owner."""
    if _OWNER.fullmatch(value) is None:
        raise InvalidRequestError(
            f"not a name of an owner: {value[:60]!a}; 1 to 64 letters, digits and . _ @ + -, a letter or digit first"
        )
    return value


# -- how they are stored


def encode(stored: Iterable[Token]) -> str:
    """Return the text of a file that holds these tokens."""
    rows = [
        {
            "id": token.id,
            "owner": token.owner,
            "scopes": list(token.scopes),
            "created_at": token.created_at.isoformat(),
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "sha256": token.digest.hex(),
        }
        for token in stored
    ]
    return json.dumps({"version": _VERSION, "tokens": rows}, indent=1) + "\n"


def decode(text: str) -> tuple[Token, ...]:
    """Return the tokens that a file holds; raises TokenFileError, which quotes nothing of it."""
    try:
        stored = json.loads(text)
        rows = stored["tokens"]
        if stored["version"] != _VERSION or not isinstance(rows, list) or len(rows) > MAX_TOKENS:
            raise ValueError("not a list that we know")
        found = tuple(_token(row) for row in rows)
        if len({token.id for token in found}) != len(found):
            raise ValueError("an id twice")
    except (ValueError, TypeError, KeyError, RecursionError, InvalidRequestError):
        raise TokenFileError(f"it is not a list of at most {MAX_TOKENS} tokens that this version knows") from None
    return found


def _token(row: dict[str, Any]) -> Token:
    scopes = tuple(row["scopes"])
    is_whole = _ID.fullmatch(row["id"]) and _DIGEST.fullmatch(row["sha256"]) and scopes and set(scopes) <= set(SCOPES)
    if not is_whole:
        raise ValueError("not a token")
    return Token(
        id=row["id"],
        owner=owner_name(row["owner"]),
        scopes=scopes,
        created_at=_moment(row["created_at"]),
        expires_at=None if row["expires_at"] is None else _moment(row["expires_at"]),
        digest=bytes.fromhex(row["sha256"]),
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
