"""debugpy is loaded when somebody debugs, and ipykernel is none the wiser. Each case is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_worker import preload

WORKER = Path(preload.__file__).parents[1]


def said(code: str) -> list[str]:
    before = "import sys\nfrom sandbox_worker import later_debugger\n"
    after = "\nprint(ipykernel.debugger._is_debugpy_available, 'debugpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", before + code + after],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(WORKER)} | preload.ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_ipykernel_has_a_debugger_before_it_is_loaded():
    assert said("later_debugger.defer()\nimport ipykernel.debugger") == ["True", "False"]


def test_the_first_use_loads_it_for_all_that_were_made_before():
    use = """
later_debugger.defer()
import ipykernel.debugger as debugger
first, second = debugger.VariableExplorer(), debugger.VariableExplorer()
first.untrack_all()
second.untrack_all()
third = debugger.VariableExplorer()
print(len({type(first), type(second), type(third), debugger.VariableExplorer}))
import ipykernel
"""
    assert said(use) == ["1", "True", "True"]


@pytest.mark.parametrize("wanted", ["{}", "{'debugpy.server': (), '_pydevd_bundle': ('pydevd_frame_utils',)}"])
def test_of_an_ipykernel_that_wants_more_it_is_loaded_at_once(wanted):
    assert said(f"later_debugger._WANTED = {wanted}\nlater_debugger.defer()\nimport ipykernel.debugger") == [
        "True",
        "True",
    ]


def test_without_debugpy_there_is_no_debugger():
    hide = "sys.modules['debugpy'] = None\nlater_debugger.find_spec = lambda name: None\n"
    ours = hide + "later_debugger.defer()\nimport ipykernel.debugger\ndel sys.modules['debugpy']"
    assert said(ours) == ["False", "False"]
