"""What a sandbox uses, over REST."""

from __future__ import annotations

import asyncio

from jupyter_sandbox import usage_service


async def test_what_a_sandbox_uses_is_told_and_grows(rest):
    context = await rest.context()
    before = (await rest.get(context.sandbox_id, "usage")).body
    template = (await rest.get("templates", "python")).body["limits"]
    assert before["cpus"] == template["cpus"]
    assert before["memory_total_bytes"] == template["memory_mib"] << 20
    assert 0 <= before["disk_bytes"] < before["disk_total_bytes"] <= template["disk_mib"] << 20
    assert 0 <= before["memory_cache_bytes"] <= before["memory_bytes"] < before["memory_total_bytes"]
    code = "import os, time\nopen('/sandbox/x', 'wb').write(bytes(8 << 20)); os.sync()\nheld = b'x' * (32 << 20)\n"
    code += "began = time.process_time()\nwhile time.process_time() - began < 0.3: pass"
    await context.printed(code)
    after = (await rest.get(context.sandbox_id, "usage")).body
    assert after["cpu_s"] - before["cpu_s"] >= 0.3
    assert after["memory_bytes"] - before["memory_bytes"] >= 24 << 20
    assert after["disk_bytes"] - before["disk_bytes"] >= 8 << 20


async def test_a_busy_sandbox_is_told_from_one_that_waits(rest):
    busy, idle, gone = await rest.context(), await rest.context(), f"sbx_{'0' * 20}"
    endless = {"code": "while True: pass", "detached": True}
    assert (await rest.post(busy.sandbox_id, "contexts", busy.id, "executions", body=endless)).status == 202

    async with asyncio.timeout(20):
        while True:  # the code begins when its kernel is ready
            found = await usage_service.loads([busy.sandbox_id, gone, idle.sandbox_id])
            assert set(found) == {busy.sandbox_id, idle.sandbox_id}
            if found[busy.sandbox_id].cpu_percent > 2 * found[idle.sandbox_id].cpu_percent + 1:
                break


async def test_a_sandbox_that_is_ending_tells_nothing(rest):
    sandbox_id = (await rest.claimed())["id"]
    assert (await rest.delete(sandbox_id)).status == 204
    reply = await rest.get(sandbox_id, "usage")
    assert (reply.status, reply.code) == (404, "unknown_sandbox")
