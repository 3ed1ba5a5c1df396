"""What a person waits for between asking for a kernel and its first result, and what must not be lost on that way."""

from __future__ import annotations

import asyncio
import json

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.host import channel, places

PAUSE_S = 0.01
"""What jupyter_client sleeps after each start and each shutdown."""


@pytest.fixture
def pauses(monkeypatch):
    """How often somebody slept so long."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def watched(delay, *arguments):
        if delay == PAUSE_S:
            slept.append(delay)
        return await sleep(delay, *arguments)

    monkeypatch.setattr("asyncio.sleep", watched)
    return slept


@pytest.fixture
def kernel_events(jp_serverapp):
    """What the server told about actions on kernels."""
    events: list[tuple[str, str]] = []

    async def hear(logger, schema_id, data):
        events.append((data["action"], data["status"]))

    schema = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
    jp_serverapp.event_logger.add_listener(schema_id=schema, listener=hear)
    return events


async def test_a_start_and_an_end_do_not_pause_and_are_told(jp_fetch, start_kernel, pauses, kernel_events):
    kernel_id = await start_kernel()
    assert pauses == []
    await jp_fetch("api", "kernels", kernel_id, method="DELETE")
    assert pauses == []
    assert json.loads((await jp_fetch("api", "kernels")).body) == []
    assert kernel_events == [("start", "success"), ("shutdown", "success")]


async def test_a_native_kernel_starts_and_ends_as_ever(jp_serverapp, jp_fetch, start_kernel, pauses):
    kernel_id = await start_kernel("python3")
    await jp_fetch("api", "kernels", kernel_id, method="DELETE")
    assert len(pauses) == 2, "jupyter_client has lost its pause: remove kernel_starts"


async def test_a_refused_start_is_told_as_an_error(jp_serverapp, jp_fetch, add_kernelspec, kernel_events):
    name = add_kernelspec("bad", template="no-such-thing")
    response = await jp_fetch("api", "kernels", method="POST", body=json.dumps({"name": name}), raise_error=False)
    assert response.code == 404
    assert kernel_events == [("start", "error")]


async def test_the_end_of_a_kernel_that_is_told_before_its_start_is_not_lost(tmp_path, monkeypatch):
    """The kernel of a claim may have ended when the claim is answered; the event comes first then."""
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(tmp_path / "broker"))
    seat, sandbox = "0" * 12, "sbx_" + "1" * 20
    end = verbs.ProcessExited(sandbox=sandbox, target=seat, status=1, reason="exit", message="It ended.")
    started = verbs.KernelStarted(prefix="/p", is_forked=True)
    with channel.listen(tmp_path / "broker", kind=channel.socket.SOCK_SEQPACKET, mode=0o600) as listener:

        async def serve():
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            broker = channel.Channel(accepted, verbs.REQUESTS)
            request, _ = await broker.receive()
            assert request.kernel.seat == seat
            await broker.send(end)
            await broker.send(verbs.Claimed(sandbox=sandbox, cwd="/sandbox", created_at="", kernel=started))
            return broker

        serving = asyncio.create_task(serve())
        kernel = verbs.Kernel(seat=seat, argv=None, env={}, cwd=None, key="k")
        lease = await client.Lease.claim("python", "none", "", None, kernel=kernel)
        (await serving).close()
    assert (lease.first, lease.exits, lease.tenants) == (started, {seat: end}, {seat})
    lease.close()
