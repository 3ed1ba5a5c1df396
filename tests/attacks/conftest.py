"""Hosts and sandboxes for the attack tests. Harmless probes share one sandbox per broker; attacks claim their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.attacks import attacker

only_privileged = pytest.mark.parametrize("host", ["privileged"], indirect=True)
only_unprivileged = pytest.mark.parametrize("host", ["unprivileged"], indirect=True)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    machine_is_ready = os.geteuid() == 0 and shutil.which("setpriv")
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.attacks)
            item.add_marker(pytest.mark.needs_root)
            if not machine_is_ready:
                item.add_marker(pytest.mark.skip(reason="needs root and setpriv, to play several users"))


@pytest.fixture(scope="session", params=["privileged", "unprivileged"])
def host(request):
    """A broker of root's, then one of an ordinary user's, each with a client process."""
    with attacker.running_host(0 if request.param == "privileged" else attacker.USER) as running:
        yield running


@pytest.fixture(scope="session")
def inside(host):
    """One sandbox for every probe that leaves it as it was; its kernel has the helpers of `attacker.PRELUDE`."""
    box = host.sandbox("tiny")
    yield box
    box.release()


@pytest.fixture
def claim(host):
    """Claim sandboxes that end with the test: `box = claim("tiny")`."""
    boxes = []

    def make(template="tiny", mode="none", directory=None, name=None, *, start=True):
        box = host.sandbox(template, mode, directory, name, start=start)
        boxes.append(box)
        return box

    yield make
    for box in boxes:
        box.release()
