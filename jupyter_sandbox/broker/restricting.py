"""Change what a claimed sandbox may reach, within what its template opens; paused or not.

The ledger is told before, so that the next broker knows what was wanted if this one dies meanwhile. Each side of the
network alone holds a sandbox, and they are changed one after the other: until both are done, and for good if the second
cannot be, it reaches what both of them let pass, which is never more than before or than was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from jupyter_sandbox import restrictions
from jupyter_sandbox.broker import pausing, recording
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.host import tasks
from jupyter_sandbox.specs import UNRESTRICTED

if TYPE_CHECKING:
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.firewall import Firewall
    from jupyter_sandbox.specs import Restriction

log = logging.getLogger(__name__)


async def restrict(sandbox: Sandbox, wanted: Restriction, firewall: Firewall, write: recording.Write) -> None:
    """Replace the restriction of a claimed sandbox. Raises SandboxError; it reaches no more than before then."""
    restrictions.within(sandbox.template.policy, wanted, sandbox.template.name)
    await tasks.whole(_restrict(sandbox, wanted, firewall, write))


async def enforce_again(sandbox: Sandbox, firewall: Firewall) -> None:
    """Put in force what is recorded of a sandbox that outlived its broker; raises SandboxError if it reaches more."""
    try:
        await _enforce(sandbox, firewall)
    except SandboxError as error:
        if sandbox.restriction != UNRESTRICTED:
            raise
        log.warning("sandbox %s may reach less than its template opens: %s", sandbox.id, error)


async def _restrict(sandbox: Sandbox, wanted: Restriction, firewall: Firewall, write: recording.Write) -> None:
    async with sandbox.changing:
        pausing.require_claimed(sandbox)
        before, sandbox.restriction = sandbox.restriction, wanted
        try:
            write(sandbox)
            await _enforce(sandbox, firewall)
        except BaseException:
            sandbox.restriction = before
            recording.write_or_later(sandbox, write)
            raise
    log.info("sandbox %s has another restriction of its network", sandbox.id)


async def _enforce(sandbox: Sandbox, firewall: Firewall) -> None:
    """Change both sides, if there are any: only a worker whose template opened something has a network."""
    slot = sandbox.worker.slot
    if not firewall.is_open(slot):
        return
    namespace = sandbox.worker.network_namespace()
    try:
        await asyncio.to_thread(firewall.change, slot, namespace, sandbox.restriction)
    finally:
        os.close(namespace)
