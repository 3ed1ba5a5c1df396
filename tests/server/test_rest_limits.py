"""A sandbox is claimed with less than its template's limits over REST: told, kept, part of the idempotency key's claim."""

from __future__ import annotations

import math

import pytest

LESS = {"memory_mib": 256, "cpus": 0.5, "processes": 64, "open_files": 512}


async def test_lower_limits_are_told_and_hold(rest):
    context = await rest.context((await rest.claimed(limits=LESS))["id"])
    assert (await rest.get(context.sandbox_id)).body["limits"] == LESS
    usage = (await rest.get(context.sandbox_id, "usage")).body
    assert (usage["memory_total_bytes"], usage["cpus"]) == (256 << 20, 0.5)
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])"
    assert (await context.printed(code)).strip() == "512"


async def test_what_is_not_named_stays_the_templates(rest):
    claimed = await rest.claimed(limits={"memory_mib": 256})
    assert claimed["limits"] == {"memory_mib": 256}
    template = (await rest.get("templates", "python")).body["limits"]
    assert (await rest.get(claimed["id"], "usage")).body["cpus"] == template["cpus"]
    assert (await rest.claimed())["limits"] == (await rest.claimed(limits={}))["limits"] == {}


@pytest.mark.parametrize(
    "limits",
    [
        {"memory_mib": 63},
        {"memory_mib": 128.5},
        {"memory_mib": "128"},
        {"memory_mib": True},
        {"memory_mib": None},
        {"cpus": 0},
        {"cpus": -1},
        {"cpus": math.nan},
        {"processes": 1 << 40},
        {"disk_mib": 64},
        {"memory": 128},
        [],
        None,
    ],
)
async def test_what_is_no_limit_is_refused(rest, limits):
    refused = await rest.post(body={"limits": limits})
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert (await rest.get()).body["sandboxes"] == []


@pytest.mark.parametrize("name", LESS)
async def test_nobody_gets_more_than_the_template_allows(rest, name):
    most = (await rest.get("templates", "python")).body["limits"][name]
    refused = await rest.post(body={"limits": {name: most + 1}})
    assert (refused.status, refused.code) == (409, "conflict")
    assert f"{name} is {most + 1}, and template python allows at most {most}" in refused.body["message"]
    assert (await rest.get()).body["sandboxes"] == []


async def test_the_same_key_with_other_limits_is_a_conflict(rest):
    key = {"Idempotency-Key": "small"}
    first = await rest.post(body={"limits": LESS}, headers=key)
    assert (await rest.post(body={"limits": LESS}, headers=key)).body == first.body
    assert (await rest.post(body={"limits": {"cpus": 1}}, headers=key)).code == "conflict"
