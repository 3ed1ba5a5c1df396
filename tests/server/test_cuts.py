"""A websocket is cut while a cell runs: its client comes back, and is told what it may have missed."""

from __future__ import annotations

import json
import os

import pytest

from tests.server.notebook import LEGACY, V1

CELL = """
import os, sys, time
def say(line):  # in one piece: what print writes in two can be sent in two messages
    sys.stdout.write(line + '\\n')
    sys.stdout.flush()
say('before')
while not os.path.exists('/sandbox/go'): time.sleep(0.01)
say('after')
say('the end')
"""


@pytest.fixture
def come(open_notebook, start_kernel):
    """Open the websocket of one kernel, each time with the same session: `notebook = await come(protocol)`."""
    kernel_ids = []

    async def connect(protocol=LEGACY):
        if not kernel_ids:
            kernel_ids.append(await start_kernel())
        return await open_notebook(kernel_ids[0], protocol, session_id="tab")

    return connect


@pytest.fixture
def forget():
    """Leave a websocket open that nobody reads any more, as a laptop does that is put to sleep."""
    descriptors = []

    def leave(notebook):
        descriptors.append(os.dup(notebook.stream.socket.fileno()))
        notebook.stream.close()

    yield leave
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def go_on(jp_fetch):
    """Let the cell end, and wait for that."""

    async def go(notebook):
        (sandbox,) = json.loads((await jp_fetch("api", "sandboxes")).body)["sandboxes"]
        await jp_fetch("api", "sandboxes", sandbox["id"], "files", "go", method="PUT", body="")
        while json.loads((await jp_fetch("api", "kernels", notebook.kernel_id)).body)["execution_state"] != "idle":
            pass

    return go


@pytest.mark.parametrize("protocol", [LEGACY, V1])
async def test_output_that_went_to_a_websocket_that_nobody_read_is_told_and_the_end_comes_again(
    come, forget, go_on, protocol
):
    first = await come(protocol)
    cell = first.start(CELL)
    await first.printed(cell, "before")
    await first.pinged()  # and has answered: what came before that is there
    forget(first)
    await go_on(first)
    second = await come(protocol)
    result = await second.finish(cell)
    assert (result.status, result.text()) == ("ok", "")
    assert "2 messages with" in result.text("stderr"), "the others are known to have come"
    assert result.text("stderr").count("may be missing here") == 1
    await second.pinged()
    await second.closed()
    third = await come(protocol)
    assert await third.run("print('well')") == "well\n"
    assert [message for message in third.received if message["parent_id"] == cell] == []


async def test_a_mark_that_was_lost_with_the_next_cut_is_told_again(come, forget, go_on):
    first = await come()
    cell = first.start(CELL)
    await first.printed(cell, "before")
    await first.pinged()
    forget(first)
    await go_on(first)
    for _ in range(3):
        forget(await come())
    last = await come()
    result = await last.finish(cell)
    assert (result.status, result.text()) == ("ok", "")
    assert "2 messages with" in result.text("stderr"), "what is missing, and not that the mark is"
    assert result.text("stderr").count("may be missing here") == 1


async def test_what_comes_while_nobody_is_there_comes_once_and_nothing_is_told(come, go_on):
    first = await come()
    cell = first.start(CELL)
    await first.printed(cell, "before")
    await first.pinged()
    await first.closed()
    await go_on(first)
    second = await come()
    result = await second.finish(cell)
    assert (result.status, result.text(), result.text("stderr")) == ("ok", "after\nthe end\n", "")
