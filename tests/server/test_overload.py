"""More is asked for over REST than there is."""

from __future__ import annotations

import asyncio
import collections
import json
import time

import pytest

from jupyter_sandbox.broker import client, verbs
from tests.server import crowd, raw_http
from tests.server.brokers import sandboxes

pytestmark = pytest.mark.timeout(180)

CLAIMS = 500
PLACES = 20
WARM = 2
REFUSED_S = 10
"""On a machine with other work, with client and server in one process; `python -m tests.chaos.creates` wants 1 s."""
REFILLED_S = 30


@pytest.fixture
def many_files():
    with crowd.many_files():
        yield


async def warm() -> int:
    """How many workers of that template wait."""
    now = await client.call(verbs.Status(), verbs.StatusReport, start=False)
    return sum(row.warm for row in now.workers if row.name == "twenty-places")


@pytest.mark.slow
async def test_of_five_hundred_creates_twenty_are_served_and_the_others_told_when_to_come_again(
    jp_serverapp, http_server, jp_http_port, jp_base_url, many_files
):
    url, token = f"http://127.0.0.1:{jp_http_port}", jp_serverapp.identity_provider.token
    path, body = f"{jp_base_url}api/sandboxes", json.dumps({"template": "twenty-places"}).encode()
    answers = await crowd.posted(url, path, body, token, CLAIMS)
    made = [each.answer.model["id"] for each in answers if each.answer.status == 201]
    refused = [each for each in answers if each.answer.status != 201]
    refusals = sorted(each.wait_s for each in refused)
    print(
        f"of {len(refusals)} refusals half came within {refusals[len(refusals) // 2]:.2f} s, all in {refusals[-1]:.2f} s"
    )
    assert refusals[-1] < REFUSED_S
    assert collections.Counter((each.answer.status, each.answer.code) for each in refused) == {
        (503, "no_capacity"): CLAIMS - PLACES
    }
    assert {each.answer.headers["retry-after"] for each in refused} == {"5"}
    assert len(set(made)) == PLACES == len(made), "each of them once"
    live = [each.sandbox for each in await sandboxes() if each.template == "twenty-places"]
    assert sorted(made) == sorted(live)
    for sandbox in made:
        assert (await raw_http.send(url, "DELETE", f"{path}/{sandbox}", token=token)).status == 204
    released = time.monotonic()
    while await warm() < WARM:
        assert time.monotonic() - released < REFILLED_S
        await asyncio.sleep(0.02)
    assert (await raw_http.send(url, "POST", path, body, token)).status == 201
