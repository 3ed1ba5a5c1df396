"""More is asked for over REST than there is."""

from __future__ import annotations

import asyncio
import collections
import json
import resource
import time

import pytest

from tests.server import raw_http
from tests.server.brokers import sandboxes

pytestmark = pytest.mark.timeout(180)

CLAIMS = 500
PLACES = 20


@pytest.fixture
def many_files():
    """Descriptors enough for both ends of all connections, which are in this process, as a real server has them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
async def test_of_five_hundred_creates_twenty_are_served_and_the_others_told_when_to_come_again(
    jp_serverapp, http_server, jp_http_port, jp_base_url, many_files
):
    url, token = f"http://127.0.0.1:{jp_http_port}", jp_serverapp.identity_provider.token
    path, body = f"{jp_base_url}api/sandboxes", json.dumps({"template": "twenty-places"}).encode()
    few, waits = asyncio.Semaphore(64), []  # a server's queue of new connections takes 128

    async def begun():
        async with few:
            return await raw_http.opened(url, "POST", path, {"Content-Length": str(len(body))}, token)

    async def answered(reader, writer) -> raw_http.Raw:
        began = time.monotonic()
        writer.write(body)
        answer = await raw_http.received(reader, writer)
        waits.append((time.monotonic() - began, answer.status))
        return answer

    connections = await asyncio.gather(*(begun() for _ in range(CLAIMS)))
    answers = await asyncio.gather(*(answered(*connection) for connection in connections))
    refusals = sorted(wait for wait, status in waits if status != 201)
    print(
        f"of {len(refusals)} refusals half came within {refusals[len(refusals) // 2]:.2f} s, all in {refusals[-1]:.2f} s"
    )
    made = [answer.model["id"] for answer in answers if answer.status == 201]
    refused = [answer for answer in answers if answer.status != 201]
    assert collections.Counter((answer.status, answer.code) for answer in refused) == {
        (503, "no_capacity"): CLAIMS - PLACES
    }
    assert {answer.headers["retry-after"] for answer in refused} == {"5"}
    assert len(set(made)) == PLACES == len(made), "each of them once"
    live = [each.sandbox for each in await sandboxes() if each.template == "twenty-places"]
    assert sorted(made) == sorted(live)
    for sandbox in made:
        assert (await raw_http.send(url, "DELETE", f"{path}/{sandbox}", token=token)).status == 204
    assert (await raw_http.send(url, "POST", path, body, token)).status == 201
