"""Whether there is room for another worker, and for whom. Pure: what the host has is read by `host.readings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Party = tuple[int, str]
"""Whom places are shared out to: the host user of a client, and which of its owners it asks for."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """How much the host has of something: memory, or blocks of a file system. MiB."""

    total_mib: int
    free_mib: int
    """What whoever asks could still have."""

    def holds(self, wanted_mib: int, *, percent: int, reserve_mib: int = 0) -> bool:
        """Whether so much more can be taken without more than `percent` in use, or less than the reserve left."""
        left_mib = self.free_mib - wanted_mib
        return left_mib >= max(reserve_mib, 0) and (self.total_mib - left_mib) * 100 <= self.total_mib * percent


def kept_for_others(
    asker: Party, held: Mapping[Party, int], in_vain: Collection[Party], users: Mapping[int, int]
) -> int:
    """Return how many free places are not for `asker`: others hold fewer, and asked in vain a short while ago.

    `held` counts the sandboxes of a party, `users` those of a host user. Users come first: who makes up owners has no
    more of a neighbour's places. Each other user counts once, then each other owner of the same user.
    """
    user, _ = asker
    poorer = {other for other, _ in in_vain if other != user and users.get(other, 0) < users.get(user, 0)}
    owners = {
        party for party in in_vain if party[0] == user and party != asker and held.get(party, 0) < held.get(asker, 0)
    }
    return len(poorer) + len(owners)
