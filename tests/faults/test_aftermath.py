"""What was under way when a Jupyter server was killed: its end comes once, or is told to be unknown."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import eventually

from .conftest import listed, until
from .servers import WAIT, claimed, context_in, go, is_busy, notebook_session, run

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(240)]


def told_of(notebook, msg_id: str) -> list[dict]:
    """Everything that came in answer to a request."""
    return [message for message in notebook.received if message["parent_id"] == msg_id]


def replies(notebook, msg_id: str) -> list[dict]:
    return [message["content"] for message in told_of(notebook, msg_id) if message["msg_type"] == "execute_reply"]


async def ended(notebook, *msg_ids: str) -> None:
    """Wait until all of these executions have their reply and are idle."""

    def is_over(msg_id: str) -> bool:
        states = [message["content"].get("execution_state") for message in told_of(notebook, msg_id)]
        return "idle" in states and bool(replies(notebook, msg_id))

    async with asyncio.timeout(60):
        while not all(map(is_over, msg_ids)):
            await notebook.receive(60)


def written(messages: list[dict], name: str) -> str:
    streams = [message["content"] for message in messages if message["msg_type"] == "stream"]
    return "".join(content["text"] for content in streams if content["name"] == name)


async def test_a_cell_that_still_runs_ends_once_and_its_gap_is_told(server):
    await server.start()
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    (sandbox,) = await listed()
    msg_id = notebook.start(WAIT)
    await notebook.receive_until(lambda message: message["msg_type"] == "stream")
    waiting = [notebook.start(f"print({number})") for number in range(3)]
    await eventually(lambda: waiting[-1] in server.slate())
    await server.restart()
    await notebook.closed()
    assert (await server.ask("GET", "api/kernels"))[0]["execution_state"] == "busy"
    again = await server.notebook(kernel_id, notebook.session_id)
    await go(server, sandbox)
    await ended(again, msg_id, *waiting)
    await again.run("1")
    assert [reply["status"] for each in (msg_id, *waiting) for reply in replies(again, each)] == ["ok"] * 4
    assert written(told_of(again, msg_id), "stdout") == "done\n"
    assert written(told_of(again, msg_id), "stderr").count("anew while this ran") == 1
    assert [written(told_of(again, each), "stdout") for each in waiting] == ["0\n", "1\n", "2\n"]
    assert [written(told_of(again, each), "stderr") for each in waiting] == [""] * 3
    await again.closed()


async def test_a_cell_that_ends_before_its_notebook_is_back_is_delivered(server):
    await server.start()
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    (sandbox,) = await listed()
    msg_id = notebook.start(WAIT + "'x' * 100")
    await notebook.receive_until(lambda message: message["msg_type"] == "stream")
    await server.restart()
    await notebook.closed()
    await go(server, sandbox)
    await until(lambda: is_idle(server, kernel_id))
    again = await server.notebook(kernel_id, notebook.session_id)
    await ended(again, msg_id)
    await again.run("1")
    assert [reply["status"] for reply in replies(again, msg_id)] == ["ok"]
    assert written(told_of(again, msg_id), "stdout") == "done\n"
    assert written(told_of(again, msg_id), "stderr").count("anew while this ran") == 1
    assert [each["msg_type"] for each in told_of(again, msg_id)].count("execute_result") == 1
    await again.closed()
    last = await server.notebook(kernel_id, notebook.session_id)
    await last.run("1")
    assert told_of(last, msg_id) == []
    await last.closed()


async def is_idle(server, kernel_id: str) -> bool:
    return not await is_busy(server, kernel_id)


async def test_a_cell_that_ended_while_there_was_no_server_is_told_to_be_unknown_once(server):
    await server.start()
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    before = notebook.start("y = 1")
    await notebook.finish(before)
    msg_id = notebook.start("import time; print(1, flush=True); time.sleep(0.3); x = 41")
    await notebook.receive_until(lambda message: message["msg_type"] == "stream")
    await server.restart()
    await notebook.closed()
    again = await server.notebook(kernel_id, notebook.session_id)
    await ended(again, msg_id)
    (reply,) = replies(again, msg_id)
    assert (reply["status"], reply["ename"]) == ("error", "UnknownOutcome")
    assert "is not known" in written(told_of(again, msg_id), "stderr")
    assert await again.run("print(x + y)") == "42\n"
    await again.closed()
    last = await server.notebook(kernel_id, notebook.session_id)
    assert await last.run("print(x + y)") == "42\n"
    for notebook, known in ((again, before), (last, before), (last, msg_id)):
        assert told_of(notebook, known) == []
    await last.closed()


async def test_executions_over_rest_are_told_to_be_unknown(server):
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    path = f"api/sandboxes/{sandbox}/contexts/{context}/executions"

    async def detached(code: str) -> str:
        return (await server.ask("POST", path, {"code": code, "detached": True, "timeout_s": 600}))["id"]

    over = await detached("x = 1")
    await until(lambda: has_ended(server, f"{path}/{over}"))
    runs, waits = await detached(WAIT + "x = 2"), await detached("x = 3")
    await server.restart()
    for execution, outcome, words in (
        (over, "unknown", "its result was lost"),
        (runs, "unknown", "is not known"),
        (waits, "interrupted", "was not run"),
    ):
        found = await server.ask("GET", f"{path}/{execution}")
        assert (found["state"], found["outcome"]) == ("ended", outcome)
        assert words in found["message"]
    await go(server, sandbox)
    done = await run(server, sandbox, context, "print(x)")
    assert done["outputs"][0]["text"] == "2\n", "what ran went on"
    await server.restart()
    assert (await server.ask("GET", f"{path}/{runs}"))["outcome"] == "unknown"
    assert {each["id"] for each in (await server.ask("GET", path))["executions"]} == {over, runs, waits}


async def has_ended(server, path: str) -> bool:
    return (await server.ask("GET", path))["state"] == "ended"


@pytest.mark.parametrize("is_paused", [False, True], ids=["runs", "is paused"])
async def test_code_whose_client_went_with_the_server_is_interrupted(server, is_paused):
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    asking = asyncio.create_task(run(server, sandbox, context, "while True: pass", timeout_s=600))
    await until(lambda: is_busy(server, context))
    if is_paused:  # then it is interrupted when it goes on
        await server.ask("POST", f"api/sandboxes/{sandbox}/pause")
    await server.end()
    with pytest.raises(ConnectionError):
        await asking
    await server.start()
    if is_paused:
        await server.ask("POST", f"api/sandboxes/{sandbox}/resume")
    done = await run(server, sandbox, context, "print('free')", timeout_s=30)
    assert done["outcome"] == "ok", done
