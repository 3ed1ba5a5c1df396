"""Evil kernels and evil clients of executions over REST. With root's broker only, as in `test_kernel_messages`."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import pytest

from tests.attacks.rest_world import watched
from tests.attacks.test_kernel_messages import ABUSES, PRELUDE
from tests.tries import tries

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

STUBBORN = {
    "a loop that ignores interrupts": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "a loop that catches everything": "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "a kernel that stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "a lock that nobody opens": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a wait inside C": "import ctypes; ctypes.PyDLL(None).sleep(60)",
    "a loop of output that is cleared": "from IPython.display import clear_output\nwhile True: print('x' * 1000); clear_output()",
}


@pytest.mark.parametrize("code", STUBBORN.values(), ids=STUBBORN)
async def test_nothing_keeps_a_client_beyond_its_time(world, rest, code):
    for attempt in tries(1 + 1, at_most_s=20):
        context = await rest.context()
        await context.printed("1")
        async with watched(world):
            with attempt:
                execution = await context.execute(code, timeout_s=1)
        assert execution["outcome"] == "timeout"
        assert (await rest.delete(context.sandbox_id)).status == 204


@pytest.mark.timeout(900)
async def test_a_kernel_that_lies_gets_an_end_in_time_and_hurts_nobody(world, people):
    """All abuses of a kernel that lies, over REST: an end within the time, another owner's kernel works."""
    timeout_s, failures = 20, []
    victim = await people["bob"].context()
    sandbox = (await people["alice"].claimed(template="attacker"))["id"]
    liar = await people["alice"].context(sandbox)
    await liar.printed(PRELUDE)
    for name, abuse in ABUSES.items():
        try:
            async with watched(world, busy_s=float("inf")):  # what the loop is busy with is measured there
                began = time.monotonic()
                execution = await liar.execute(abuse.code, timeout_s=timeout_s)
                took = time.monotonic() - began
                assert took < timeout_s + 1
                assert execution["outcome"] in {"ok", "error", "timeout", "output_limit"}
                assert await victim.printed("print('still here')") == "still here\n"
                assert await after_what_still_comes(liar) == "42\n"
        except AssertionError as failure:
            failures.append(f"{name}: {str(failure)[:300]}")
    assert failures == []


async def after_what_still_comes(liar) -> str:
    """What a kernel prints; when its nonsense ended a connection only then, that is told, and it is asked once more."""
    execution = await liar.execute("print(6 * 7)", timeout_s=60)
    if execution["omitted"]["refused_messages"]:
        return await liar.printed("print(6 * 7)", timeout_s=60)
    assert execution["outcome"] == "ok", execution
    return "".join(output["text"] for output in execution["outputs"])


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 10_000, flush=True)",
        "from IPython.display import display\nwhile True: display('x' * 10_000)",
        "import sys\nwhile True:\n print('a', end='', flush=True); print('b', end='', file=sys.stderr, flush=True)",
    ],
    ids=["text", "displays", "both streams in turn"],
)
async def test_a_flood_of_output_ends_at_the_limit_and_is_counted(world, rest, code):
    context = await rest.context()
    await context.printed("1")
    async with watched(world):
        execution = await context.execute(code, timeout_s=30, max_output_bytes=10_000)
    assert execution["outcome"] == "output_limit", execution["outcome"]
    kept = sum(len(output.get("text", "")) for output in execution["outputs"] if output["output_type"] == "stream")
    assert kept <= 10_000
    assert execution["omitted"]["bytes"] > 0
    assert await context.printed("print(1)") == "1\n"


async def test_a_flood_of_which_no_message_is_small_enough_to_be_passed_on_ends_at_the_limit(rest):
    context = await rest.context()
    execution = await context.execute("while True: print('x' * 10_000_000, flush=True)", timeout_s=30)
    assert execution["outcome"] == "output_limit", execution["outcome"]
    assert execution["omitted"]["refused_bytes"] > 8 << 20
    assert await context.printed("print(1)") == "1\n"


async def test_what_is_omitted_is_counted_to_the_byte(rest):
    context = await rest.context()
    execution = await context.execute("print('ä' * 1000, end='')", max_output_bytes=501)
    assert execution["outcome"] == "output_limit"
    assert execution["outputs"][0]["text"] == "ä" * 250
    assert execution["omitted"] == {"outputs": 1, "bytes": 1500, "refused_messages": 0, "refused_bytes": 0}


async def hung_up(world, context, accept, code) -> None:
    """Begin an execution as a client that hangs up when the kernel is at it."""
    address = urlsplit(world)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"code": code}).encode()
    path = "/".join(("/api/sandboxes", *context.parts, "executions"))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\nAccept: {accept}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    async with asyncio.timeout(10):
        while not (known := (await context.rest.get(*context.parts, "executions")).body["executions"]) or (  # noqa: ASYNC110
            known[0]["state"] != "running"
        ):
            await asyncio.sleep(0.02)
        if accept == "application/x-ndjson":
            await reader.readuntil(b"go")
    writer.close()


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_client_that_hangs_up_frees_the_kernel(world, rest, accept):
    context = await rest.context()
    await context.printed("import time")
    await hung_up(
        world, context, accept, "print('go', flush=True)\n[time.sleep(0.1) for _ in range(500)]\nwhole = True"
    )
    began = time.monotonic()
    assert await context.printed("print('whole' in globals())") == "False\n"
    assert time.monotonic() - began < 5


async def test_a_client_that_reads_slowly_makes_the_kernel_wait_and_not_the_server_grow(world, rest):
    """400 MB of output that is cleared again and again, for a client that reads its events not at all."""
    context = await rest.context()
    await context.printed("from IPython.display import clear_output; import time")
    code = "for n in range(400): clear_output(); print('x' * 1_000_000)"
    address = urlsplit(world)
    async with watched(world):
        _, writer = await asyncio.open_connection(address.hostname, address.port, limit=4096)
        body = json.dumps({"code": code, "timeout_s": 4}).encode()
        path = "/".join(("/api/sandboxes", *context.parts, "executions"))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token alice\r\nAccept: text/event-stream\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        async with asyncio.timeout(10):
            while (await rest.get(*context.parts, "executions")).body["executions"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    writer.close()
