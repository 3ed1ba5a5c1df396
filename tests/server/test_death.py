"""A kernel that dies says why in the notebook, below the cell that was running, and comes back."""

from __future__ import annotations

import asyncio

import pytest
from jupyter_client.restarter import KernelRestarter
from tornado.web import HTTPError

from jupyter_sandbox.broker import client
from tests.server.brokers import sandboxes
from tests.server.notebook import FORMATS, V1

pytestmark = pytest.mark.timeout(120)

EXIT = "print('go', flush=True)\nimport os; os._exit(7)"
KILL = "print('go', flush=True)\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
ABORT = "print('go', flush=True)\nimport os; os.abort()"
FILL_MEMORY = "print('go', flush=True)\nfilled = b'x' * (1 << 30)"
FILL_DISK = """
with open('/sandbox/big', 'wb', buffering=0) as file:
    while True:
        file.write(bytes(1 << 16))
"""


@pytest.fixture(autouse=True)
def never_looks(monkeypatch):
    """A death is told: whoever else looks whether a kernel lives does so once an hour."""
    monkeypatch.setattr(KernelRestarter.time_to_dead, "default_value", 3600.0)


async def epitaph(notebook, code):
    """Run deadly code; return what the notebook showed below that cell on stderr, once the kernel is restarting."""
    running = notebook.start(code)
    messages = await notebook.receive_until(
        lambda message: (
            message["msg_type"] == "status" and message["content"]["execution_state"] in {"restarting", "dead"}
        )
    )
    shown = [message for message in messages if message["content"].get("name") == "stderr"]
    assert [message["parent_id"] for message in shown] == [running], messages
    assert messages[-1]["content"]["execution_state"] == "restarting"
    return shown[0]["content"]["text"]


@pytest.mark.parametrize("protocol", FORMATS)
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (EXIT, "The kernel ended with exit status 7."),
        (KILL, "The kernel was ended by SIGKILL."),
        (ABORT, "The kernel was ended by SIGABRT."),
    ],
    ids=["exit", "kill", "abort"],
)
async def test_a_kernel_that_dies_says_why_and_is_restarted_in_its_sandbox(new_notebook, protocol, code, words):
    notebook = await new_notebook(protocol=protocol)
    await notebook.run("open('/sandbox/kept', 'w').write('kept'); forgotten = 1")
    before = [sandbox.sandbox for sandbox in await sandboxes()]
    said = await epitaph(notebook, code)
    assert said.startswith(words)
    assert "To connect another client to this kernel" not in said, "ipykernel's greeting is nobody's last words"
    await notebook.answers()
    assert await notebook.run("print('forgotten' in globals(), open('/sandbox/kept').read())") == "False kept\n"
    assert [sandbox.sandbox for sandbox in await sandboxes()] == before


@pytest.mark.parametrize("protocol", FORMATS)
async def test_a_kernel_that_needs_too_much_memory_is_told_so(new_notebook, add_kernelspec, protocol):
    notebook = await new_notebook(add_kernelspec("tiny", template="small-memory"), protocol)
    await notebook.run("open('/sandbox/kept', 'w').write('kept')")
    said = await epitaph(notebook, FILL_MEMORY)
    assert "it needed more than its 256 MiB of memory" in said
    await notebook.answers()
    assert await notebook.run("print(open('/sandbox/kept').read())") == "kept\n"


async def test_a_child_that_needs_too_much_memory_dies_alone(new_notebook, add_kernelspec):
    notebook = await new_notebook(add_kernelspec("tiny", template="small-memory"))
    code = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'b\"x\" * (1 << 30)']).returncode)"
    assert await notebook.run("kept = 1\n" + code) == "-9\n"
    assert await notebook.run("print(kept)") == "1\n"


async def test_a_full_disk_is_an_error_of_the_cell_and_the_kernel_goes_on(new_notebook, add_kernelspec):
    notebook = await new_notebook(add_kernelspec("tiny", template="small-disk"))
    result = await notebook.execute(FILL_DISK)
    assert (result.status, result.reply["ename"]) == ("error", "OSError")
    assert "No space left on device" in result.reply["evalue"]
    assert (await notebook.execute("import os; os.remove('/sandbox/big'); 1 + 1")).value == "2"


async def test_a_kernel_that_dies_of_a_full_disk_is_told_so(new_notebook, add_kernelspec):
    notebook = await new_notebook(add_kernelspec("tiny", template="small-disk"))
    assert (await notebook.execute(FILL_DISK)).status == "error"
    said = await epitaph(notebook, "import os; os._exit(1)")
    assert "the sandbox's disk of 16 MiB is full" in said
    await notebook.answers()
    assert (await notebook.execute("1 + 1")).value == "2"


async def test_a_kernel_restarts_on_a_full_disk(new_notebook, add_kernelspec, jp_fetch):
    notebook = await new_notebook(add_kernelspec("tiny", template="small-disk"))
    assert (await notebook.execute(FILL_DISK)).status == "error"
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}")
    await notebook.answers()
    assert (await notebook.execute("import os; os.remove('/sandbox/big'); 1 + 1")).value == "2"


async def test_exit_in_a_cell_is_the_persons_wish(new_notebook):
    """`exit` ends the kernel with status 0: Jupyter restarts it, and the notebook says that it ended by itself."""
    notebook = await new_notebook()
    running = notebook.start("exit")
    messages = await notebook.receive_until(
        lambda message: message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
    )
    assert running
    assert [message for message in messages if "exit status 0" in message["content"].get("text", "")] or not [
        message for message in messages if message["content"].get("name") == "stderr"
    ]
    await notebook.answers()
    assert (await notebook.execute("1 + 1")).value == "2"


async def test_an_idle_kernel_that_dies_is_restarted_without_a_cell_to_blame(new_notebook, jp_serverapp):
    notebook = await new_notebook()
    await notebook.run("import os, threading; threading.Timer(3, os._exit, [3]).start()")
    messages = await notebook.receive_until(
        lambda message: message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
    )
    assert [message["parent_id"] for message in messages if message["content"].get("name") == "stderr"] == [None]
    await notebook.answers()


async def test_a_kernel_that_is_restarted_on_purpose_says_nothing(new_notebook, jp_fetch):
    notebook = await new_notebook()
    running = notebook.start("print('go', flush=True)\nimport time; time.sleep(100)")
    await notebook.printed(running, "go")
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}", request_timeout=60)
    await notebook.answers()
    await notebook.run("print('done')")
    assert [message for message in notebook.received if message["content"].get("name") == "stderr"] == []


async def test_a_lost_worker_is_replaced_behind_the_same_sockets(new_notebook, jp_serverapp, tree):
    """The whole worker dies, as after a crash of its pid 1: the kernel gets a new sandbox, the websocket stays."""
    notebook = await new_notebook(protocol=V1)
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    before = manager.get_connection_info(), [sandbox.sandbox for sandbox in await sandboxes()]
    running = notebook.start("print('go', flush=True)\nimport time; time.sleep(100)")
    await notebook.printed(running, "go")
    tree.kill_worker(before[1][0])
    messages = await notebook.receive_until(
        lambda message: message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
    )
    said = [message for message in messages if message["content"].get("name") == "stderr"]
    assert [message["parent_id"] for message in said] == [running]
    assert "The sandbox was lost" in said[0]["content"]["text"]
    await notebook.answers()
    assert (await notebook.execute("1 + 1")).value == "2"
    assert manager.get_connection_info() == before[0]
    assert [sandbox.sandbox for sandbox in await sandboxes()] != before[1]


async def test_a_death_that_nobody_told_is_found_when_looked_for(monkeypatch, new_notebook, jp_serverapp):
    monkeypatch.setattr(KernelRestarter.time_to_dead, "default_value", 0.2)
    notebook = await new_notebook()
    jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id).provisioner.call_at_end(None)
    await epitaph(notebook, EXIT)
    await notebook.answers()


async def test_a_kernel_that_dies_as_soon_as_it_starts_is_given_up(new_notebook, jp_serverapp):
    """After as many restarts as stock Jupyter's."""
    notebook = await new_notebook()
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    manager.kernel_spec.argv = ["sh", "-c", "exit 5"]
    notebook.start(EXIT)
    messages = await notebook.receive_until(lambda message: message["content"].get("execution_state") == "dead")
    states = [message["content"].get("execution_state") for message in messages]
    assert states.count("restarting") == manager._restarter.restart_limit
    said = [message["content"]["text"] for message in messages if message["content"].get("name") == "stderr"]
    assert len(said) == len([state for state in states if state in ("restarting", "dead")]), "why, each time"
    assert all("exit status" in words for words in said)


async def test_nobody_restarts_a_kernel_that_was_deleted(new_notebook, jp_serverapp, jp_fetch):
    """A restart that comes to its end after the deletion begins to look after the kernel again."""
    notebook = await new_notebook()
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    await jp_fetch("api", "kernels", notebook.kernel_id, method="DELETE")
    manager._restarter.start()
    await manager._restarter.poll()
    assert manager._restarter._pcallback is None
    assert await sandboxes() == []


async def unwatched(new_notebook, jp_serverapp):
    """The provisioner of a kernel that nobody restarts."""
    notebook = await new_notebook()
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    manager.stop_restarter()
    return manager.provisioner


async def test_a_kernel_that_is_ended_between_the_halves_of_its_restart_claims_nothing(new_notebook, jp_serverapp):
    provisioner = await unwatched(new_notebook, jp_serverapp)
    await provisioner.shutdown_requested(restart=True)
    await provisioner.cleanup(restart=True)
    await provisioner.cleanup()
    with pytest.raises(HTTPError, match="was shut down while it started"):
        await provisioner.launch_kernel(["python"], env={})
    assert await sandboxes() == []


async def test_a_kernel_that_is_ended_when_its_restart_has_begun_claims_nothing(new_notebook, jp_serverapp):
    provisioner = await unwatched(new_notebook, jp_serverapp)
    await provisioner.shutdown_requested(restart=True)
    await provisioner.cleanup()
    await provisioner.cleanup(restart=True)
    for _ in range(2):
        with pytest.raises(HTTPError, match="was shut down while it started"):
            await provisioner.launch_kernel(["python"], env={})
        await provisioner.cleanup(restart=True)
    assert await sandboxes() == []


async def test_a_kernel_that_is_started_twice_at_once_has_one_sandbox(new_notebook, jp_serverapp):
    provisioner = await unwatched(new_notebook, jp_serverapp)
    await provisioner.cleanup()
    await asyncio.gather(*(provisioner.launch_kernel(["python"], env={}) for _ in range(2)))
    assert len(await sandboxes()) == 1
    await provisioner.cleanup()
    assert await sandboxes() == []


async def test_a_kernel_that_is_ended_while_it_starts_gives_its_sandbox_back(new_notebook, jp_serverapp, monkeypatch):
    provisioner, claim = await unwatched(new_notebook, jp_serverapp), client.Lease.claim
    await provisioner.cleanup()

    async def overtaken(*arguments, **named):
        lease = await claim(*arguments, **named)
        await provisioner.cleanup()
        return lease

    monkeypatch.setattr(client.Lease, "claim", overtaken)
    with pytest.raises(HTTPError, match="was shut down while it started"):
        await provisioner.launch_kernel(["python"], env={})
    assert await sandboxes() == []


async def test_a_dead_kernels_interrupt_does_not_reach_the_next_kernel(new_notebook):
    """Once: the automatic restart interrupts the dead kernel first, and the first cell of the next one paid for it."""
    notebook = await new_notebook()
    for _ in range(4):
        notebook.start("import os; os._exit(3)")
        await notebook.receive_until(lambda message: message["content"].get("execution_state") == "restarting")
        await notebook.answers()
        assert await notebook.run("import time\nfor _ in range(30): time.sleep(0.01)\nprint('whole')") == "whole\n"
