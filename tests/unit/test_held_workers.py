"""What pidfd, disk and control group tell of a worker."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jupyter_sandbox.engines import Usage
from jupyter_sandbox.engines.held import HeldWorker, Slots
from jupyter_sandbox.errors import ConflictError
from jupyter_sandbox.host import processes
from jupyter_sandbox.specs import Limits

pytestmark = pytest.mark.unit

UNKNOWN = Usage(cpu_s=None, memory_bytes=None, memory_cache_bytes=None, disk_bytes=None, disk_total_bytes=1)


@pytest.mark.parametrize(
    ("used_mib", "cached_mib", "fits"), [(89, 20, False), (80, 20, True), (64, None, True), (None, None, True)]
)
def test_a_limit_below_what_a_worker_holds_is_refused(used_mib, cached_mib, fits):
    used, cached = (None if mib is None else mib << 20 for mib in (used_mib, cached_mib))
    worker = SimpleNamespace(usage=lambda: replace(UNKNOWN, memory_bytes=used, memory_cache_bytes=cached))
    limits = Limits(memory_mib=64)
    if fits:
        HeldWorker.require_less(worker, limits)
    else:
        with pytest.raises(ConflictError, match="memory_mib is 64, and a new sandbox of this template uses 69"):
            HeldWorker.require_less(worker, limits)


def test_a_slot_as_whose_uid_something_runs_is_not_given_though_nobody_is_known_to_have_it():
    # once: the slot of a worker whose record could not be read was given to another, with its uid and its network
    assert Slots(os.getuid() - 1).take("a") > 1
    assert Slots(None).take("a") == 1


@pytest.mark.parametrize("uid", [0x3FFF0001, 0x7FFFFFFF, 0x80000000, 0xFFFF0001])
def test_any_uid_can_be_asked_for(uid):
    assert not processes.run_as(uid)
