"""Who brings a token of ours: an identity provider that knows them, on top of the one that the operator would have.

    c.ServerApp.identity_provider_class = "jupyter_sandbox.identity.SandboxIdentityProvider"
    c.ServerApp.authorizer_class = "jupyter_sandbox.authorizer.OwnerAuthorizer"

Everything that is not a token of ours is judged as before. A token makes no cookie and opens no page: it is taken only
by handlers that say they take tokens (`takes_tokens`), so what other extensions serve stays shut.
"""

from __future__ import annotations

import asyncio
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jupyter_core.utils import ensure_async
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider
from traitlets import Unicode, default

from jupyter_sandbox import owners, tokens
from jupyter_sandbox.errors import SandboxError, ScopeError, TokenError
from jupyter_sandbox.owners import Bearer
from jupyter_sandbox.token_file import KnownTokens, TokenFile, default_path
from jupyter_sandbox.web import http_error

if TYPE_CHECKING:
    from jupyter_server.auth.identity import User

    from jupyter_sandbox.sandbox_tokens import SandboxTokens
    from jupyter_sandbox.tokens import Token

_LOOK_S: Final = 1


class OwnerTokens(IdentityProvider):
    """Put it before another provider: `class Mine(OwnerTokens, ThatProvider)`."""

    token_file = Unicode(
        help="The file of tokens that `jupyter sandbox token` keeps. It must be readable by its owner only."
    ).tag(config=True)

    @default("token_file")
    def _default_token_file(self) -> str:
        return str(default_path())

    def __init__(self, **kwargs: Any) -> None:
        """No token is known before `load_tokens`."""
        super().__init__(**kwargs)
        self._known = KnownTokens(TokenFile(Path(self.token_file).expanduser()))
        self._of_sandboxes: SandboxTokens | None = None
        self._asking: weakref.WeakSet[Any] = weakref.WeakSet()

    def load_tokens(self, of_sandboxes: SandboxTokens) -> None:
        """Begin to accept tokens; raises TokenFileError."""
        self._known.load()
        self._of_sandboxes = of_sandboxes

    async def watch_tokens(self) -> None:
        """Once a second, look whether tokens came or went, and hang up on those whose token is not good any more."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._known.refresh()
                self._hang_up()
            except Exception:
                self.log.exception("looking after tokens failed; it is tried again")

    def _hang_up(self) -> None:
        for handler in list(self._asking):
            if handler.is_answered:
                self._asking.discard(handler)
            elif not self._is_good(handler.current_user):
                self._asking.discard(handler)
                handler.hang_up()

    async def get_user(self, handler: Any) -> User | None:
        """Return who brings a good token; whoever brings none is judged by the other provider."""
        known = getattr(handler, "_jupyter_current_user", None)
        text = self.get_token(handler)
        if known is not None or not text or not text.startswith(tokens.PREFIX):
            user: User | None = await ensure_async(super().get_user(handler))
            return user
        try:
            bearer = await self._bearer(text)
            if not getattr(handler, "takes_tokens", False):
                raise ScopeError(f"token {bearer.token_id} is for sandboxes, and for nothing else of this server")
        except SandboxError as error:
            handler.current_user = handler._jupyter_current_user = None  # noqa: SLF001 - as JupyterHandler.prepare does
            raise http_error(error) from error
        handler._token_authenticated = True  # noqa: SLF001 - as IdentityProvider does
        self._asking.add(handler)
        return bearer

    async def _bearer(self, text: str) -> Bearer:
        """Judge a token; raises TokenError, which says more only to who has the secret."""
        token_id = tokens.id_in(text)
        if token_id is None:
            raise TokenError("the token is not whole")
        of_sandbox = self._of_sandboxes.get(token_id) if self._of_sandboxes else None
        token = of_sandbox or await self._known.get_fresh(token_id)
        if token is None or not tokens.is_secret_of(token.digest, text):
            raise TokenError("the token is not known: it was revoked, or its sandbox ended, or it never was one")
        if of_sandbox is not None:
            name, owner, sandbox_id = owners.name_of(of_sandbox.owner), of_sandbox.owner, of_sandbox.sandbox_id
        else:
            name, owner, sandbox_id = str(token.owner), owners.named(token.owner), None
        bearer = Bearer(
            f"{name}/{token.id}", owner=owner, token_id=token.id, scopes=token.scopes, sandbox_id=sandbox_id
        )
        if not self._is_good(bearer):
            raise TokenError(f"the time of token {token.id} is over, or the token that it was issued with is not good")
        return bearer

    def _is_good(self, bearer: Bearer) -> bool:
        """Whether a token that was judged still is what it was."""
        token_id: str | None = bearer.token_id
        if bearer.sandbox_id is not None:
            of_sandbox = self._of_sandboxes.get(bearer.token_id) if self._of_sandboxes else None
            if of_sandbox is None:
                return False
            token_id = of_sandbox.issued_by
        token: Token | None = self._known.get(token_id) if token_id else None
        return token_id is None or (token is not None and not token.is_over(datetime.now(UTC)))


class SandboxIdentityProvider(OwnerTokens, PasswordIdentityProvider):
    """Jupyter's own token and password, and tokens of ours. Who logs in is the one owner `*`, as without it."""

    knows_people: ClassVar[bool] = False
