"""Sees to the terms of a server's claimed sandboxes: what renews them, what is said before they end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jupyter_sandbox import notices
from jupyter_sandbox.events import SandboxEndsSoon
from jupyter_sandbox.terms import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.provisioner import SandboxProvisioner
    from jupyter_sandbox.sandbox import Sandbox

    Kernel = tuple[str, Any, SandboxProvisioner]


class SandboxTerms:
    """The terms of one server."""

    def __init__(self, claimed: Mapping[str, Sandbox], clock: Callable[[], float], emit: Emit) -> None:
        """Go by `clock`; tell `emit` which of `claimed` ends soon."""
        self._claimed, self._clock, self._emit = claimed, clock, emit
        self.in_use: Callable[[], Iterable[str]] = tuple
        """In which sandboxes something runs for a client that has an end."""
        self.on_use: Callable[[Sandbox], None] = lambda _: None
        """Called with a sandbox that was used."""

    def begin(self, sandbox: Sandbox, length_s: float, *, ends_at: float | None = None) -> None:
        """Let a sandbox live so long from now on, or until `ends_at` on our clock if its time began before."""
        by_use = sandbox.claim is not None and sandbox.claim.is_renewed_by_use
        began_at = self._clock() if ends_at is None else ends_at - length_s
        sandbox.term = Term.begun(began_at, length_s, is_renewed_by_use=by_use)

    def use(self, sandbox_id: str, at: float | None = None) -> None:
        """Lengthen the time of a claimed sandbox if use does that; `at`: when it was, on our clock, if not now."""
        sandbox = self._claimed.get(sandbox_id)
        if sandbox is not None and sandbox.term is not None:
            sandbox.term = sandbox.term.used(self._clock() if at is None else at)
            self.on_use(sandbox)

    def look(self, kernels: Collection[Kernel]) -> None:
        """Look what clients use: something runs for them, or they speak to a kernel; and announce what ends soon.

        In what is paused nothing runs.
        """
        now = self._clock()
        used = {sandbox_id: now for sandbox_id in self.in_use() if not self._is_paused(sandbox_id)}
        for _, manager, provisioner in kernels:
            if provisioner.lease is not None and (at := notices.used_at(manager)) is not None:
                used[provisioner.lease.sandbox] = max(at, used.get(provisioner.lease.sandbox, at))
        for sandbox_id, at in used.items():
            self.use(sandbox_id, at)
        for sandbox in self._claimed.values():
            self._announce(sandbox, kernels)

    def _is_paused(self, sandbox_id: str) -> bool:
        sandbox = self._claimed.get(sandbox_id)
        return sandbox is not None and sandbox.lease.is_paused

    def is_over(self, sandbox: Sandbox) -> bool:
        """Whether the time of a sandbox is over."""
        return sandbox.term is not None and sandbox.term.is_over(self._clock())

    def _announce(self, sandbox: Sandbox, kernels: Collection[Kernel]) -> None:
        """Say in the notebooks of a sandbox, and to who reads events, that it ends soon; once, if it does."""
        term = sandbox.term
        if term is None or term.is_over(self._clock()) or not term.is_to_be_announced(self._clock()):
            return
        sandbox.term = term.announced()
        left_s = term.ends_at - self._clock()
        what_helps = "used or renewed" if term.is_renewed_by_use else "renewed"
        words = f"This sandbox ends in {left_s:.0f} s, with its files, unless it is {what_helps}."
        for _, manager, provisioner in kernels:
            if provisioner.lease is sandbox.lease:
                notices.say(manager, words)
        self._emit(SandboxEndsSoon(owner=sandbox.owner, sandbox_id=sandbox.id, left_s=left_s))

    def stamp(self, sandbox: Sandbox) -> datetime | None:
        """Return when a sandbox ends, on the wall clock as it is; None: it has no time."""
        if sandbox.term is not None:
            sandbox.expires_at = sandbox.term.end_on(datetime.now(UTC), self._clock(), sandbox.expires_at)
        return sandbox.expires_at
