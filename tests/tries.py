"""A promise in seconds, measured beside other work: one of a few tries keeps it, and each has an end in some time.

What is slow by itself is slow in each try; a neighbour that takes the processors is not there in each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

TRIES = 3


class Try:
    """Measures what is done `with` it, unless `took_s` is set. `counts`: whether it went as is promised."""

    took_s = float("inf")
    counts = True

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.took_s = time.monotonic() - self._began


def tries(promised_s: float, at_most_s: float = float("inf")) -> Iterator[Try]:
    """Yield tries until one that counts took less than `promised_s`. Fails after three, or when one took `at_most_s`."""
    made: list[Try] = []
    while not made or not made[-1].counts or made[-1].took_s >= promised_s:
        said = ", ".join(f"{each.took_s:.3f} s{'' if each.counts else ' and not as promised'}" for each in made)
        assert len(made) < TRIES, f"not once within {promised_s} s: {said}"
        made.append(Try())
        yield made[-1]
        assert made[-1].took_s < at_most_s, f"{made[-1].took_s:.3f} s, more than {at_most_s} s"
