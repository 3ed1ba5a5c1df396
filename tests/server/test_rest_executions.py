"""Executions over REST, with real kernels."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import nbformat
import pytest

from jupyter_sandbox import executions
from jupyter_sandbox.executions import Bounds
from tests.conftest import eventually


async def test_code_runs_and_its_outputs_are_those_of_a_notebook(rest):
    context = await rest.context()
    reply = await context.start("print('a'); print('b')\n6 * 7")
    execution = reply.body
    assert reply.headers["Location"].endswith(f"/executions/{execution['id']}")
    assert (execution["outcome"], execution["state"], execution["execution_count"]) == ("ok", "ended", 1)
    assert execution["accepted_at"] <= execution["started_at"] <= execution["ended_at"]
    assert 0 < execution["duration_s"] < 30
    assert execution["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": "a\nb\n"},
        {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1},
    ]


RICH = """
from IPython.display import HTML, JSON, clear_output, display
print('gone'); clear_output()
handle = display(HTML('<b>one</b>'), display_id=True)
handle.update(HTML('<b>two</b>'))
display(JSON({'a': [1, None]}), metadata={'of': 'mine'})
print('to stderr', file=__import__('sys').stderr)
1 / 0
"""


async def test_rich_outputs_updates_and_errors_fit_into_a_notebook(rest):
    context = await rest.context()
    execution = await context.execute(RICH)
    assert execution["outcome"] == "error"
    assert execution["error"] == {"name": "ZeroDivisionError", "value": "division by zero"}
    kinds = [output["output_type"] for output in execution["outputs"]]
    assert kinds == ["display_data", "display_data", "stream", "error"]
    assert execution["outputs"][0]["data"]["text/html"] == "<b>two</b>"
    cell = nbformat.v4.new_code_cell(RICH, outputs=[nbformat.from_dict(each) for each in execution["outputs"]])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_outputs_come_as_a_stream_of_events(rest, jp_fetch, accept):
    context = await rest.context()
    response = await jp_fetch(
        *("api", "sandboxes", *context.parts, "executions"),
        method="POST",
        headers={"Accept": accept},
        body=json.dumps({"code": RICH}),
    )
    assert response.headers["Content-Type"] == accept
    text = response.body.decode()
    if accept == "text/event-stream":
        blocks = [block.split("\n") for block in text.strip().split("\n\n")]
        events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
        assert [name.removeprefix("event: ") for name, _ in blocks] == [event["type"] for event in events]
    else:
        events = [json.loads(line) for line in text.splitlines()]
    kinds = [event["type"] for event in events]
    first, cleared = kinds[: kinds.index("clear")], kinds[kinds.index("clear") + 1 :]
    assert (first[0], set(first[1:])) == ("started", {"output"}), "a text may come in pieces"
    assert cleared[:3] == ["output", "update", "output"]
    assert cleared[-1] == "ended"
    update = kinds.index("update")
    assert events[update]["output"]["display_id"] == events[update - 1]["output"]["display_id"]
    assert events[-1]["execution"]["outcome"] == "error"
    assert "outputs" not in events[-1]["execution"]


async def test_nothing_is_lost_of_what_waits_for_a_slow_reader(
    rest, http_server_port, jp_base_url, jp_auth_header, monkeypatch
):
    """7 MB that are read only when the kernel has been silent for long."""
    monkeypatch.setattr(executions, "_HALF_END_S", 0.5)
    context = await rest.context()
    await context.printed("from IPython.display import display")
    code = "for n in range(14): display({'text/plain': f'{n} ' + 'x' * 500_000}, raw=True)"
    body = json.dumps({"code": code, "timeout_s": 30}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", http_server_port[1]))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    path = f"{jp_base_url}api/sandboxes/{'/'.join(context.parts)}/executions"
    fields = {**jp_auth_header, "Accept": "application/x-ndjson", "Content-Length": str(len(body))}
    head = "\r\n".join(
        (f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *map(": ".join, fields.items()))
    )
    writer.write(f"{head}\r\n\r\n".encode() + body)
    await asyncio.sleep(3)
    said = (await reader.read()).decode()
    writer.close()
    assert [f'"{n} x' in said for n in range(14)] == [True] * 14
    assert '"outcome":"ok"' in said[-2000:]


async def test_executions_of_a_context_run_one_after_the_other(rest):
    context = await rest.context()
    await context.printed("import time; running = 0")
    code = "running += 1; time.sleep(0.05); print(running); running -= 1"
    replies = await asyncio.gather(*(context.printed(code) for _ in range(5)))
    assert replies == ["1\n"] * 5


async def test_a_full_queue_is_told_at_once(rest):
    rest.services.executions.bounds = Bounds(max_waiting=2)
    context = await rest.context()
    await context.printed("import time")
    begun = [asyncio.create_task(context.execute("time.sleep(60)")) for _ in range(3)]
    await eventually(lambda: len(rest.services.executions._known) == 3)
    full = await context.start("print(1)")
    assert (full.status, full.code) == (429, "busy")
    assert int(full.headers["Retry-After"]) >= 1
    for known in (await rest.get(*context.parts, "executions")).body["executions"]:
        assert (await rest.post(*context.parts, "executions", known["id"], "interrupt")).status == 204
    assert [each["outcome"] for each in await asyncio.gather(*begun)] == ["interrupted"] * 3
    assert await context.printed("print(2)") == "2\n"


async def test_a_detached_execution_is_fetched_later_even_without_its_context(rest):
    context = await rest.context()
    reply = await context.start("import time; print('now'); time.sleep(0.3); print('then')", detached=True)
    assert (reply.status, reply.body["outcome"]) == (202, None)
    path = (*context.parts, "executions", reply.body["id"])
    async with asyncio.timeout(15):
        while (found := await rest.get(*path)).body["state"] != "ended":  # noqa: ASYNC110 - a client has no event for it
            await asyncio.sleep(0.02)
    assert found.body["outputs"][0]["text"] == "now\nthen\n"
    listed = (await rest.get(*context.parts, "executions")).body["executions"]
    assert [each["id"] for each in listed] == [reply.body["id"]]
    await rest.delete(context.sandbox_id)
    assert (await rest.get(*path)).body == found.body


async def test_an_ordinary_execution_is_not_kept(rest):
    context = await rest.context()
    execution = await context.execute("1")
    gone = await rest.get(*context.parts, "executions", execution["id"])
    assert (gone.status, gone.code) == (404, "unknown_execution")


async def test_of_detached_executions_the_oldest_are_forgotten(rest):
    rest.services.executions.bounds = Bounds(max_kept=2)
    context = await rest.context()
    ids = [(await context.start(f"{n}", detached=True)).body["id"] for n in range(4)]
    await context.execute("1")
    listed = (await rest.get(*context.parts, "executions")).body["executions"]
    assert [each["id"] for each in listed] == ids[2:]


async def test_an_execution_is_interrupted_by_its_id(rest):
    context = await rest.context()
    reply = await context.start("import time\ntime.sleep(60)", detached=True)
    path = (*context.parts, "executions", reply.body["id"])
    await eventually(lambda: rest.services.executions._known[reply.body["id"]].fold.is_begun)
    assert (await rest.post(*path, "interrupt")).status == 204
    ended = await rest.services.executions._known[reply.body["id"]].ended()
    assert ended.outcome == "interrupted"
    assert (await rest.post(*path, "interrupt")).status == 204
    assert await context.printed("print(1)") == "1\n"


async def test_code_that_is_too_slow_ends_at_its_time(rest):
    context = await rest.context()
    await context.printed("import time")
    began = time.monotonic()
    execution = await context.execute("print('before')\ntime.sleep(60)", timeout_s=3)
    assert 3 <= time.monotonic() - began < 30
    assert execution["outcome"] == "timeout"
    assert execution["outputs"][0]["text"] == "before\n"
    assert await context.printed("print('after')") == "after\n"


async def test_time_that_is_over_in_the_queue_ends_an_execution_too(rest):
    context = await rest.context()
    await context.printed("import time")
    first = asyncio.create_task(context.execute("time.sleep(2)"))
    await eventually(lambda: rest.services.executions._known)
    second = await context.execute("done = True", timeout_s=0.3)
    assert (second["outcome"], second["started_at"], second["duration_s"]) == ("timeout", None, None)
    assert (await first)["outcome"] == "ok"
    assert await context.printed("print('done' in globals())") == "False\n"


async def test_a_notebooks_cell_is_not_interrupted_for_an_execution_that_waits_behind_it(rest, new_notebook):
    notebook = await new_notebook()
    (sandbox,) = (await rest.get()).body["sandboxes"]
    running = notebook.start("import time; print('go', flush=True); time.sleep(1.5); print('whole')")
    await notebook.printed(running, "go")
    body = {"code": "import time\ntime.sleep(3)\nintruded = True", "timeout_s": 0.3}
    reply = await rest.post(sandbox["id"], "contexts", notebook.kernel_id, "executions", body=body)
    assert reply.body["outcome"] == "timeout"
    result = await notebook.finish(running)
    assert (result.status, result.text()) == ("ok", "whole\n")
    assert await notebook.run("print('intruded' in globals())") == "False\n"


async def test_input_is_an_error_and_nobody_waits(rest):
    context = await rest.context()
    execution = await context.execute("input('name? ')")
    assert execution["error"]["name"] == "StdinNotImplementedError"


async def test_a_restart_ends_what_runs(rest):
    context = await rest.context()
    running = asyncio.create_task(context.execute("import time\ntime.sleep(60)"))
    await eventually(lambda: any(each.fold.is_begun for each in rest.services.executions._known.values()))
    await rest.post(*context.parts, "restart")
    execution = await running
    assert execution["outcome"] == "died"
    assert await context.printed("print(1)") == "1\n"


async def test_a_release_ends_what_runs(rest):
    context = await rest.context()
    running = asyncio.create_task(context.execute("import time\ntime.sleep(60)"))
    await eventually(lambda: any(each.fold.is_begun for each in rest.services.executions._known.values()))
    await rest.delete(context.sandbox_id)
    assert (await running)["outcome"] == "died"
