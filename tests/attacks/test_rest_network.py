"""Requests about the network of a sandbox: what is none is refused, and nobody's but the owner's are obeyed."""

from __future__ import annotations

import json

import pytest

from tests.attacks.e2b_calls import UNARY, ask
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


# -- E2B


async def told(world, box, key="alice"):
    response = await ask(world, "GET", f"e2b/sandboxes/{box['sandboxID']}", {"X-API-Key": key})
    table = json.loads(response.body)
    return table["allowInternetAccess"], table.get("network")


async def put(world, box, body, key="alice", **headers):
    path = f"e2b/sandboxes/{box['sandboxID']}/network"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await ask(world, "PUT", path, {"X-API-Key": key} | UNARY | headers, data)


CLOSED_THERE = (False, {"allowOut": [], "denyOut": ["0.0.0.0/0", "::/0"]})


async def test_who_asks_e2b_for_a_closed_network_gets_one_and_is_told_so(world, make):
    for body in ({"allow_internet_access": False}, {"network": {"denyOut": ["0.0.0.0/0"]}}):
        assert await told(world, await make("alice", **body)) == CLOSED_THERE
    box = await make("alice", allow_internet_access=True)
    assert await told(world, box) == (None, None)
    assert (await put(world, box, {"allow_internet_access": False})).code == 204
    assert await told(world, box) == CLOSED_THERE
    assert (await put(world, box, {"denyOut": ["10.0.0.0/8"]})).code == 204
    assert await told(world, box) == (None, {"allowOut": [], "denyOut": ["10.0.0.0/8"]})
    assert (await put(world, box, {})).code == 204
    assert await told(world, box) == (None, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 400),
        (b"", 204),
        (b"{", 400),
        ({"denyOut": "10.0.0.1"}, 400),
        ({"denyOut": ["10.0.0.1/8"]}, 400),
        ({"denyOut": ["::ffff:10.0.0.1"]}, 400),
        ({"denyOut": ["10.0.0.1"] * 10_000}, 400),
        ({"denyOut": [["10.0.0.1"]]}, 400),
        ({"allow_internet_access": "no"}, 400),
        ({"denyOut": ["10.0.0.1; drop"]}, 501),
        ({"denyOut": ["2001:db8::1%x; drop"]}, 501),
        ({"allowOut": ["example.com"]}, 501),
        ({"rules": {"example.com": [{"transform": {"headers": {"a": "b"}}}]}}, 501),
        ({"egressProxy": {"address": "10.0.0.1:1080"}}, 501),
        ({"allowOut": ["203.0.113.7"]}, 409),
    ],
    ids=str,
)
async def test_e2b_is_told_what_cannot_be_obeyed_and_nothing_changes(world, make, body, status):
    box = await make("alice", allow_internet_access=False)
    response = await put(world, box, body)
    assert response.code == status, response.body
    assert await told(world, box) == (CLOSED_THERE if status != 204 else (None, None))
    if status >= 500:
        assert response.headers["Should-Retry"] == "false"
    if isinstance(body, dict) and status != 400:
        create = {"templateID": "base", "network": body}
        made = await ask(world, "POST", "e2b/v2/sandboxes", {"X-API-Key": "alice"} | UNARY, json.dumps(create))
        assert made.code == status, made.body


async def test_nobody_but_the_owner_changes_a_network_by_e2b(world, make):
    box = await make("alice", allow_internet_access=False)
    assert (await put(world, box, {}, key="bob")).code == 404
    assert (await put(world, box, {}, key=box["envdAccessToken"])).code == 401
    token = {"X-Access-Token": box["envdAccessToken"], "E2b-Sandbox-Id": box["sandboxID"]}
    assert (await put(world, box, {}, key="", **token)).code == 401
    assert (await put(world, {"sandboxID": "0" * 20}, {})).code == 404
    assert (await put(world, {"sandboxID": "..%2f..%2fx"}, {})).code == 404
    assert await told(world, box) == CLOSED_THERE
