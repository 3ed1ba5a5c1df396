"""Finds what is on the host for workers that nobody owns, and destroys it: one comparison for everything.

Whose things are is asked before and after they are looked at: whoever makes something is known before it is there, and
whoever gives it back until it is gone. So a reap at any moment hurts nobody. While a worker cannot be judged, since its
record cannot be read or nobody can tell whether it lives, it is somebody's, with all sockets of kernels and networks:
which of them are its may not be known.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.engines import Remains
from jupyter_sandbox.guards import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.firewall import Firewall
    from jupyter_sandbox.host.places import Places
    from jupyter_sandbox.ledger import Ledger

Owned = set[str]
"""Ids of workers, those that are being made too, and seats of kernels."""

_MOMENT_S: Final = 1.0

log = logging.getLogger(__name__)


def owned(sandboxes: Collection[Sandbox], making: Collection[str]) -> Owned:
    """Return what somebody owns: `sandboxes`, whether claimed or warm, and what is being made.

    The seat of a standby, too, until its sockets are those of a kernel. What a broker that died held of one is
    nobody's, since only that could have handed it over.
    """
    of_all: Owned = {*making}
    for sandbox in sandboxes:
        of_all |= {sandbox.id, *sandbox.kernels}
        if sandbox.standby or sandbox.is_handed_over:
            of_all.add(ids.standby_seat(sandbox.id))
    return of_all


def strays(found: Iterable[Remains], somebodys: Collection[str]) -> list[Remains]:
    """Return what belongs to nobody."""
    return [remains for remains in found if remains.made_for not in somebodys]


async def destroy(found: Iterable[Remains], somebodys: Callable[[], Owned] = set) -> None:
    """Destroy things in order, unless they are somebody's by now; what stays is looked at again the next time."""
    for remains in found:
        try:
            removing = None if remains.made_for in somebodys() else remains.remove()
            if inspect.isawaitable(removing):
                await removing
        except Exception as error:  # noqa: BLE001 - one that stays must not keep the others
            log.warning("%s stays for now: %s", remains.what, error)


async def reap(
    engine: Engine,
    firewall: Firewall,
    places: Places,
    ledger: Ledger,
    *,
    somebodys: Callable[[], Owned],
    slots: Callable[[], set[int]],
    unjudged: Collection[str] = (),
    dry_run: bool,
) -> list[str]:
    """Destroy what nobody owns, or only find it; return what it was, in words. `slots` are those of workers.

    `unjudged`: workers of which nobody could tell yet whether they live, though their records may be readable.
    """
    before, unread = somebodys(), {*ledger.unread, *unjudged}
    records = list(_records(ledger))
    unread |= ledger.unread
    sockets = [] if unread else _sockets(places)
    found = [*await engine.remains(), *sockets, *records]
    left = strays(found, before | somebodys() | unread)
    if any(remains.is_freed_later for remains in left):
        await asyncio.sleep(_MOMENT_S)
        still = {remains.what for remains in await engine.remains()}
        left = [remains for remains in left if remains.what in still or not remains.is_freed_later]
    if not dry_run:
        await destroy(left, somebodys)
    networks = [] if unread else await asyncio.to_thread(firewall.reap, slots, dry_run=dry_run)
    return [*(remains.what for remains in left), *networks]


def _sockets(places: Places) -> Iterator[Remains]:
    for path in sorted((places.run / "k").iterdir()):
        seat = path.name.partition("-")[0]
        yield Remains(
            what=f"kernel socket {path.name}", made_for=seat, remove=functools.partial(path.unlink, missing_ok=True)
        )


def _records(ledger: Ledger) -> Iterator[Remains]:
    for record in list(ledger.records()):
        forget = functools.partial(ledger.remove, record.id)
        yield Remains(what=f"ledger record {record.id}", made_for=record.id, remove=forget)
