"""Every engine, one after the other, behind a broker of its own. A case knows no engine; what differs is said here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.engines import docker, image
from jupyter_sandbox.host import places
from tests.attacks.driver import SANDBOXES, Sandbox
from tests.conftest import wait_until
from tests.server.brokers import Tree

ENGINES = ("embedded", "docker")


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.contract)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: one of the engines does"))


class Broker(Tree):
    """A broker of one engine, and the clients of this process."""

    def kill(self) -> None:
        """Kill the broker without a chance to clean up."""
        pid = self.pid()
        assert pid is not None
        self._forget()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pid() is None)

    def status(self) -> verbs.StatusReport:
        return asyncio.run(client.call(verbs.Status(), verbs.StatusReport, start=False))

    def reap(self, *, dry_run: bool = False) -> tuple[str, ...]:
        return asyncio.run(client.call(verbs.Reap(dry_run=dry_run), verbs.Reaped, start=False)).found

    def listed(self) -> list[str]:
        listing = asyncio.run(client.call(verbs.List(after=""), verbs.Listing, start=False))
        return [row.sandbox for row in listing.sandboxes]

    def record(self, sandbox: str) -> dict:
        (record,) = self.directory.glob(f"*/ledger/{sandbox}.json")
        return json.loads(record.read_text())

    def records(self) -> list[Path]:
        return list(self.directory.glob("*/ledger/*.json"))


def _broker(engine: str):
    if engine == "docker" and (unfit := asyncio.run(docker.unfit(image.DEFAULT))):
        pytest.skip(f"engine docker: {unfit}")
    tree = Broker(engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(places.SOCKET_VARIABLE, raising=False)
        patch.setenv(places.DIRECTORY_VARIABLE, str(tree.directory))
        patch.setenv(ENGINE_VARIABLE, engine)
        tree.start()
        yield tree
        tree.stop()


@pytest.fixture(scope="session", params=ENGINES)
def engine(request):
    """The name of an engine."""
    return request.param


@pytest.fixture(scope="module")
def broker(engine):
    """A broker for all cases of a module that leave it as it was."""
    yield from _broker(engine)


@pytest.fixture
def own_broker(engine):
    """A broker of one case's own."""
    yield from _broker(engine)


@pytest.fixture
def claim():
    """Claim sandboxes with a kernel that end with the case: `box = claim("small-disk")`."""
    boxes = []

    def make(template="python", mode="none", directory=None, *, start=True, less=None):
        box = Sandbox(template, mode, directory and str(directory), less=less)
        boxes.append(box)
        if start:
            box.start()
        return box

    yield make
    for box in boxes:
        box.release()
    SANDBOXES.clear()


@pytest.fixture(scope="module")
def box(broker):
    """One sandbox with a kernel for the cases of a module that leave it as it was."""
    made = Sandbox()
    made.start()
    yield made
    made.release()
