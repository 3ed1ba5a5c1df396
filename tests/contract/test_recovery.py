"""What is left when processes of the host die, whatever made the workers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from jupyter_sandbox.errors import CapacityError
from tests.conftest import wait_until


def reattach(box):
    box.lease.listen()  # it ends here: the broker is gone
    asyncio.run(box.lease.reattach())


def test_a_kernel_lives_on_when_its_broker_is_killed(own_broker, claim):
    box = claim()
    assert box.execute("x = 1")["status"] == "ok"
    own_broker.kill()
    assert box.execute("print(x)")["out"].strip() == "1"
    own_broker.start()
    reattach(box)
    assert box.lease.loss is None
    assert box.seat not in box.lease.exits
    assert box.execute("print(x + 1)")["out"].strip() == "2"
    box.signal(signal.SIGKILL)
    assert box.end()["reason"] == "requested"
    box.start()
    assert box.execute("print('anew')")["out"].strip() == "anew"


def test_warm_workers_of_a_killed_broker_are_destroyed_by_the_next(own_broker):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    (record,) = own_broker.records()
    before = record.stem
    own_broker.kill()
    own_broker.start()
    wait_until(lambda: own_broker.status().warm == 1, 30)
    assert [record.stem for record in own_broker.records()] != [before]
    assert len(own_broker.records()) == 1


def test_a_warm_worker_without_a_broker_ends_by_itself(own_broker):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    (record,) = own_broker.records()
    pid = own_broker.record(record.stem)["pid"]
    own_broker.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20)
    own_broker.start()


def test_what_a_worker_left_is_reaped(own_broker, claim):
    box = claim()
    pid = own_broker.record(box.id)["pid"]
    own_broker.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    own_broker.start()
    assert box.id not in own_broker.listed()
    wait_until(lambda: own_broker.status().warm == 1, 30)
    assert own_broker.reap() == ()
    assert [record.stem for record in own_broker.records()] != [box.id]


def test_strangers_in_our_places_are_reaped(own_broker):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    (run,) = own_broker.directory.glob("*/ledger/..")
    (run / "a" / ("0" * 20)).touch()
    (run / "k" / "000000000000-1").touch()
    assert own_broker.reap(dry_run=True) == (f"agent socket {'0' * 20}", "kernel socket 000000000000-1")
    assert len(own_broker.reap()) == 2
    assert own_broker.reap() == ()


def test_a_killed_client_takes_its_sandbox_along(own_broker, claim):
    box = claim()
    box.lease.close()
    wait_until(lambda: own_broker.listed() == [])


def test_a_full_template_is_refused_and_has_room_again(own_broker, claim):
    box = claim("only-one", start=False)
    with pytest.raises(CapacityError) as refusal:
        claim("only-one", start=False)
    assert refusal.value.retry_after_s
    box.release()
    claim("only-one", start=False)


def test_an_interrupted_broker_takes_everything_along(own_broker, claim):
    box = claim()
    pid = own_broker.record(box.id)["pid"]
    os.kill(own_broker.pid(), signal.SIGINT)
    wait_until(lambda: own_broker.pid() is None)
    assert not Path(f"/proc/{pid}").exists()
    assert own_broker.leftovers() == []


def test_an_interrupted_broker_takes_along_what_did_not_end_cleanly(own_broker):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    (run,) = own_broker.directory.glob("*/ledger/..")
    left = [run / "a" / ("0" * 20), run / "k" / "000000000000-1"]
    for each in left:
        each.touch()
    os.kill(own_broker.pid(), signal.SIGINT)
    wait_until(lambda: own_broker.pid() is None)
    assert not any(each.exists() for each in left)
    assert own_broker.leftovers() == []
