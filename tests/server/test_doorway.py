"""Requests that come while a server adopts wait, and are served as if they had come later."""

from __future__ import annotations

import asyncio
import json

import pytest

WAITS_S = 0.3
"""Long enough for a request that is not held back."""


@pytest.fixture
def doorway(jp_serverapp):
    (extension,) = jp_serverapp.extension_manager.extension_apps["jupyter_sandbox"]
    yield extension._succession.doorway
    extension._succession.doorway.open()


async def waiting(request) -> asyncio.Task:
    """A request that is not served."""
    task = asyncio.ensure_future(request)
    done, _ = await asyncio.wait([task], timeout=WAITS_S)
    assert not done
    return task


async def test_an_open_doorway_is_not_noticed(jp_fetch):
    assert (await jp_fetch("api", "kernels")).code == 200


async def test_what_comes_meanwhile_is_served_afterwards(doorway, jp_fetch):
    doorway.close()
    reading = await waiting(jp_fetch("api", "kernels"))
    writing = await waiting(jp_fetch("api", "contents", method="POST", body=json.dumps({"type": "notebook"})))
    doorway.open()
    doorway.open()
    assert (await reading).code == 200
    assert (await writing).code == 201
    assert (await jp_fetch("api", "kernels")).code == 200


async def test_a_streamed_body_waits_as_well(doorway, jp_fetch):
    doorway.close()
    asking = await waiting(
        jp_fetch(
            "api", "sandboxes", "sbx_" + "0" * 20, "files", "x", method="PUT", body="x" * 1_000_000, raise_error=False
        )
    )
    doorway.open()
    response = await asking
    assert (response.code, json.loads(response.body)["code"]) == (404, "unknown_sandbox")


async def test_a_websocket_waits_as_well(doorway, jp_ws_fetch, start_kernel, open_notebook):
    kernel_id = await start_kernel()
    doorway.close()
    opening = await waiting(open_notebook(kernel_id))
    doorway.open()
    assert await (await opening).run("print(1)") == "1\n"


async def test_who_hangs_up_meanwhile_is_forgotten(doorway, jp_serverapp, jp_fetch, jp_http_port):
    doorway.close()
    _reader, writer = await asyncio.open_connection("127.0.0.1", jp_http_port)
    writer.write(b"GET /api HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    doorway.open()
    assert (await jp_fetch("api", "kernels")).code == 200
