"""What this surface knows of sandboxes beyond what the services know: the token of each, its variables, its contexts.

Kept in memory, as long as the sandbox lives, and noted for the next start of the server. A token's text is needed
again: SDKs ask for it when they connect, and sign URLs with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from traitlets import Float, TraitError, Unicode, validate
from traitlets.config import Configurable

from jupyter_sandbox import notes
from jupyter_sandbox.contexts import NewContext
from jupyter_sandbox.errors import BusyError, InvalidRequestError, UnknownSandboxError
from jupyter_sandbox.guards import domains
from jupyter_sandbox.guards.paths import USER_HOME
from jupyter_sandbox.sandbox import SandboxState
from jupyter_sandbox.surfaces.e2b.domain import place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_sandbox.contexts import ContextView
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.services import Services

MAX_DRAFTS: Final = 200
"""Of one owner; each takes three descriptors."""
_PART: Final = "e2b"
_TOKEN_CHARACTERS: Final = 64


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is noted of a sandbox."""

    template: str
    token: str = field(repr=False)
    contexts: dict[str, str]


class E2b(Configurable):
    """Sandboxes of E2B's SDKs."""

    template = Unicode(
        "python", help="The template for the names of E2B's own templates, as base and code-interpreter-v1."
    ).tag(config=True)
    domain = Unicode(
        help="The domain by whose names SDKs find this server: api.DOMAIN and PORT-ID.DOMAIN, over TLS that is spoken "
        "here or in front of the server. Empty: by none.",
    ).tag(config=True)
    max_timeout_s = Float(86_400, min=1, help="The longest time that a client may ask for, seconds.").tag(config=True)
    max_output_mib = Float(8, min=1, max=256, help="How much output of one execution is sent, MiB; more ends it.").tag(
        config=True
    )
    max_execution_s = Float(86_400, min=1, help="When code is interrupted whose client waits still, seconds.").tag(
        config=True
    )

    @validate("domain")
    def _judge_domain(self, proposal: dict[str, str]) -> str:
        try:
            return domains.domain(proposal["value"]) if proposal["value"] else ""
        except InvalidRequestError as error:
            raise TraitError(f"E2b.domain: {error}") from error


@dataclass(eq=False, kw_only=True)
class Held:
    """One sandbox. `template`: as the client called it. `contexts`: the usual one of each language.

    `inputs`: how many streams of input are open.
    """

    owner: Owner
    sandbox_id: str
    template: str
    token: str = field(default_factory=lambda: secrets.token_hex(_TOKEN_CHARACTERS // 2), repr=False)
    contexts: dict[str, str] = field(default_factory=dict)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    inputs: int = 0

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.token.encode(), text.encode("utf-8", "replace"))


class HeldSandboxes:
    """All of them, on one server."""

    def __init__(self, services: Services, settings: E2b) -> None:
        """There are none."""
        self._services, self.settings = services, settings
        self._held: dict[str, Held] = {}
        self._drafts: Counter[Owner] = Counter()

    @contextlib.contextmanager
    def drafting(self, owner: Owner) -> Iterator[None]:
        """Hold one of the owner's places for a file that waits for the rest of its form; raises BusyError."""
        if self._drafts[owner] >= MAX_DRAFTS:
            raise BusyError(f"{MAX_DRAFTS} files wait for the rest of their forms", retry_after_s=1)
        self._drafts[owner] += 1
        try:
            yield
        finally:
            self._drafts -= Counter({owner: 1})  # which forgets who has none left

    def is_at(self, host: str) -> bool:
        """Whether a Host header names the control plane or a sandbox, below the domain."""
        return place(host, self.settings.domain) is not None

    def of(self, owner: Owner, sandbox_id: str, template: str) -> Held:
        """Return what is known of a sandbox of `owner` that lives, from now on if nothing was; raises SandboxError."""
        sandbox = self._services.sandboxes.find_ready(owner, sandbox_id)
        self._take_back()
        if sandbox.id not in self._held:
            whose = self._services.sandboxes.whose()
            self._held = {known: held for known, held in self._held.items() if known in whose}
            self._held[sandbox.id] = Held(owner=owner, sandbox_id=sandbox.id, template=template)
            self._note(self._held[sandbox.id])
        return self._held[sandbox.id]

    def find(self, sandbox_id: str) -> Held | None:
        """Return what is known of a sandbox, whoever asks: who asks has to show its token, so this is no use of it.

        None when it has gone, or is paused, which to E2B is the same until it is resumed.
        """
        self._take_back()
        held = self._held.get(sandbox_id)
        if held is None:
            return None
        try:
            state = self._services.sandboxes.get(held.owner, sandbox_id).state
        except UnknownSandboxError:
            state = SandboxState.ENDING
        if state is SandboxState.ENDING:
            self._held.pop(sandbox_id, None)
        return held if state is SandboxState.READY else None

    def use(self, held: Held) -> None:
        """Note that who has its token uses a sandbox."""
        self._services.sandboxes.terms.use(held.sandbox_id)

    def all_held(self) -> list[Held]:
        """Return all, for who must find one by a signature."""
        self._take_back()
        return list(self._held.values())

    async def context(self, held: Held, language: str) -> str:
        """Return the id of the usual context of a language, started if none lives; raises SandboxError."""
        async with held.starting:
            known = held.contexts.get(language)
            if known is None or known not in {each.id for each in self.contexts(held)}:
                wanted = NewContext(language=language, cwd=USER_HOME)
                made = await self._services.contexts.create(held.owner, held.sandbox_id, wanted)
                known = held.contexts[language] = made.id
                self._note(held)
            return known

    def environment(self, held: Held) -> dict[str, str]:
        """Return the variables that a sandbox was made with; raises UnknownSandboxError."""
        claim = self._services.sandboxes.find(held.owner, held.sandbox_id).claim
        return dict(claim.env) if claim else {}

    def _note(self, held: Held) -> None:
        """Note it for the next start of the server."""
        text = notes.text_of(_Note(template=held.template, token=held.token, contexts=held.contexts))
        sandbox = self._services.sandboxes.find(held.owner, held.sandbox_id)
        self._services.sandboxes.notes.keep(sandbox, _PART, text)

    def _take_back(self) -> None:
        """Know again what the server before this one noted."""
        for sandbox, text in self._services.sandboxes.parts(_PART):
            note = notes.read(_Note, text) if sandbox.id not in self._held else None
            if note is not None and len(note.token) >= _TOKEN_CHARACTERS and sandbox.owner is not None:
                self._held[sandbox.id] = Held(
                    owner=sandbox.owner,
                    sandbox_id=sandbox.id,
                    template=note.template,
                    token=note.token,
                    contexts=dict(note.contexts),
                )

    def contexts(self, held: Held) -> list[ContextView]:
        """Return the contexts of a sandbox; raises UnknownSandboxError."""
        return self._services.contexts.all_in(held.owner, held.sandbox_id)
