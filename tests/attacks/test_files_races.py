"""The file operations of the host while a sandbox swaps names under them; `races` says how to try much more often."""

from __future__ import annotations

import pytest

from tests.attacks import races

TRIES = 4000


@pytest.mark.parametrize("swap", races.SWAPS)
def test_nothing_outside_the_disk_is_read_or_changed_while_a_sandbox_swaps_names(host, swap):
    seen = races.race(host, swap, TRIES)
    assert sum(seen.values()) >= TRIES
    assert not [what for what in seen if what.startswith("LEAK")], seen
    assert seen.get("read: inside"), "the host met the sandbox's own files"
    other = "read: unknown_file" if swap in ("hard link", "vanish") else "read: file_refused"
    assert seen.get(other), "and what it must not read, or what was gone"
