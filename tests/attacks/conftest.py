"""Hosts and sandboxes for the attack tests. Harmless probes share one sandbox per broker; attacks claim their own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.attacks import attacker, e2b_calls, rest_world

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


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory):
    """Where that server's files are."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def world(world_folder):
    """The address of a server with several people."""
    with rest_world.a_world(world_folder) as url:
        yield url


@pytest.fixture
def make(world, jp_asyncio_loop):
    """Make a sandbox of E2B's as somebody: `box = await make("alice")`."""
    with e2b_calls.making(world, jp_asyncio_loop) as make:
        yield make


@pytest.fixture
def filesystem(world, make, jp_asyncio_loop):
    """The files of one that is alice's."""
    return e2b_calls.Filesystem(world, jp_asyncio_loop.run_until_complete(make("alice")))


@pytest.fixture(scope="module")
def tokens(world, world_folder):
    """The tokens that its operator issues; no secret of one is in its log, whatever the tests did with them."""
    issued = rest_world.Tokens(world_folder)
    yield issued
    said = issued.log.read_text()
    assert "200 GET /api" in said, "the log says what was asked, down to debug lines"
    assert [text for text in issued.secrets if text[-43:] in said] == []


@pytest.fixture
def people(world, jp_asyncio_loop):
    """A client of the REST surface for each person; what they hold ends with the test."""
    known = {name: rest_world.as_person(world, name) for name in ("operator", "alice", "bob", "")}
    yield known
    jp_asyncio_loop.run_until_complete(_release_all(known))


async def _release_all(people):
    for name, rest in people.items():
        for sandbox in (await rest.get()).body["sandboxes"] if name else ():
            await rest.delete(sandbox["id"])


@pytest.fixture
def rest(people):
    """One of them."""
    return people["alice"]


@pytest.fixture
def program(world, tokens, jp_asyncio_loop):
    """A REST client with a token: `rest = program("alice", "kernels:read")`; what its owner holds ends with the test."""
    used = []

    def make(owner, *scopes):
        token = tokens.issue(owner, *scopes)
        rest = rest_world.as_person(world, token)
        rest.token = token
        used.append(owner)
        return rest

    yield make
    everything = {owner: rest_world.as_person(world, tokens.issue(owner)) for owner in used}
    jp_asyncio_loop.run_until_complete(_release_all(everything))
