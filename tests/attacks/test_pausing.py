"""Pauses: nobody's but the owner's to make or end, nothing of a worker runs meanwhile, and it counts as it did."""

from __future__ import annotations

import pytest

from tests.attacks.attacker import Refusal
from tests.attacks.conftest import only_privileged, only_unprivileged
from tests.attacks.rest_world import as_person

pytestmark = pytest.mark.timeout(120)

PAUSE = "call(verbs.Pause(sandbox=sandbox), verbs.Done)"
RESUME = "call(verbs.Resume(sandbox=sandbox), verbs.Done)"

RESTLESS = """
import multiprocessing, os, signal, time
for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGTSTP):
    signal.signal(number, lambda *_: None)
def work(name):
    os.setsid()
    while True:
        with open(name, "a") as file:
            file.write("x")
        os.kill(os.getppid(), signal.SIGCONT)
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
for number in range(2):
    multiprocessing.get_context("fork").Process(target=work, args=(f"/sandbox/{number}",), daemon=True).start()
while not all(os.path.exists(name) and os.path.getsize(name) for name in ("/sandbox/0", "/sandbox/1")):
    time.sleep(0.01)
"""


def sizes(box):
    return [box.file("stat", f"/sandbox/{number}")["size_bytes"] for number in range(2)]


# -- a worker that does not want to be paused


@only_privileged
def test_processes_that_fork_hide_and_wake_each_other_are_all_stopped(host, claim):
    box = claim()
    assert box.execute(RESTLESS)["status"] == "ok"
    host.run(PAUSE, sandbox=box.id)
    before = sizes(box)
    assert min(before) > 0
    assert box.execute("1", timeout=1)["status"] == "timeout"
    assert sizes(box) == before
    host.run(RESUME, sandbox=box.id)
    assert box.execute("print('still here')")["out"] == "still here\n"


@only_privileged
def test_orders_without_end_to_a_paused_worker_hurt_nobody_else(host, claim):
    box, other = claim(), claim()
    host.run(PAUSE, sandbox=box.id)
    order = "repr(call(verbs.SignalKernel(sandbox=box.id, target=box.seat, number=number), verbs.Done))"
    with pytest.raises(Refusal, match="is paused"):
        box.do(order, number=2)
    for _ in range(300):
        box.do(order, number=9)
    assert other.execute("print(1)")["out"] == "1\n"
    host.run(RESUME, sandbox=box.id)
    assert box.end()["reason"] == "requested"


@only_unprivileged
def test_where_nothing_can_be_frozen_a_pause_is_refused_and_the_sandbox_goes_on(host, claim):
    box = claim()
    with pytest.raises(Refusal, match="cannot be paused here") as refused:
        host.run(PAUSE, sandbox=box.id)
    assert refused.value.code == "not_supported"
    assert box.execute("print('goes on')")["out"] == "goes on\n"


# -- others


async def test_a_stranger_pauses_and_resumes_nothing(world, program, people):
    alice = people["alice"]
    context = await alice.context()
    box = context.sandbox_id
    for stranger in (people["bob"], program("bob"), program("bob", "sandboxes")):
        for change in ("pause", "resume"):
            reply = await stranger.post(box, change)
            assert (reply.status, reply.code) == (404, "unknown_sandbox")
    assert await context.printed("print(1)") == "1\n"
    assert (await alice.post(box, "pause")).status == 200
    for stranger in (people["bob"], program("bob")):
        assert (await stranger.post(box, "resume")).status == 404
    for reader in (program("alice", "sandboxes:read"), program("alice", "kernels"), program("alice", "files")):
        for change in ("pause", "resume"):
            assert (await reader.post(box, change)).code == "wrong_scope"
    assert (await alice.get(box)).body["state"] == "paused"


async def test_a_token_of_a_sandbox_does_not_pause_or_resume_it(world, program):
    alice = program("alice")
    box = (await alice.claimed())["id"]
    holder = as_person(world, (await alice.post(box, "tokens", body={})).body["token"])
    assert (await holder.get(box)).status == 200
    for change in ("pause", "resume"):
        reply = await holder.post(box, change)
        assert (reply.status, reply.code) == (403, "wrong_scope")


async def test_what_is_paused_counts_in_the_quotas_of_its_owner(program):
    rest = program("three")
    boxes = [(await rest.claimed())["id"] for _ in range(3)]
    for box in boxes:
        assert (await rest.post(box, "pause")).status == 200
    assert (await rest.post(body={})).code == "quota_exceeded"
    await rest.delete(boxes[0])
    assert (await rest.post(body={})).status == 201
