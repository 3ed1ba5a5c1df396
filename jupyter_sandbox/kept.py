"""What is kept of work that is over, so that its owner can fetch it later: the latest, within bounds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from jupyter_sandbox.owners import Owner


class Keepable(Protocol):
    """An execution or a command."""

    id: str
    owner: Owner

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def is_detached(self) -> bool:
        """Whether it is kept when it has ended."""
        ...

    @property
    def kept_bytes(self) -> int:
        """How much is kept of it."""
        ...


Item = TypeVar("Item", bound=Keepable)


def settle(known: MutableMapping[str, Item], ended: Item, *, max_kept: int, max_kept_bytes: int) -> None:
    """Forget what `ended` unless it is detached; of its owner's others that are over, the oldest that are too much."""
    if not ended.is_detached:
        known.pop(ended.id, None)
        return
    mine = [each for each in known.values() if each.owner == ended.owner and each.is_over]
    kept_bytes = sum(each.kept_bytes for each in mine)
    for number, oldest in enumerate(mine):
        if len(mine) - number <= max_kept and kept_bytes <= max_kept_bytes:
            break
        kept_bytes -= oldest.kept_bytes
        del known[oldest.id]
