"""Sandboxes over REST: claimed, found, kept for a time, released; those of notebooks among them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from datetime import datetime, timedelta

import pytest

from tests.conftest import eventually
from tests.server.brokers import sandboxes


async def kernels(jp_fetch):
    return {kernel["id"] for kernel in json.loads((await jp_fetch("api", "kernels")).body)}


async def test_a_claimed_sandbox_is_described_found_and_released(rest):
    reply = await rest.post(body={"metadata": {"run": "7"}, "timeout_s": 60})
    assert reply.status == 201
    claimed = reply.body
    assert reply.headers["Location"].endswith(f"/api/sandboxes/{claimed['id']}")
    assert re.fullmatch(r"sbx_[0-9a-f]{20}", claimed["id"])
    assert claimed["created_at"].endswith("Z")
    lives = datetime.fromisoformat(claimed["expires_at"]) - datetime.fromisoformat(claimed["created_at"])
    assert timedelta(seconds=55) < lives < timedelta(seconds=65)
    expected = {"template": "python", "state": "ready", "origin": "claim", "metadata": {"run": "7"}, "contexts": []}
    assert {name: claimed[name] for name in expected} == expected
    assert (await rest.get(claimed["id"])).body == claimed
    assert [each["id"] for each in (await rest.get()).body["sandboxes"]] == [claimed["id"]]
    assert (await rest.delete(claimed["id"])).status == 204
    assert await sandboxes() == []


async def test_release_twice_is_quiet_and_a_get_says_what_happened(rest):
    sandbox_id = (await rest.claimed())["id"]
    replies = await asyncio.gather(*(rest.delete(sandbox_id) for _ in range(3)))
    assert [reply.status for reply in [*replies, await rest.delete(sandbox_id)]] == [204] * 4
    gone = await rest.get(sandbox_id)
    assert (gone.status, gone.code) == (404, "unknown_sandbox")
    assert "was released" in gone.body["message"]


async def test_an_id_that_never_was_is_unknown_to_every_operation(rest):
    nobody = f"sbx_{'0' * 20}"
    for reply in (
        await rest.get(nobody),
        await rest.delete(nobody),
        await rest.post(nobody, "renew", body={"timeout_s": 9}),
        await rest.get(nobody, "usage"),
        await rest.get(nobody, "contexts"),
        await rest.post(nobody, "contexts", body={}),
    ):
        assert (reply.status, reply.code) == (404, "unknown_sandbox")


async def test_a_sandbox_that_nobody_renews_ends_and_its_contexts_with_it(rest, jp_fetch):
    context = await rest.context((await rest.claimed(timeout_s=5))["id"])
    await eventually(lambda: context.id not in rest.kernel_manager, timeout_s=30)
    await eventually(lambda: not rest.services.sandboxes._claimed)
    gone = await rest.get(context.sandbox_id)
    assert gone.status == 404
    assert "its time was over" in gone.body["message"]
    assert await sandboxes() == []


async def test_a_renewal_counts_from_now(rest):
    sandbox_id = (await rest.claimed(timeout_s=5))["id"]
    renewed = await rest.post(sandbox_id, "renew", body={"timeout_s": 600})
    assert renewed.status == 200
    await rest.services.sandboxes.tick()
    assert rest.services.sandboxes._claimed[sandbox_id].term.ends_at - rest.services.sandboxes._clock() > 590


async def test_the_same_key_gives_the_same_sandbox_while_it_lives(rest):
    key = {"Idempotency-Key": "run-7"}
    first, second = [await rest.post(body={}, headers=key) for _ in range(2)]
    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    conflict = await rest.post(body={"metadata": {"other": "words"}}, headers=key)
    assert (conflict.status, conflict.code) == (409, "conflict")
    await rest.delete(first.body["id"])
    third = await rest.post(body={}, headers=key)
    assert third.body["id"] != first.body["id"]


async def test_a_claim_that_failed_may_be_tried_again_with_its_key(rest):
    key, body = {"Idempotency-Key": "run-8"}, {"template": "only-one"}
    other = await rest.claimed(template="only-one")
    full = await rest.post(body=body, headers=key)
    assert (full.status, full.code) == (503, "no_capacity")
    assert int(full.headers["Retry-After"]) > 0
    await rest.delete(other["id"])
    assert (await rest.post(body=body, headers=key)).status == 201


async def test_an_unknown_template_is_named_with_those_that_exist(rest):
    reply = await rest.post(body={"template": "no-such-thing"})
    assert (reply.status, reply.code) == (404, "unknown_template")
    assert "small-disk" in reply.body["message"]


async def test_lists_are_filtered_and_come_in_pages(rest):
    ids = {(await rest.claimed(metadata={"n": str(n), "kind": "odd" if n % 2 else "even"}))["id"] for n in range(5)}
    seen, params = [], {"limit": "2"}
    while True:
        page = (await rest.get(params=params)).body
        assert len(page["sandboxes"]) <= 2
        seen += [each["id"] for each in page["sandboxes"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert seen == sorted(ids)
    odd = (await rest.get(params={"metadata": "kind:odd"})).body["sandboxes"]
    assert {each["metadata"]["n"] for each in odd} == {"1", "3"}
    both = (await rest.get(params=[("metadata", "kind:odd"), ("metadata", "n:3")])).body["sandboxes"]
    assert len(both) == 1
    assert (await rest.get(params={"template": "small-disk"})).body["sandboxes"] == []
    assert (await rest.get(params={"state": "ending"})).body["sandboxes"] == []
    assert len((await rest.get(params={"state": "ready"})).body["sandboxes"]) == 5


async def test_a_notebooks_sandbox_is_reachable_and_ends_with_its_last_kernel(rest, start_kernel, jp_fetch):
    kernel_id = await start_kernel()
    (found,) = (await rest.get()).body["sandboxes"]
    assert (found["origin"], found["expires_at"], found["contexts"]) == ("kernel", None, [kernel_id])
    refused = await rest.post(found["id"], "renew", body={"timeout_s": 60})
    assert (refused.status, refused.code) == (409, "conflict")
    guest = await rest.context(found["id"])
    await guest.printed("open('/sandbox/shared.txt', 'w').write('from the guest')")
    await jp_fetch("api", "kernels", kernel_id, method="DELETE")
    (still,) = (await rest.get()).body["sandboxes"]
    assert (still["id"], still["contexts"]) == (found["id"], [guest.id])
    assert await guest.printed("print(open('/sandbox/shared.txt').read())") == "from the guest\n"
    assert (await rest.delete(*guest.parts)).status == 204
    assert (await rest.get()).body["sandboxes"] == []
    assert await sandboxes() == []


async def test_a_native_kernel_is_in_no_sandbox(rest, start_kernel):
    await start_kernel("python3")
    assert (await rest.get()).body["sandboxes"] == []


async def test_a_release_ends_a_notebooks_kernel_too(rest, start_kernel, jp_fetch):
    await start_kernel()
    (found,) = (await rest.get()).body["sandboxes"]
    assert (await rest.delete(found["id"])).status == 204
    assert await kernels(jp_fetch) == set()
    assert await sandboxes() == []


async def test_a_release_ends_all_contexts_in_the_kernel_manager(rest, jp_fetch):
    first = await rest.context()
    await rest.context(first.sandbox_id)
    assert len(await kernels(jp_fetch)) == 2
    assert (await rest.delete(first.sandbox_id)).status == 204
    assert await kernels(jp_fetch) == set()
    assert await sandboxes() == []


async def test_a_lost_worker_takes_its_claimed_sandbox_along_and_says_why(rest, tree):
    context = await rest.context()
    tree.kill_worker(context.sandbox_id)
    await eventually(lambda: context.id not in rest.kernel_manager and not rest.services.sandboxes._claimed)
    gone = await rest.get(context.sandbox_id)
    assert gone.status == 404
    assert "The sandbox was lost: it crashed" in gone.body["message"]


@pytest.mark.parametrize("path", ["healthz", "readyz"])
async def test_health_needs_no_token_and_tells_nothing(rest, jp_fetch, path):
    reply = await rest.get(path, headers={"Authorization": ""})
    assert reply.status == 200
    assert set(reply.body) == {"status"}


async def test_a_server_stops_with_everything_that_was_claimed(rest, jp_serverapp):
    await rest.context()
    async with asyncio.timeout(15):
        await jp_serverapp._cleanup()
    assert await sandboxes() == []


async def test_a_claimed_sandbox_outlives_its_broker(own_tree, rest):
    context = await rest.context()
    await context.printed("kept = 1")
    empty = await rest.claimed()
    leases = [each.lease for each in rest.services.sandboxes._claimed.values()]
    before = own_tree.pid()
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: own_tree.pid() not in {before, None} and all(lease.is_connected for lease in leases), 30)
    assert await context.printed("print(kept)") == "1\n"
    listed = (await rest.get()).body["sandboxes"]
    assert {each["id"] for each in listed} == {context.sandbox_id, empty["id"]}
    assert (await rest.delete(context.sandbox_id)).status == 204
    assert [each.sandbox for each in await sandboxes()] == [empty["id"]]
