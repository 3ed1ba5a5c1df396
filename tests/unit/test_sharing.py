"""What forks share: gaps in the parent's memory are filled before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandbox_worker import sharing

TABLE = b"""
class   size   num pools   blocks in use  avail blocks
-----   ----   ---------   -------------  ------------
    0     16           1             983            40
    1     32           4            2000            30
    2     48           2             600             2

# arenas allocated total           =                    4
           24 free PyDictObjects * 48 bytes each =                1,152
"""


def test_each_free_block_gets_an_object_of_its_size():
    sizes = [-(-sys.getsizeof(each) // 16) * 16 for each in sharing._fillers_of(TABLE)]
    assert sizes == [16] * 40 + [32] * 30 + [48] * 2


def test_without_statistics_nothing_is_filled():
    assert list(sharing._fillers_of(b"")) == []


def test_gaps_are_gone_when_a_process_has_settled():
    """Of 90 000 freed blocks among 10 000 that stay; Python makes some garbage of its own at the same time."""
    code = """
from sandbox_worker import sharing
def free():
    return sum(int(free) for _, free in sharing._ROW.findall(sharing._statistics()))
kept = [bytes(100) for _ in range(100_000)][::10]
before = free()
sharing.settle()
print(before, free())
"""
    worker = Path(sharing.__file__).parents[1]
    said = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(worker)}, capture_output=True, text=True, check=True
    )
    before, after = (int(each) for each in said.stdout.split())
    assert before > 80_000
    assert after < 3_000
    assert said.stderr == "", "it is read, not shown"
