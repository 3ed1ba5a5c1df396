"""A sandbox is paused over REST: it is kept as it is, says so everywhere, and refuses what it cannot do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest
from tornado.httpclient import HTTPClientError

from jupyter_sandbox import events
from tests.conftest import eventually
from tests.server.brokers import sandboxes
from tests.server.notebook import FORMATS

AT_ONCE_S = 8
"""Far below every time limit of what would otherwise wait for a frozen process, on a machine that is busy."""


async def state(jp_fetch, kernel_id):
    return json.loads((await jp_fetch("api", "kernels", kernel_id)).body)["execution_state"]


async def test_everything_is_as_it_was_after_a_pause(rest):
    context = await rest.context()
    box = context.sandbox_id
    await context.printed("kept = 41; open('/sandbox/file', 'w').write('text')")
    paused = await rest.post(box, "pause")
    assert (paused.status, paused.body["state"]) == (200, "paused")
    assert (await rest.get(box)).body == paused.body
    assert [each["id"] for each in (await rest.get(params={"state": "paused"})).body["sandboxes"]] == [box]
    assert (await rest.get(params={"state": "ready"})).body["sandboxes"] == []
    assert (await rest.post(box, "pause")).body == paused.body
    resumed = await rest.post(box, "resume")
    assert (resumed.status, resumed.body["state"]) == (200, "ready")
    assert (await rest.post(box, "resume")).body == resumed.body
    assert await context.printed("print(kept + 1, open('/sandbox/file').read())") == "42 text\n"


async def test_a_pause_and_its_end_are_told_once(rest):
    told = []
    rest.services.sandboxes._emit = told.append
    box = (await rest.claimed())["id"]
    for change in ("resume", "pause", "pause", "resume", "resume"):
        await rest.post(box, change)
    assert [type(event) for event in told] == [events.SandboxClaimed, events.SandboxPaused, events.SandboxResumed]
    assert all(event.sandbox_id == box for event in told)
    assert all(0 < event.took_s < 30 for event in told[1:])


async def test_pauses_and_resumes_at_once_end_in_one_state(rest):
    context = await rest.context()
    changes = ["pause", "resume"] * 5
    replies = await asyncio.gather(*(rest.post(context.sandbox_id, change) for change in changes))
    assert {reply.status for reply in replies} == {200}
    shown = (await rest.get(context.sandbox_id)).body["state"]
    (row,) = await sandboxes()
    assert shown == ("paused" if row.paused else "ready")
    await rest.post(context.sandbox_id, "resume")
    assert await context.printed("print(1)") == "1\n"


async def test_what_a_paused_sandbox_cannot_do_is_refused_at_once(rest):
    context = await rest.context()
    box = context.sandbox_id
    running = (await rest.post(box, "commands", body={"argv": ["cat"], "stdin": True, "detached": True})).body
    await rest.post(box, "pause")
    began = time.monotonic()
    for reply in [
        await rest.post(box, "contexts", body={}),
        await context.start("1"),
        await context.start("1", detached=True),
        await rest.post(*context.parts, "interrupt"),
        await rest.post(*context.parts, "restart"),
        await rest.delete(*context.parts),
        await rest.post(box, "commands", body={"argv": ["true"]}),
        await rest.post(box, "commands", running["id"], "signal", body={"signal": "SIGINT"}),
        await rest.post(box, "commands", running["id"], "signal", body={"signal": "SIGKILL"}),
    ]:
        assert (reply.status, reply.code) == (409, "sandbox_paused"), reply
        assert "resume" in reply.body["hint"]
    assert time.monotonic() - began < AT_ONCE_S
    await rest.post(box, "resume")
    assert await context.printed("print('alive')") == "alive\n"
    assert (await rest.post(box, "commands", running["id"], "signal", body={"signal": "SIGKILL"})).status == 204


async def test_files_and_the_rest_of_a_paused_sandbox_can_be_used(rest):
    context = await rest.context()
    box = context.sandbox_id
    await rest.post(box, "pause")
    assert (await rest("PUT", box, "files", "a.txt", raw=b"12345")).status == 201
    assert (await rest.get(box, "files", "a.txt")).body["size_bytes"] == 5
    assert (await rest.get(*context.parts)).body["state"] == "paused"
    assert (await rest.get(box, "commands")).body["commands"] == []
    assert (await rest.post(box, "renew", body={"timeout_s": 70})).body["state"] == "paused"
    await rest.post(box, "resume")
    assert await context.printed("print(open('/sandbox/a.txt').read())") == "12345\n"


async def test_what_a_paused_sandbox_uses_is_told_and_its_processor_time_stands_still(rest):
    context = await rest.context()
    await context.start("while True: pass", detached=True)
    await rest.post(context.sandbox_id, "pause")
    first = (await rest.get(context.sandbox_id, "usage")).body
    await asyncio.sleep(0.3)
    second = (await rest.get(context.sandbox_id, "usage")).body
    assert first["cpu_s"] == second["cpu_s"] > 0
    assert second["memory_bytes"] > 1 << 20
    assert second["disk_total_bytes"] > second["disk_bytes"] >= 0


async def test_code_that_runs_goes_on_after_a_pause(rest):
    context = await rest.context()
    waits = (
        "import os, time\nopen('begun', 'w')\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nprint('went on')"
    )
    running = asyncio.create_task(context.execute(waits))
    await eventually(lambda: rest.kernel_manager.get_kernel(context.id).execution_state == "busy")
    await rest.post(context.sandbox_id, "pause")
    assert (await rest("PUT", context.sandbox_id, "files", "go", raw=b"")).status == 201
    assert not (await asyncio.wait([running], timeout=0.5))[0]
    await rest.post(context.sandbox_id, "resume")
    ended = await running
    assert (ended["outcome"], ended["outputs"][0]["text"]) == ("ok", "went on\n")


async def test_code_has_its_time_limit_while_it_is_paused_and_is_interrupted_then(rest):
    context = await rest.context()
    running = asyncio.create_task(context.execute("import time\nwhile True: time.sleep(0.01)", timeout_s=2))
    await eventually(lambda: rest.kernel_manager.get_kernel(context.id).execution_state == "busy")
    await rest.post(context.sandbox_id, "pause")
    assert (await running)["outcome"] == "timeout"
    await rest.post(context.sandbox_id, "resume")
    assert await context.printed("print('free')", timeout_s=30) == "free\n"


async def test_the_time_of_a_paused_sandbox_goes_on_and_ends_it(rest):
    context = await rest.context((await rest.claimed(timeout_s=3))["id"])
    await rest.post(context.sandbox_id, "pause")
    await eventually(lambda: not rest.services.sandboxes._claimed, 20)
    assert "its time was over" in (await rest.get(context.sandbox_id)).body["message"]
    assert context.id not in rest.kernel_manager
    assert await sandboxes() == []


async def test_a_paused_sandbox_is_released_at_once_with_all_its_kernels(rest):
    context = await rest.context()
    await rest.context(context.sandbox_id)
    await context.start("while True: pass", detached=True)
    await rest.post(context.sandbox_id, "pause")
    began = time.monotonic()
    assert (await rest.delete(context.sandbox_id)).status == 204
    assert time.monotonic() - began < AT_ONCE_S
    assert await sandboxes() == []
    assert context.id not in rest.kernel_manager


async def test_a_paused_sandbox_that_has_gone_or_never_was_is_unknown(rest):
    box = (await rest.claimed())["id"]
    await rest.post(box, "pause")
    await rest.delete(box)
    for sandbox_id in (box, f"sbx_{'0' * 20}"):
        for change in ("pause", "resume"):
            reply = await rest.post(sandbox_id, change)
            assert (reply.status, reply.code) == (404, "unknown_sandbox")


async def test_a_body_is_not_taken(rest):
    box = (await rest.claimed())["id"]
    reply = await rest.post(box, "pause", body={"memory": False})
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await rest.get(box)).body["state"] == "ready"


# -- Jupyter's own API


async def test_jupyter_shows_that_a_kernel_is_paused(rest, jp_fetch, start_kernel):
    kernel_id = await start_kernel()
    (box,) = (await rest.get()).body["sandboxes"]
    await rest.post(box["id"], "pause")
    assert await state(jp_fetch, kernel_id) == "paused"
    (listed,) = json.loads((await jp_fetch("api", "kernels")).body)
    assert listed["execution_state"] == "paused"
    await rest.post(box["id"], "resume")
    assert await state(jp_fetch, kernel_id) != "paused"


@pytest.mark.parametrize("action", ["restart", "interrupt"])
async def test_jupyter_refuses_to_restart_or_interrupt_what_is_paused(rest, jp_fetch, start_kernel, action):
    kernel_id = await start_kernel()
    (box,) = (await rest.get()).body["sandboxes"]
    await rest.post(box["id"], "pause")
    with pytest.raises(HTTPClientError) as refused:
        await jp_fetch("api", "kernels", kernel_id, action, method="POST", body="")
    assert (refused.value.code, refused.value.response.reason) == (409, "Refused (sandbox_paused)")
    assert f"{box['id']} is paused" in json.loads(refused.value.response.body)["message"]
    assert await state(jp_fetch, kernel_id) == "paused"


async def test_jupyter_ends_a_paused_kernel_at_once(rest, jp_fetch, start_kernel):
    kernel_id = await start_kernel()
    (box,) = (await rest.get()).body["sandboxes"]
    await rest.post(box["id"], "pause")
    began = time.monotonic()
    await jp_fetch("api", "kernels", kernel_id, method="DELETE")
    assert time.monotonic() - began < AT_ONCE_S
    assert await sandboxes() == []


@pytest.mark.parametrize("protocol", FORMATS)
async def test_a_cell_that_is_run_while_its_kernel_is_paused_ends_at_once_and_says_why(rest, new_notebook, protocol):
    notebook = await new_notebook(protocol=protocol)
    await notebook.execute("kept = 1")
    (box,) = (await rest.get()).body["sandboxes"]
    await rest.post(box["id"], "pause")
    result = await notebook.execute("kept")
    assert result.status == "error"
    assert f"{box['id']} is paused" in result.text("stderr")
    await rest.post(box["id"], "resume")
    assert (await notebook.execute("kept")).value == "1"


async def test_a_websocket_to_a_paused_kernel_is_refused_at_once(rest, open_notebook):
    context = await rest.context()
    await rest.post(context.sandbox_id, "pause")
    with pytest.raises(HTTPClientError) as refused:
        await open_notebook(context.id)
    assert refused.value.code == 409
    await rest.post(context.sandbox_id, "resume")
    assert (await (await open_notebook(context.id)).execute("6 * 7")).value == "42"


# -- faults


async def test_a_paused_sandbox_outlives_its_broker_and_is_still_paused(own_tree, rest):
    context = await rest.context()
    await context.printed("kept = 1")
    await rest.post(context.sandbox_id, "pause")
    (lease,) = (each.lease for each in rest.services.sandboxes._claimed.values())
    before = own_tree.pid()
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: own_tree.pid() not in {before, None} and lease.is_connected, 60)
    assert (await rest.get(context.sandbox_id)).body["state"] == "paused"
    assert (await context.start("kept")).code == "sandbox_paused"
    await rest.post(context.sandbox_id, "resume")
    assert await context.printed("print(kept)") == "1\n"


async def test_a_server_stops_with_what_is_paused(rest, jp_serverapp):
    context = await rest.context()
    await rest.post(context.sandbox_id, "pause")
    async with asyncio.timeout(15):
        await jp_serverapp._cleanup()
    assert await sandboxes() == []
