"""What of a claimed sandbox is noted for the next start of its server, and when: claim, end, what services keep.

A renewal is noted at once. Of mere use not each is: a sandbox that was used may live a little longer than was noted,
and the next start of the server grants that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import notes, restrictions
from jupyter_sandbox.broker import left
from jupyter_sandbox.broker.adoption_verbs import MAX_NOTE
from jupyter_sandbox.broker.client import NO_KEEPSAKE, Keepsake
from jupyter_sandbox.errors import BrokerUnavailableError, SandboxError
from jupyter_sandbox.sandbox import Claim

if TYPE_CHECKING:
    from collections.abc import Collection

    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandbox import Sandbox

_MAX_SLACK_S: Final = 5.0

log = logging.getLogger(__name__)


def slack_s(timeout_s: float) -> float:
    """Return how much longer than was noted a sandbox may live that lives so long after each use."""
    return min(_MAX_SLACK_S, timeout_s / 4)


def claim(note: notes.SandboxNote, template: str) -> Claim:
    """Return what was wanted of a sandbox."""
    return Claim(
        template=template,
        timeout_s=note.timeout_s,
        metadata=note.metadata,
        env=note.env,
        is_renewed_by_use=note.is_renewed_by_use,
        network=restrictions.judge(note.denied, note.excepted),
        less=note.less,
    )


def granted_until(note: notes.SandboxNote) -> float:
    """Return until when a sandbox lives if nobody uses it now, on the machine's monotonic clock."""
    return note.ends_at + slack_s(note.length_s)


class SandboxNotes:
    """The notes of one server."""

    def __init__(self) -> None:
        """Note nothing until there is a name."""
        self.server = ""
        """The name under which the next start of this server finds its sandboxes; empty: they end with this one."""

    def keepsake(self, owner: Owner, claim: Claim, key: str | None, ends_at: float) -> Keepsake:
        """Return what goes along with a claim."""
        note = notes.text_of(_note(owner, claim, key, claim.timeout_s, ends_at, {})) if self.server else ""
        is_short = len(note) <= MAX_NOTE // 2  # more comes to it later
        return Keepsake(server=self.server, note=note) if is_short else NO_KEEPSAKE

    def used(self, sandbox: Sandbox) -> None:
        """Note a new end if the one that was noted is too early."""
        term = sandbox.term
        if self.server and term is not None and term.ends_at > sandbox.noted_until + slack_s(term.length_s):
            self.changed(sandbox)

    def changed(self, sandbox: Sandbox) -> None:
        """Note what is now, without waiting for it."""
        sandbox.is_unnoted = True
        if sandbox.noting is None:
            sandbox.noting = asyncio.create_task(self._write(sandbox), name=f"note of {sandbox.id}")

    def again(self, sandbox: Sandbox) -> None:
        """Note what could not be noted while the broker was away; quiet when there is nothing."""
        if sandbox.is_unnoted and sandbox.noting is None:
            self.changed(sandbox)

    def keep(self, sandbox: Sandbox, name: str, text: str) -> None:
        """Note what the service `name` knows of a claimed sandbox, without waiting for it."""
        if sandbox.parts.get(name) != text:
            sandbox.parts[name] = text
            self.changed(sandbox)

    async def written(self, sandbox: Sandbox) -> None:
        """Wait until what changed is noted; a broker that is away cannot be told."""
        if sandbox.noting is not None:
            await asyncio.shield(sandbox.noting)

    async def write_all(self, sandboxes: Collection[Sandbox]) -> None:
        """Note all of these as they are now, and wait for it."""
        for sandbox in sandboxes:
            self.changed(sandbox)
        for sandbox in sandboxes:
            await self.written(sandbox)

    async def _write(self, sandbox: Sandbox) -> None:
        try:
            while sandbox.is_unnoted and self.server and sandbox.owner is not None and sandbox.claim is not None:
                sandbox.is_unnoted, term = False, sandbox.term
                if term is None:
                    return
                note = _note(sandbox.owner, sandbox.claim, sandbox.key, term.length_s, term.ends_at, sandbox.parts)
                await left.write_note(sandbox.id, notes.text_of(note))
                sandbox.noted_until = term.ends_at
        except BrokerUnavailableError as error:
            sandbox.is_unnoted = True
            log.warning("sandbox %s: nothing can be noted of it now: %s", sandbox.id, error)
        except SandboxError as error:
            log.warning("sandbox %s: nothing could be noted of it: %s", sandbox.id, error)
        finally:
            sandbox.noting = None


def _note(
    owner: Owner, claim: Claim, key: str | None, length_s: float, ends_at: float, parts: dict[str, str]
) -> notes.SandboxNote:
    return notes.SandboxNote(
        owner=owner,
        timeout_s=claim.timeout_s,
        is_renewed_by_use=claim.is_renewed_by_use,
        length_s=length_s,
        ends_at=ends_at,
        metadata=claim.metadata,
        env=claim.env,
        denied=tuple(str(target) for target in claim.network.denied),
        excepted=tuple(str(target) for target in claim.network.excepted),
        less=claim.less,
        key=key,
        parts=parts,
    )
