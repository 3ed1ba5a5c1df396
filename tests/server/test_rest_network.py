"""The network of one sandbox is restricted over REST: told everywhere, kept, and never more than its template opens."""

from __future__ import annotations

import json

from jupyter_sandbox import events
from jupyter_sandbox.host import places
from tests.server.brokers import sandboxes

CLOSED = {"deny": ["0.0.0.0/0", "::/0"], "allow": []}
OPEN = {"deny": [], "allow": []}


def recorded(sandbox: str) -> list[list[str]]:
    """What its broker has in its ledger."""
    record = json.loads((places.find().ledger / f"{sandbox}.json").read_text())
    return [record["denied"], record["excepted"]]


async def test_what_a_claim_denies_is_told_and_recorded(rest):
    claimed = await rest.claimed(network={"deny": ["10.0.0.0/9", "10.128.0.0/9", "192.0.2.7", "2001:db8::/32"]})
    assert claimed["network"] == {"deny": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"], "allow": []}
    assert (await rest.get(claimed["id"])).body == claimed
    assert recorded(claimed["id"]) == [["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"], []]
    assert (await rest.claimed())["network"] == (await rest.claimed(network={}))["network"] == OPEN


async def test_a_change_takes_the_place_of_what_was_said_and_is_told(rest):
    told = []
    rest.services.sandboxes._emit = told.append
    box = (await rest.claimed(network={"deny": ["10.0.0.0/8"]}))["id"]
    for wanted, shown in ((CLOSED, CLOSED), ({"deny": ["::/0"]}, {"deny": ["::/0"], "allow": []}), ({}, OPEN)):
        changed = await rest("PUT", box, "network", body=wanted)
        assert (changed.status, changed.body["network"]) == (200, shown)
        assert (await rest.get(box)).body["network"] == shown
        assert recorded(box) == [shown["deny"], shown["allow"]]
    assert [type(event) for event in told] == [events.SandboxClaimed, *[events.SandboxRestricted] * 4]
    assert [event.denied for event in told[1:]] == ["10.0.0.0/8", "0.0.0.0/0 ::/0", "::/0", ""]


async def test_nothing_is_excepted_that_the_template_never_opened(rest):
    network = {"deny": ["0.0.0.0/0"], "allow": ["203.0.113.7"]}
    refused = await rest.post(body={"network": network})
    assert (refused.status, refused.code) == (409, "conflict")
    assert "template python opens nothing of 203.0.113.7" in refused.body["message"]
    assert (await rest.get()).body["sandboxes"] == []
    box = await rest.claimed(network=CLOSED)
    refused = await rest("PUT", box["id"], "network", body=network)
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await rest.get(box["id"])).body == box


async def test_the_same_key_with_another_network_is_a_conflict(rest):
    key = {"Idempotency-Key": "closed"}
    first = await rest.post(body={"network": CLOSED}, headers=key)
    assert (await rest.post(body={"network": {"deny": ["::/0", "0.0.0.0/0"]}}, headers=key)).body == first.body
    assert (await rest.post(body={}, headers=key)).code == "conflict"
    await rest("PUT", first.body["id"], "network", body={})
    again = await rest.post(body={"network": CLOSED}, headers=key)
    assert (again.body["id"], again.body["network"]) == (first.body["id"], OPEN), "it was changed since"


async def test_a_paused_sandbox_is_restricted(rest):
    box = (await rest.claimed())["id"]
    await rest.post(box, "pause")
    changed = await rest("PUT", box, "network", body=CLOSED)
    assert (changed.status, changed.body["network"], changed.body["state"]) == (200, CLOSED, "paused")


async def test_the_sandbox_that_takes_a_lost_ones_place_is_restricted_like_it(rest, new_notebook, tree):
    notebook = await new_notebook()
    (lost,) = [row.sandbox for row in await sandboxes()]
    assert (await rest("PUT", lost, "network", body=CLOSED)).status == 200
    tree.kill_worker(lost)
    await notebook.receive_until(
        lambda message: message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
    )
    await notebook.answers()
    (new,) = [row.sandbox for row in await sandboxes()]
    assert new != lost
    assert (await rest.get(new)).body["network"] == CLOSED
    assert recorded(new) == [CLOSED["deny"], []]
