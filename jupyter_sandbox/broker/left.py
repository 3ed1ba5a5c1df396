"""What a server that was started anew asks the broker: which sandboxes it left, and for each to have it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker.adoption_verbs import Adopt, Adopted, Note, ReadNote, WriteNote
from jupyter_sandbox.broker.client import Lease

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDED_MEANWHILE: Final = "The kernel ended while its server was away."


async def sandboxes(server: str) -> list[str]:
    """Return the ids of those that may be adopted now. Raises SandboxError; BrokerUnavailableError without a broker."""
    found: list[str] = []
    while True:
        request = verbs.List(after=found[-1] if found else "", left_by=server)
        page = await client.call(request, verbs.Listing, start=False)
        found += [each.sandbox for each in page.sandboxes]
        if not page.more:
            return found


async def adopt(sandbox: str, server: str) -> tuple[Lease, Mapping[str, str]]:
    """Return the lease of a sandbox and the prefixes of its kernels' sockets, by their seats. Raises SandboxError.

    The lease has the end of each kernel that does not run any more. Tenants it has none yet.
    """
    channel = await client.connect(start=False)
    early: list[object] = []
    try:
        adopted, _ = await client.ask(channel, Adopt(sandbox=sandbox, server=server), Adopted, (), early.append)
    except BaseException:
        channel.close()
        raise
    lease = Lease(channel, sandbox, adopted.cwd, adopted.template, adopted.created_at)
    lease.is_paused, lease.restriction = adopted.paused, adopted.network.judge()
    for seat in adopted.seats:
        if not seat.is_running:
            lease.exits[seat.seat] = verbs.ProcessExited(
                sandbox=sandbox, target=seat.seat, status=1, reason="unknown", message=ENDED_MEANWHILE
            )
    for event in early:
        lease.hear_of(event)
    return lease, {seat.seat: seat.prefix for seat in adopted.seats}


async def read_note(sandbox: str, seat: str = "") -> str:
    """Return what was noted of a kernel, or of the sandbox itself; nothing if that is what there is."""
    return (await client.call(ReadNote(sandbox=sandbox, seat=seat), Note, start=False)).text


async def write_note(sandbox: str, text: str, seat: str = "") -> None:
    """Note something of a kernel, or of the sandbox itself. Raises SandboxError."""
    await client.call(WriteNote(sandbox=sandbox, seat=seat, text=text), verbs.Done, start=False)
