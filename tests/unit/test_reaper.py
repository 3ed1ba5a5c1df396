"""The reaper's comparison: what nobody owns, and that one that stays does not keep the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_sandbox.broker import reaper
from jupyter_sandbox.engines import Remains

pytestmark = pytest.mark.unit


def thing(made_for, remove=lambda: None, **more) -> Remains:
    return Remains(what=f"thing of {made_for}", made_for=made_for, remove=remove, **more)


def sandbox(name, kernels=(), standby=None, *, is_handed_over=False):
    return SimpleNamespace(id=name, kernels=dict.fromkeys(kernels, 0), standby=standby, is_handed_over=is_handed_over)


def test_what_somebody_owns_or_makes_is_no_stray():
    somebodys = reaper.owned(
        [sandbox("sbx_a", ["seat1"], is_handed_over=True), sandbox("sbx_b", standby=object())], ["sbx_c"]
    )
    found = [thing(each) for each in ("sbx_a", "sbx_b", "sbx_c", "sbx_d", "seat1", "a", "b", "seat3")]
    assert [each.made_for for each in reaper.strays(found, somebodys)] == ["sbx_d", "seat3"]


def test_what_a_dead_broker_held_of_a_standby_is_a_stray():
    assert reaper.strays([thing("a")], reaper.owned([sandbox("sbx_a", ["seat1"])], [])) != []


async def test_one_that_cannot_be_destroyed_does_not_keep_the_others():
    gone = []

    async def later():
        await asyncio.sleep(0)
        gone.append("later")

    def refuse():
        raise OSError("busy")

    await reaper.destroy([thing("a", refuse), thing("b", later), thing("c", lambda: gone.append("now"))])
    assert gone == ["later", "now"]


async def test_what_has_become_somebodys_is_spared():
    gone = []
    await reaper.destroy([thing("a", lambda: gone.append("a")), thing("b", lambda: gone.append("b"))], lambda: {"a"})
    assert gone == ["b"]


class World:
    """An engine, a firewall, places and a ledger in which things appear while one looks."""

    def __init__(self, path, looks) -> None:
        (path / "k").mkdir()
        self.run, self._looks = path, list(looks)

    async def remains(self):
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    def reap(self, slots, *, dry_run):
        return [f"networks but {sorted(slots())}"]

    def records(self):
        return iter(())

    unread: frozenset[str] = frozenset()

    async def reaped(self, somebodys, *, dry_run=False):
        return await reaper.reap(self, self, self, self, somebodys=somebodys, slots=lambda: {1}, dry_run=dry_run)


async def test_owners_are_asked_after_everything_was_looked_at(tmp_path):
    # once: sockets were listed after the owners had been asked, so that of a worker that was just made was removed
    order = []
    world = World(tmp_path, [[]])
    looking = world.remains
    world.remains = lambda: order.append("look") or looking()
    await world.reaped(lambda: order.append("owners") or set())
    assert order == ["owners", "look", "owners"]


async def test_what_was_given_back_while_it_was_looked_at_is_no_stray(tmp_path):
    owners = [set(), {"a"}]
    world = World(tmp_path, [[thing("a")]])
    assert await world.reaped(owners.pop) == ["networks but [1]"]


async def test_a_dry_run_destroys_nothing(tmp_path):
    gone = []
    world = World(tmp_path, [[thing("a", lambda: gone.append("a"))]])
    assert await world.reaped(set, dry_run=True) == ["thing of a", "networks but [1]"]
    assert gone == []
    assert await world.reaped(set) == ["thing of a", "networks but [1]"]
    assert gone == ["a"]


async def test_what_may_belong_to_a_record_that_cannot_be_read_is_spared(tmp_path):
    # its id is in the record's name; which kernels and which network are its, only the record says
    world = World(tmp_path, [[thing("a"), thing("b")]])
    (tmp_path / "k/123456789abc-1").touch()
    world.unread = frozenset("a")
    assert await world.reaped(set) == ["thing of b"]
    world.unread = frozenset()
    assert await world.reaped(set) == ["thing of a", "thing of b", "kernel socket 123456789abc-1", "networks but [1]"]


async def test_what_is_freed_a_moment_later_is_told_only_if_it_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(reaper, "_MOMENT_S", 0)
    gone = []
    passing, staying = (thing(name, lambda n=name: gone.append(n), is_freed_later=True) for name in ("a", "b"))
    world = World(tmp_path, [[passing, staying], [staying]])
    assert await world.reaped(set) == ["thing of b", "networks but [1]"]
    assert gone == ["b"]
