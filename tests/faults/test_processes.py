"""Processes that die: a zygote is replaced, a lost worker is told, and whoever is not concerned goes on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from tests.conftest import eventually, wait_until

from .conftest import claim, listed, running_kernel, status, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def tree(module_tree):
    module_tree.template("cold", "min_idle = 0\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024")
    module_tree.start()
    return module_tree


async def zygote_of(template: str) -> int:
    for note in (await status()).notes:
        found = re.match(rf"zygote of {template}: pid (\d+)", note)
        if found:
            return int(found[1])
    raise AssertionError(f"{template} has no zygote")


async def _warm() -> bool:
    return (await status()).warm == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_zygote_that_dies_while_it_looks_what_a_kernel_imports_leaves_no_kernel(number):
    # once: whoever was to hear of it was gone, the thread that told failed, and its kernel ran for ever
    code = "from sandbox_worker import preload; preload.modules_of_a_live_kernel()"
    with subprocess.Popen([sys.executable, "-P", "-c", code]) as looking:
        children = Path(f"/proc/{looking.pid}/task/{looking.pid}/children")
        wait_until(lambda: children.read_text())
        kernel = int(children.read_text())
        wait_until(lambda: len(os.listdir(f"/proc/{kernel}/task")) > 2)
        looking.send_signal(number)
    wait_until(lambda: not Path(f"/proc/{kernel}").exists())


def test_what_a_kernel_needs_from_its_first_output_to_its_shutdown_is_imported_before_the_fork():
    # once: each kernel compiled its own output module, in a root that keeps no bytecode, and a shutdown imported psutil
    code = (
        "import sys; from sandbox_worker import kernel, preload\n"
        "preload.preload(())\n"
        "print([name for name in ('sandbox_worker.output', 'psutil') if name not in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, timeout=60, check=True, text=True)
    assert done.stdout == "[]\n"


async def test_a_killed_zygote_is_replaced_and_live_kernels_go_on(tree, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 41")
        await until(_warm)
        old = await zygote_of("python")
        os.kill(old, signal.SIGKILL)
        assert await kernel.run("print(x + 1)") == "42"
        warm, cold = await claim(), await claim()  # the second needs a new zygote
        assert await zygote_of("python") != old
        assert len(await listed()) == 3
        assert await kernel.run("print(x + 2)") == "43"
        warm.close()
        cold.close()


async def test_a_zygote_that_dies_while_it_is_asked_is_replaced_at_once(tree):
    (await claim("cold")).close()
    old = await zygote_of("cold")
    os.kill(old, signal.SIGSTOP)
    os.kill(old, signal.SIGKILL)
    lease = await claim("cold")
    assert await zygote_of("cold") != old
    lease.close()


async def test_a_killed_agent_ends_its_sandbox_and_is_told(tree):
    lease, neighbour = await claim(), await claim()
    pid = tree.records()[lease.sandbox]["pid"]
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: lease.listen() or lease.loss is not None)
    assert "it crashed" in lease.loss
    await until(lambda: _is_claimed([neighbour.sandbox]))
    await eventually(lambda: lease.sandbox not in tree.records())
    assert not [what for what in tree.left() if lease.sandbox.removeprefix("sbx_") in what]
    neighbour.listen()
    assert neighbour.loss is None
    for each in (lease, neighbour):
        each.close()


async def _is_claimed(expected: list[str]) -> bool:
    return await listed() == expected


async def test_a_warm_worker_that_dies_is_replaced(tree):
    await until(_warm)
    await until(lambda: _is_claimed([]))
    await eventually(lambda: len(tree.records()) == 1)
    ((sandbox, record),) = tree.records().items()
    os.kill(record["pid"], signal.SIGKILL)
    await eventually(lambda: sandbox not in tree.records())
    await until(_warm)
    lease = await claim()
    assert lease.sandbox != sandbox
    lease.close()


async def test_after_a_lost_sandbox_a_restart_gets_a_new_one_under_the_same_identity(tree, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 1; open('/sandbox/file', 'w').close()")
        sandbox, connection = kernel.provisioner.sandbox_id, dict(kernel.provisioner.connection_info)
        os.kill(tree.records()[sandbox]["pid"], signal.SIGKILL)
        await until(lambda: _has_ended(kernel))
        assert "The sandbox was lost" in kernel.provisioner.last_words()
        await kernel.manager.restart_kernel()
        await kernel.ready_again()
        assert kernel.provisioner.sandbox_id != sandbox
        assert kernel.provisioner.connection_info == connection
        assert kernel.provisioner.last_words() is None
        assert await kernel.run("import os; print('x' in globals(), os.path.exists('/sandbox/file'))") == "False False"
    await until(lambda: _is_claimed([]))


async def _has_ended(kernel) -> bool:
    return await kernel.provisioner.poll() is not None


async def test_a_killed_kernel_keeps_its_sandbox_and_its_files(tree, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("open('/sandbox/file', 'w').close()")
        sandbox = kernel.provisioner.sandbox_id
        with pytest.raises(RuntimeError):
            kernel.channels.execute("import os; os.kill(os.getpid(), 9)")
            await until(lambda: _has_ended(kernel))
            raise RuntimeError(kernel.provisioner.last_words())
        assert "SIGKILL" in kernel.provisioner.last_words()
        await kernel.manager.restart_kernel()
        await kernel.ready_again()
        assert kernel.provisioner.sandbox_id == sandbox
        assert await kernel.run("import os; print(os.path.exists('/sandbox/file'))") == "True"


async def test_a_dead_kernel_s_shutdown_request_does_not_end_the_next_kernel(tree, tmp_path):
    # once: jupyter_client asks the dead kernel to shut down, and its control socket lingers for 100 ms. Ours is back
    # within them, under the same path and key, and obeys: about every second restart in this test
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        for moment_s in (0, 0.03, 0.06, 0.1, 0.14, 0.18, 0.22, 0.26):
            kernel.channels.execute("import os; os._exit(3)")
            await until(lambda: _has_ended(kernel))
            await asyncio.sleep(moment_s)  # the client's sockets reconnect every 100 ms or so: meet every phase of that
            await kernel.manager.restart_kernel()
            await kernel.ready_again()
            assert await kernel.run("print(1)") == "1"


async def test_a_command_ends_with_its_sandbox(tree):
    lease = await claim()
    channel, sleeper = await _sleeping(tree, lease)
    lease.close()
    await eventually(lambda: not os.path.exists(f"/proc/{sleeper}"))
    event, _ = await channel.receive()
    assert (event.reason, event.message) == ("lost", "The sandbox has ended.")
    channel.close()


async def test_a_command_ends_with_its_connection(tree):
    lease = await claim()
    channel, sleeper = await _sleeping(tree, lease)
    channel.close()
    await eventually(lambda: not os.path.exists(f"/proc/{sleeper}"))
    lease.close()


async def _sleeping(tree, lease):
    """Run a command that sleeps; return its connection and its pid."""
    agent = tree.records()[lease.sandbox]["pid"]
    before = set(_children(agent))  # what stands by
    channel = await client.connect(start=False)
    with open(os.devnull, "r+") as null:
        request = verbs.RunCommand(sandbox=lease.sandbox, argv=("sleep", "1000"), env={}, cwd=None)
        await client.ask(channel, request, verbs.CommandStarted, [null.fileno()] * 3)
    await eventually(lambda: set(_children(agent)) - before)
    (sleeper,) = set(_children(agent)) - before
    return channel, sleeper


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
