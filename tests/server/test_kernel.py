"""A sandbox kernel behind jupyter_server's REST interface and websocket, in the life of one notebook."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from jupyter_sandbox import websocket_opening
from jupyter_sandbox.kernel_streams import KernelStream
from jupyter_sandbox.provisioner import SandboxProvisioner
from tests.conftest import wait_until
from tests.server.brokers import nothing_is_claimed, sandboxes
from tests.server.notebook import FORMATS, LEGACY


async def test_the_kernelspec_is_listed_with_its_logos(jp_fetch):
    listing = json.loads((await jp_fetch("api", "kernelspecs")).body)["kernelspecs"]
    ours = listing["sandbox-python"]
    assert ours["spec"]["display_name"] == "Python 3 (sandbox)"
    assert ours["spec"]["metadata"]["debugger"] is True
    assert set(ours["resources"]) == {"logo-32x32", "logo-64x64", "logo-svg"}
    for name in ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg"):
        response = await jp_fetch("kernelspecs", "sandbox-python", name)
        assert response.headers["Content-Type"].startswith("image/")
        assert len(response.body) > 100


@pytest.mark.parametrize("protocol", FORMATS)
async def test_a_posted_kernel_runs_code(new_notebook, protocol):
    notebook = await new_notebook(protocol=protocol)
    result = await notebook.execute("print('said')\n6 * 7")
    assert (result.status, result.value, result.text()) == ("ok", "42", "said\n")


async def test_a_kernel_whose_messages_are_encrypted_runs_code_and_is_restarted(jp_serverapp, jp_fetch, new_notebook):
    jp_serverapp.kernel_manager.transport_encryption = "required"
    notebook = await new_notebook()
    assert (await notebook.execute("6 * 7")).value == "42"
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="")
    await notebook.answers()
    assert (await notebook.execute("7 * 7")).value == "49"
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    assert "curve_publickey" in manager.get_connection_info()


async def test_an_encrypted_kernels_messages_are_judged_too(jp_serverapp, new_notebook):
    jp_serverapp.kernel_manager.transport_encryption = "required"
    notebook = await new_notebook()
    lie = """
kernel = get_ipython().kernel
for kind, content in {"status": {"execution_state": "dead"}, "no_such_type": {}}.items():
    kernel.session.send(kernel.iopub_socket, kind, content, parent=kernel.get_parent("shell"))
"""
    result = await notebook.execute(lie)
    assert result.text("stderr") == "A message of the kernel is not valid and was not shown (state).\n"
    assert {output["msg_type"] for output in result.outputs} == {"execute_input", "stream"}
    manager = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    assert "curve_publickey" in manager.get_connection_info()
    assert set(manager.sandbox_channels.refusals.counts) == {"state", "unknown_type"}
    assert (await notebook.execute("6 * 7")).value == "42"


@pytest.mark.parametrize("jp_argv", [["--SandboxExtension.max_message_mib=1"]])
async def test_what_a_message_may_have_is_a_setting(jp_serverapp, new_notebook):
    assert jp_serverapp.kernel_manager.buffer_offline_messages, "on by default, and bounded"
    notebook = await new_notebook()
    result = await notebook.execute("print('x' * 1_500_000)")
    assert "Output too large: a message of 1,500," in result.text("stderr")
    assert "One message may have 1 MiB" in result.text("stderr")
    assert await notebook.run("print(1)") == "1\n"


async def test_the_kernel_runs_in_a_sandbox_and_not_on_the_host(new_notebook, tree):
    notebook = await new_notebook()
    said = await notebook.run(f"import os; print(os.path.exists({str(tree.directory)!r}), os.getpid(), os.getuid())")
    visible, pid, uid = said.split()
    assert (visible, int(pid) < 100, int(uid) != 0) == ("False", True, True)
    assert [len(sandbox.kernels) for sandbox in await sandboxes()] == [1]


async def test_the_websocket_does_not_wait_to_fill_its_packets(new_notebook):
    notebook = await new_notebook()
    handlers = [
        handler for key, handler in ZMQChannelsWebsocketConnection._open_sessions.items() if notebook.kernel_id in key
    ]
    assert len(handlers) == 1
    connection = handlers[0].ws_connection.stream.socket
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def nudges(caplog) -> int:
    return sum(text.startswith("Nudge: attempt") for text in caplog.messages)


async def test_a_start_needs_no_nudge(new_notebook, caplog):
    """Each nudge is two more requests, and may wait 0.05 or 0.5 s. A loaded machine gets ten tries."""
    caplog.set_level(logging.DEBUG)
    native = await new_notebook("python3")
    await native.execute("1")
    assert nudges(caplog), "jupyter_server has changed its words: this test sees nothing any more"
    needed = []
    for _ in range(10):
        caplog.clear()
        notebook = await new_notebook()
        assert (await notebook.execute("1 + 1")).value == "2"
        needed.append(nudges(caplog))
        if needed[-1] == 0:
            return
    pytest.fail(f"every start needed nudges: {needed}")


async def test_a_kernel_that_welcomes_nobody_is_nudged(new_notebook, caplog, monkeypatch):
    """One that is busy at that moment is asked on control instead, and one may be quick: it gets five tries."""
    monkeypatch.setattr(websocket_opening, "_WELCOME_S", 0)
    caplog.set_level(logging.DEBUG)
    for _ in range(5):
        notebook = await new_notebook()
        assert (await notebook.execute("print('said')\n1 + 1")).value == "2"
        if nudges(caplog):
            return
    pytest.fail("no kernel was nudged")


async def test_who_opens_a_busy_kernel_misses_nothing_however_late_it_is_subscribed(
    new_notebook, open_notebook, monkeypatch
):
    """Stock Jupyter takes a busy kernel for subscribed: an execution that came then lost what it printed."""
    notebook, connect = await new_notebook(), KernelStream._connect
    busy = notebook.start("import time; print('go', flush=True); time.sleep(0.4)")
    await notebook.printed(busy, "go")

    def late(stream):
        asyncio.get_running_loop().call_later(0.8 if stream.channel == "iopub" else 0, connect, stream)

    with monkeypatch.context() as patch:
        patch.setattr(KernelStream, "_connect", late)
        other = await open_notebook(notebook.kernel_id)
    assert await other.run("print('said')") == "said\n"


async def test_a_busy_kernel_is_asked_on_control_and_no_client_hears_of_it(
    jp_fetch, new_notebook, open_notebook, monkeypatch
):
    hidden, is_for_opening = [], websocket_opening.is_for_opening

    def spy(judged):
        hidden.append(str(judged.parent.get("msg_id")))
        return is_for_opening(judged)

    monkeypatch.setattr(websocket_opening, "_WELCOME_S", 0)
    monkeypatch.setattr(websocket_opening, "is_for_opening", spy)
    notebook = await new_notebook()
    busy = notebook.start("import time; print('go', flush=True); time.sleep(60)")
    await notebook.printed(busy, "go")
    others = []
    while not any(each.startswith("until-subscribed-") for each in hidden):
        assert len(others) < 10, "it is never asked, though its welcome is not waited for"
        others.append(await open_notebook(notebook.kernel_id))
    await jp_fetch("api", "kernels", notebook.kernel_id, "interrupt", method="POST", body="")
    await notebook.finish(busy)
    await others[-1].execute("1")
    heard = [str(each["parent_id"]) for other in (notebook, *others) for each in other.received]
    assert not any(each.startswith("until-subscribed-") for each in heard)


async def test_a_kernel_that_never_answers_is_opened_all_the_same(jp_fetch, new_notebook, open_notebook, monkeypatch):
    monkeypatch.setattr(websocket_opening, "_ANSWER_S", 0.01)
    monkeypatch.setattr(websocket_opening, "_WELCOME_S", 0)
    notebook = await new_notebook()
    # holds the interpreter lock for minutes; ipykernel sends what was flushed a little later
    running = notebook.start("import time; print('go', flush=True); time.sleep(3)\nsum(range(10**10))")
    await notebook.printed(running, "go")
    await asyncio.sleep(3)
    async with asyncio.timeout(20):
        await open_notebook(notebook.kernel_id)
    kernel = json.loads((await jp_fetch("api", "kernels", notebook.kernel_id)).body)
    assert kernel["execution_state"] == "busy"


async def test_the_end_of_a_kernel_is_heard(new_notebook, jp_fetch, monkeypatch):
    """jupyter_client would look at once, and then only after 0.1 s. A loaded machine gets three tries."""
    stock, states = SandboxProvisioner.shutdown_requested, []

    async def shutdown_requested(self, restart=False):
        await stock(self, restart)
        states.append(await self.poll())

    monkeypatch.setattr(SandboxProvisioner, "shutdown_requested", shutdown_requested)
    for _ in range(3):
        notebook = await new_notebook()
        await notebook.execute("1")
        await jp_fetch("api", "kernels", notebook.kernel_id, method="DELETE")
        if states[-1] is not None:
            return
    pytest.fail("no kernel had ended when it was looked at")


@pytest.mark.parametrize("protocol", FORMATS)
async def test_nobody_is_told_that_another_tab_came(jp_serverapp, new_notebook, open_notebook, protocol):
    """And coming is no activity: a kernel that nobody uses is culled, whoever looks at it."""
    notebook = await new_notebook(protocol=protocol)
    await notebook.execute("1")
    await notebook.answers()
    kernel = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)
    active_at = kernel.last_activity
    other = await open_notebook(notebook.kernel_id, protocol)
    await other.answers()
    await notebook.answers()
    assert kernel.last_activity == active_at
    for tab in (notebook, other):
        assert "iopub_welcome" not in {message["msg_type"] for message in tab.received}


TELL = """
import glob, threading, time

def tell():
    while not any('sleep' in open(name).read() for name in glob.glob('/proc/[0-9]*/comm')):
        time.sleep(0.01)
    print('go', flush=True)

threading.Thread(target=tell).start()
"""
# `await asyncio.sleep(100)` is missing: ipykernel 7.4 hears of the signal only when its loop wakes, native kernels too.
INTERRUPTED = {
    # In steps: CPython forgets a signal that comes between its last look and the system call, until that returns.
    "sleep": "import time; print('go', flush=True); [time.sleep(0.1) for _ in range(1000)]",
    "busy loop": "print('go', flush=True)\nwhile True: pass",
    "subprocess": f"{TELL}\nimport subprocess; subprocess.run(['sleep', '100'])",
    "shell magic": f"{TELL}\n!sleep 100",
}


@pytest.mark.parametrize("what", INTERRUPTED)
async def test_interrupt_ends_the_cell_and_nothing_else(new_notebook, jp_fetch, what):
    notebook = await new_notebook()
    await notebook.run("kept = 'still here'")
    running = notebook.start(INTERRUPTED[what])
    await notebook.printed(running, "go")
    await jp_fetch("api", "kernels", notebook.kernel_id, "interrupt", method="POST", body="{}")
    result = await notebook.finish(running)
    if what != "shell magic":  # IPython keeps the interruption of a command to itself
        assert (result.status, result.reply["ename"]) == ("error", "KeyboardInterrupt")
    assert await notebook.run("print(kept)") == "still here\n"
    commands = "import glob; print([open(f).read() for f in glob.glob('/proc/[0-9]*/comm')])"
    assert "sleep" not in await notebook.run(commands)


def identity(serverapp, kernel_id):
    """What a client must know to reach the kernel."""
    info = serverapp.kernel_manager.get_kernel(kernel_id).get_connection_info()
    return {key: value for key, value in info.items() if key not in {"kernel_name", "jupyter_session"}}


@pytest.mark.parametrize("protocol", FORMATS)
async def test_restart_keeps_files_identity_and_open_websockets(new_notebook, jp_fetch, jp_serverapp, protocol):
    notebook = await new_notebook(protocol=protocol)
    before = identity(jp_serverapp, notebook.kernel_id)
    assert before["transport"] == "ipc"
    await notebook.run("open('/sandbox/kept.txt', 'w').write('kept'); forgotten = 1")
    sandbox = [sandbox.sandbox for sandbox in await sandboxes()]
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}")
    await notebook.answers()
    assert await notebook.run("print('forgotten' in globals(), open('/sandbox/kept.txt').read())") == "False kept\n"
    assert identity(jp_serverapp, notebook.kernel_id) == before
    assert [sandbox.sandbox for sandbox in await sandboxes()] == sandbox


async def test_restart_ends_what_the_kernel_had_started(new_notebook, jp_fetch):
    notebook = await new_notebook()
    await notebook.run("import subprocess; child = subprocess.Popen(['sleep', '1000'])")
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}")
    await notebook.answers()
    commands = "import glob; print([open(f).read().strip() for f in glob.glob('/proc/[0-9]*/comm')])"
    assert "sleep" not in await notebook.run(commands)


async def test_restart_from_a_busy_loop_works(new_notebook, jp_fetch):
    notebook = await new_notebook()
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('go', flush=True)\nwhile True: pass"
    running = notebook.start(deaf)
    await notebook.printed(running, "go")
    response = await jp_fetch(
        "api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}", request_timeout=60
    )
    assert response.code == 200
    await notebook.answers()
    assert (await notebook.execute("1 + 1")).value == "2"


async def test_one_looks_after_a_kernel_rarely_and_often_again_when_it_died(new_notebook, jp_serverapp, monkeypatch):
    monkeypatch.setattr(SandboxProvisioner, "get_stable_start_time", lambda *_, **__: 0)
    notebook = await new_notebook()
    restarter = jp_serverapp.kernel_manager.get_kernel(notebook.kernel_id)._restarter
    often_ms = 1000 * restarter.time_to_dead
    for _ in range(2):  # the first one sets the time since when it lives
        await restarter.poll()
    settled = restarter._pcallback
    assert settled.callback_time >= 20 * often_ms
    monkeypatch.setattr(SandboxProvisioner, "get_stable_start_time", lambda *_, **__: 3600)
    notebook.start("import os; os._exit(1)")
    await asyncio.to_thread(wait_until, lambda: restarter._pcallback not in {settled, None})
    await notebook.answers()
    assert (restarter._pcallback.callback_time, restarter._pcallback.is_running()) == (often_ms, True)
    assert not settled.is_running()


async def test_two_websockets_see_the_same_kernel(new_notebook, open_notebook):
    first = await new_notebook()
    second = await open_notebook(first.kernel_id, LEGACY)
    await first.run("shared = 'by both'")
    assert await second.run("print(shared)") == "by both\n"


async def test_delete_destroys_the_sandbox_before_it_answers(new_notebook, jp_fetch):
    notebook = await new_notebook()
    await notebook.run("1")
    assert len(await sandboxes()) == 1
    response = await jp_fetch("api", "kernels", notebook.kernel_id, method="DELETE")
    assert response.code == 204
    assert await sandboxes() == []


@pytest.mark.parametrize(
    "jp_argv", [["--MappingKernelManager.cull_idle_timeout=5", "--MappingKernelManager.cull_interval=1"]]
)
async def test_an_idle_kernel_is_culled_with_its_sandbox(new_notebook, jp_fetch):
    notebook = await new_notebook()
    await notebook.run("1")
    notebook.close()
    async with asyncio.timeout(40):
        while json.loads((await jp_fetch("api", "kernels")).body):  # noqa: ASYNC110 - a server has no event for it
            await asyncio.sleep(0.1)
    await nothing_is_claimed()


async def test_only_named_variables_of_the_servers_environment_arrive(new_notebook, add_kernelspec, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "hunter2")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("KERNEL_COLOUR", "green")
    monkeypatch.setenv("ALLOWED", "by the operator")
    name = add_kernelspec("env", env={"OF_THE_SPEC": "yes"}, environment_names=["ALLOWED"])
    notebook = await new_notebook(name)
    environment = json.loads(await notebook.run("import os, json; print(json.dumps(dict(os.environ)))"))
    arrived = {key: environment.get(key) for key in ("LANG", "KERNEL_COLOUR", "ALLOWED", "OF_THE_SPEC")}
    assert arrived == {
        "LANG": "de_DE.UTF-8",
        "KERNEL_COLOUR": "green",
        "ALLOWED": "by the operator",
        "OF_THE_SPEC": "yes",
    }
    assert "hunter2" not in environment.values()
    assert not {"JPY_PARENT_PID", "JUPYTER_SANDBOX_DIR", "JUPYTER_TOKEN"} & set(environment)
    assert environment["HOME"] == "/sandbox"
    assert os.environ["HOME"] not in json.dumps(environment)
