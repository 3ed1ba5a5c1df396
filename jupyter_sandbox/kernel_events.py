"""What a provisioner tells: of its kernel, and of the sandbox that it claimed for it or was the last to leave."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import events, owners
from jupyter_sandbox.events import (
    ContextEnded,
    ContextRestarted,
    ContextStarted,
    KernelEnd,
    Origin,
    RequestRefused,
    SandboxClaimed,
    SandboxEnd,
    SandboxEnded,
    SandboxResumed,
)

if TYPE_CHECKING:
    from jupyter_sandbox.broker.client import Lease
    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.owners import Owner

_MAX_ID: Final = 400


def sandbox_ended(lease: Lease, owner: Owner | None, origin: Origin, reason: SandboxEnd) -> SandboxEnded:
    """Return what is told when a sandbox was given back or lost."""
    return SandboxEnded(
        owner=owner,
        sandbox_id=lease.sandbox,
        template=lease.template,
        origin=origin,
        reason=reason,
        message=events.shortened(lease.loss),
        lived_s=lease.age_s,
    )


class KernelEvents:
    """Tells of one kernel. Its manager says to whom and for whom, if it is one of a server of ours."""

    def __init__(self, manager: Any, kernel_id: str) -> None:
        """`manager` is asked each time, since it may get its owner later than its provisioner."""
        self._manager, self._kernel_id = manager, str(kernel_id)[:_MAX_ID]
        self._began = 0.0
        self._before: KernelEnd | None = None

    def begins(self, before: KernelEnd | None) -> None:
        """A start begins; `before`: why the kernel before it ended, if there was one."""
        self._began, self._before = time.monotonic(), before

    def claimed(self, lease: Lease) -> None:
        """A sandbox was claimed for the kernel that starts."""
        self._emit(
            SandboxClaimed(
                owner=self._owner,
                sandbox_id=lease.sandbox,
                template=lease.template,
                origin=Origin.KERNEL,
                took_s=time.monotonic() - self._began,
            )
        )

    def started(self, lease: Lease) -> None:
        """The kernel was started."""
        took_s = time.monotonic() - self._began
        if self._before is None:
            self._emit(ContextStarted(**self._kernel(lease), took_s=took_s))
        else:
            self._emit(ContextRestarted(**self._kernel(lease), reason=self._before, took_s=took_s))

    def refused(self, error: SandboxError) -> None:
        """The kernel did not start."""
        self._emit(RequestRefused(owner=self._owner, code=error.code, operation="start_kernel"))

    def resumed(self, lease: Lease, took_s: float | None) -> None:
        """The sandbox goes on, since the kernel is to end; None: it did before."""
        if took_s is not None:
            self._emit(SandboxResumed(owner=self._owner, sandbox_id=lease.sandbox, took_s=took_s))

    def ended(self, lease: Lease, reason: KernelEnd) -> None:
        """The kernel is gone for good."""
        self._emit(ContextEnded(**self._kernel(lease), reason=reason))

    def left(self, lease: Lease) -> None:
        """The sandbox was left by its last kernel, and ends."""
        reason = SandboxEnd.LOST if lease.loss else SandboxEnd.VACATED
        self._emit(sandbox_ended(lease, self._owner, Origin.KERNEL, reason))

    @property
    def on_behalf(self) -> str:
        """See verbs.Claim."""
        return owners.on_behalf(self._owner)

    @property
    def _emit(self) -> Emit:
        emit: Emit = getattr(self._manager, "sandbox_emit", events.ignore)
        return emit

    @property
    def _owner(self) -> Owner | None:
        return owners.of_kernel(self._manager)

    def _kernel(self, lease: Lease) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "sandbox_id": lease.sandbox,
            "context_id": self._kernel_id,
            "kernel_name": str(getattr(self._manager, "kernel_name", "")),
        }
