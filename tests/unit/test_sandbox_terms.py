"""What renews a claimed sandbox, and where its end is announced, without a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jupyter_sandbox import notices
from jupyter_sandbox.events import SandboxEndsSoon
from jupyter_sandbox.sandbox import Claim
from jupyter_sandbox.sandbox_terms import SandboxTerms

pytestmark = pytest.mark.unit

ID = "sbx_" + "1" * 20


class World:
    """One claimed sandbox with one kernel, at a time that a test turns on."""

    def __init__(self, *, by_use: bool = True) -> None:
        self.now, self.told = 1000.0, []
        self.lease = SimpleNamespace(sandbox=ID, is_paused=False)
        claim = Claim(template="python", timeout_s=600, is_renewed_by_use=by_use)
        self.sandbox = SimpleNamespace(
            id=ID, owner="user alice", claim=claim, lease=self.lease, term=None, expires_at=None
        )
        self.manager = SimpleNamespace()
        self.kernels = [("k", self.manager, SimpleNamespace(lease=self.lease))]
        self.terms = SandboxTerms({ID: self.sandbox}, lambda: self.now, self.told.append)
        self.terms.begin(self.sandbox, 600)

    def look(self) -> None:
        self.terms.look(self.kernels)

    @property
    def left_s(self) -> float:
        return self.sandbox.term.ends_at - self.now


def test_a_use_renews_and_time_alone_ends():
    world = World()
    world.now += 500
    world.terms.use(ID)
    world.now += 599
    assert not world.terms.is_over(world.sandbox)
    world.now += 1
    assert world.terms.is_over(world.sandbox)


def test_a_time_that_began_before_ends_when_it_was_to_end_and_is_renewed_by_use():
    world = World()
    told = []
    world.terms.on_use = told.append
    world.terms.begin(world.sandbox, 600, ends_at=world.now + 5)
    assert world.left_s == 5
    world.terms.use(ID)
    assert (world.left_s, told) == (600, [world.sandbox])


def test_a_use_of_a_strangers_sandbox_is_quiet():
    World().terms.use("sbx_" + "2" * 20)


def test_what_would_run_for_a_client_if_it_were_not_paused_renews_nothing():
    world = World()
    world.terms.in_use = lambda: [ID]
    world.lease.is_paused = True
    world.now += 599
    world.look()
    assert world.left_s == 1
    world.lease.is_paused = False
    world.look()
    assert world.left_s == 600


def test_what_runs_for_a_client_renews_with_each_look():
    world = World()
    world.terms.in_use = lambda: [ID, "sbx_" + "2" * 20]
    for _ in range(5):
        world.now += 500
        world.look()
        assert world.left_s == 600


def test_a_message_over_a_websocket_renews_from_when_it_came(monkeypatch):
    world = World()
    monkeypatch.setattr(notices.time, "monotonic", lambda: 1300.0)
    notices.note_use(world.manager)
    world.now = 1450
    world.look()
    assert world.sandbox.term.ends_at == 1900


def test_nothing_renews_where_the_owner_says_how_long():
    world = World(by_use=False)
    world.terms.in_use = lambda: [ID]
    world.now += 500
    world.terms.use(ID)
    world.look()
    assert world.left_s == 100


@pytest.mark.parametrize(("by_use", "words"), [(True, "unless it is used or renewed"), (False, "unless it is renewed")])
def test_the_end_is_said_once_to_everybody_who_looks(by_use, words):
    world = World(by_use=by_use)
    heard: list[str] = []
    other: list[str] = []
    notices.listen(world.manager, heard.append)
    notices.listen(world.manager, other.append)
    notices.leave(world.manager, other.append)
    world.now += 539
    world.look()
    assert heard == []
    world.now += 11
    world.look()
    world.look()
    assert len(heard) == 1
    assert heard[0] == f"This sandbox ends in 50 s, with its files, {words}."
    assert world.told == [SandboxEndsSoon(owner="user alice", sandbox_id=ID, left_s=50.0)]
    assert other == []


def test_after_a_use_the_end_is_said_again():
    world = World()
    world.now += 550
    world.look()
    world.terms.use(ID)
    world.now += 550
    world.look()
    assert [event.left_s for event in world.told] == [50.0, 50.0]


def test_what_is_over_is_not_announced():
    world = World()
    world.now += 700
    world.look()
    assert world.told == []


def test_a_sandbox_without_a_time_never_ends_and_has_no_stamp():
    world = World()
    world.sandbox.term = None
    world.now += 1e9
    world.look()
    world.terms.use(ID)
    assert not world.terms.is_over(world.sandbox)
    assert world.terms.stamp(world.sandbox) is None
