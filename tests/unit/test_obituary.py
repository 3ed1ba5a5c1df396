"""Why a kernel ended: the most useful cause wins, and the sentence says what to do."""

from __future__ import annotations

import itertools
import signal

import pytest

from jupyter_sandbox import obituary
from jupyter_sandbox.specs import Limits

pytestmark = pytest.mark.unit

LIMITS = Limits(memory_mib=321, disk_mib=654)
QUIET = {"what": "kernel", "status": 0, "out_of_memory": False, "disk_full": False, "requested": False, "log": ""}


def judge(**facts):
    return obituary.write(limits=LIMITS, **QUIET | facts)


def test_a_wanted_end_is_no_news_whatever_else_happened():
    assert judge(requested=True, status=-9, out_of_memory=True, disk_full=True).reason == "requested"


def test_memory_names_its_limit():
    verdict = judge(status=-signal.SIGKILL, out_of_memory=True, disk_full=True)
    assert verdict.reason == "memory"
    assert "321 MiB" in verdict.message


def test_a_child_killed_for_memory_is_not_the_kernel_killed_for_memory():
    assert judge(status=1, out_of_memory=True).reason == "failed"
    assert judge(status=0, out_of_memory=True).reason == "finished"
    assert judge(status=-signal.SIGTERM, out_of_memory=True).reason == "signal"


def test_a_kill_without_lack_of_memory_is_a_signal():
    verdict = judge(status=-signal.SIGKILL)
    assert verdict.reason == "signal"
    assert "SIGKILL" in verdict.message


def test_a_full_disk_names_its_size_and_a_way_out():
    verdict = judge(status=1, disk_full=True)
    assert verdict.reason == "disk"
    assert "654 MiB" in verdict.message
    assert "/sandbox" in verdict.message


def test_a_full_disk_is_no_cause_of_a_good_end():
    assert judge(status=0, disk_full=True).reason == "finished"


def test_a_command_is_called_one():
    assert judge(what="command", status=1).message == "The command ended with exit status 1."


def test_the_log_gives_the_last_words():
    verdict = judge(status=3, log="x" * 5000 + "ImportError: no module named y\n\n")
    assert verdict.reason == "failed"
    assert "exit status 3" in verdict.message
    assert verdict.message.endswith("ImportError: no module named y")
    assert len(verdict.message) < 700


def test_an_empty_log_is_not_quoted():
    assert "last words" not in judge(status=3, log=" \n").message


def test_a_signal_without_a_name_is_a_number():
    assert "signal 99" in judge(status=-99).message


def test_every_end_has_a_known_reason_and_a_sentence():
    known = {"finished", "requested", "memory", "disk", "signal", "failed"}
    seen = set()
    for status, *flags in itertools.product((0, 1, 255, -9, -15, -11), *[(False, True)] * 3):
        verdict = judge(status=status, **dict(zip(("out_of_memory", "disk_full", "requested"), flags, strict=True)))
        assert verdict.message.endswith(".")
        seen.add(verdict.reason)
    assert seen == known
