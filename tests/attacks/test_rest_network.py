"""Requests about the network of a sandbox: what is none is refused, and nobody's but the owner's are obeyed."""

from __future__ import annotations

import json

import pytest

from tests.attacks.rest_world import as_person, watched

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

CLOSED = {"deny": ["0.0.0.0/0", "::/0"], "allow": []}
NETWORKS = {
    "a text": "10.0.0.0/8",
    "a list": ["10.0.0.0/8"],
    "a number": 1,
    "an unknown field": {"egress": []},
    "a text for a list": {"deny": "10.0.0.0/8"},
    "an object for a list": {"deny": {"10.0.0.0/8": 1}},
    "null for a list": {"deny": None},
    "numbers": {"deny": [1]},
    "lists in a list": {"deny": [["10.0.0.0/8"]]},
    "65 targets": {"deny": ["10.0.0.1"] * 65},
    "10 000 targets": {"deny": [f"10.0.{number >> 8}.{number & 255}" for number in range(10_000)]},
    "65 exceptions": {"deny": ["0.0.0.0/0"], "allow": ["10.0.0.1"] * 65},
    "host bits": {"deny": ["10.0.0.1/8"]},
    "a mapped address": {"deny": ["::ffff:10.0.0.1"]},
    "a zone": {"deny": ["2001:db8::1%x"]},
    "rules in a zone": {"deny": ["2001:db8::1%x accept; flush ruleset"]},
    "an end of a set": {"deny": ["10.0.0.1 } accept"]},
    "a line of its own": {"deny": ["10.0.0.1\nflush ruleset"]},
    "a command": {"deny": ["$(reboot)"]},
    "a name": {"deny": ["example.org"]},
    "an empty text": {"deny": [""]},
    "half a character": {"deny": ["\ud800"]},
    "NUL": {"deny": ["10.0.0.1\0"]},
    "other digits": {"deny": ["\u0661\u0660.0.0.1"]},
    "octal": {"deny": ["010.0.0.1"]},
    "a very long text": {"deny": ["1" * 100_000]},
    "an exception without a rule": {"allow": ["10.0.0.1"]},
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
async def test_what_is_no_network_is_refused_and_changes_nothing(world, rest, network):
    box = await rest.claimed(network=CLOSED)
    async with watched(world):
        for reply in (
            await rest("PUT", box["id"], "network", raw=json.dumps(network)),
            await rest.post(raw=json.dumps({"network": network})),
        ):
            assert (reply.status, reply.code) == (400, "invalid_request")
    assert [each["id"] for each in (await rest.get()).body["sandboxes"]] == [box["id"]]
    assert (await rest.get(box["id"])).body == box


async def test_nobody_but_the_owner_restricts_or_opens_a_sandbox(people):
    box = await people["alice"].claimed(network=CLOSED)
    for network in ({}, {"deny": ["10.0.0.0/8"]}):
        assert (await people["bob"]("PUT", box["id"], "network", body=network)).code == "unknown_sandbox"
        assert (await people[""]("PUT", box["id"], "network", body=network)).status in (401, 403)
    assert (await people["alice"].get(box["id"])).body == box


async def test_a_token_of_the_sandbox_itself_does_not_open_it(people, world):
    """It is handed on to whoever works there, who is who shall be held to it."""
    box = await people["alice"].claimed(network=CLOSED)
    token = (await people["alice"].post(box["id"], "tokens", body={"scopes": ["kernels", "files"]})).body["token"]
    inside = as_person(world, token)
    assert (await inside.get(box["id"])).body == box
    reply = await inside("PUT", box["id"], "network", body={})
    assert (reply.status, reply.code) == (403, "wrong_scope")
    assert (await people["alice"].get(box["id"])).body == box


async def test_a_scope_that_only_reads_changes_nothing(program, people):
    box = await people["alice"].claimed(network=CLOSED)
    reply = await program("alice", "sandboxes:read", "kernels", "files")("PUT", box["id"], "network", body={})
    assert (reply.status, reply.code) == (403, "wrong_scope")
    assert (await program("alice", "sandboxes")("PUT", box["id"], "network", body={})).status == 200
