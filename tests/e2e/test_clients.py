"""Jupyter's own clients, unmodified: notebooks run as batches, consoles, scripts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbformat.v4 import new_code_cell, new_notebook

from tests.conftest import wait_until
from tests.server.brokers import nothing_is_claimed, sandboxes

KERNEL = "sandbox-python"
CELLS = ["rows = open('data.csv').read().split()", "open('made.txt', 'w').write('made')", "print(len(rows), 6 * 7)"]


@pytest.fixture
def folder(tree, tmp_path):
    """A folder with a notebook and the data beside it; nothing a client does may change it but the notebook itself."""
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    write(tmp_path / "nb.ipynb", CELLS)
    yield tmp_path
    assert not (tmp_path / "made.txt").exists(), "code wrote to the host"
    assert (tmp_path / "data.csv").read_text() == "a,b\n1,2\n"


def write(path, cells):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": KERNEL, "display_name": "Python 3 (sandbox)", "language": "python"}
    nbformat.write(notebook, path)


def said(path):
    """What the last cell of a notebook printed."""
    return "".join(output.get("text", "") for output in nbformat.read(path, 4).cells[-1].outputs)


def ended_well(done):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_jupyter_lists_the_kernelspec(run_module):
    listed = json.loads(ended_well(run_module("jupyter_client.kernelspecapp", "list", "--json")).stdout)
    assert listed["kernelspecs"][KERNEL]["spec"]["language"] == "python"


def test_nbclient_runs_a_notebook_beside_its_data(folder):
    from nbclient import NotebookClient

    notebook = nbformat.read(folder / "nb.ipynb", 4)
    NotebookClient(notebook, timeout=30, resources={"metadata": {"path": str(folder)}}).execute()
    assert notebook.cells[-1].outputs[0].text == "2 42\n"
    assert asyncio.run(sandboxes()) == []


def test_nbclient_tells_a_cells_error(tree, tmp_path):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = new_notebook(cells=[new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        NotebookClient(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_nbclient_notices_a_dead_kernel_at_once(tree, tmp_path):
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    notebook = new_notebook(cells=[new_code_cell("import os; os._exit(1)")])
    with pytest.raises(DeadKernelError):
        NotebookClient(notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_nbclient_interrupts_a_cell_that_takes_too_long(tree, tmp_path):
    from nbclient import NotebookClient

    notebook = new_notebook(cells=[new_code_cell("import time; time.sleep(100)"), new_code_cell("print('next')")])
    options = {"kernel_name": KERNEL, "timeout": 1, "interrupt_on_timeout": True, "allow_errors": True}
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, **options).execute()
    assert notebook.cells[0].outputs[-1].ename == "KeyboardInterrupt"
    assert notebook.cells[1].outputs[0].text == "next\n"


def test_nbclients_run_side_by_side(folder):
    from nbclient import NotebookClient

    async def run_all():
        notebooks = [nbformat.read(folder / "nb.ipynb", 4) for _ in range(4)]
        options = {"timeout": 60, "resources": {"metadata": {"path": str(folder)}}}
        await asyncio.gather(*(NotebookClient(notebook, **options).async_execute() for notebook in notebooks))
        return [notebook.cells[-1].outputs[0].text for notebook in notebooks]

    assert asyncio.run(run_all()) == ["2 42\n"] * 4


def test_papermill_runs_a_notebook_with_parameters(folder, run_module):
    write(folder / "parameters.ipynb", ["x = 1", "print(x * 6, open('data.csv').read(1))"])
    notebook = nbformat.read(folder / "parameters.ipynb", 4)
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, folder / "parameters.ipynb")
    command = ("papermill", "parameters.ipynb", "out.ipynb", "-p", "x", "7", "-k", KERNEL, "--cwd", folder)
    ended_well(run_module(*command, "--no-progress-bar", cwd=folder))
    assert said(folder / "out.ipynb") == "42 a\n"


def test_jupyter_execute_runs_a_notebook_in_place(folder, run_module):
    script = "from nbclient.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--inplace", "nb.ipynb"],
        cwd=folder, timeout=60, text=True, capture_output=True, check=False,
    )  # fmt: skip
    ended_well(done)
    assert said(folder / "nb.ipynb") == "2 42\n"


def test_nbconvert_executes_a_notebook(folder, run_module):
    ended_well(
        run_module("nbconvert", "--execute", "--to", "notebook", "--output", "out.ipynb", "nb.ipynb", cwd=folder)
    )
    assert said(folder / "out.ipynb") == "2 42\n"


def test_jupyter_run_runs_a_script(folder):
    (folder / "script.py").write_text("print(6 * 7, open('data.csv').read(1))")
    script = "from jupyter_client.runapp import RunApp; RunApp.launch_instance()"
    done = subprocess.run(
        [sys.executable, "-c", script, f"--kernel={KERNEL}", "script.py"],
        cwd=folder, timeout=60, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert "42 a" in ended_well(done).stdout


def test_the_simple_console_runs_lines_and_ends(folder, run_module):
    lines = "print(open('data.csv').read(1) + str(6 * 7))\nexit\n"
    done = run_module("jupyter_console", f"--kernel={KERNEL}", "--simple-prompt", cwd=folder, input=lines)
    assert done.returncode == 0, done.stderr
    assert "a42" in done.stdout
    assert asyncio.run(sandboxes()) == []


def test_the_console_in_a_terminal_takes_an_interrupt(folder):
    import pexpect

    command = ["-m", "jupyter_console", f"--kernel={KERNEL}", "--simple-prompt"]
    terminal = pexpect.spawn(sys.executable, command, cwd=str(folder), timeout=30, encoding="utf-8", echo=False)
    try:
        terminal.expect_exact("In [1]:")
        # in steps: CPython forgets a signal that comes between its last look and the system call, until that returns
        terminal.sendline("import time; print('g' + 'o', flush=True); [time.sleep(0.1) for _ in range(1000)]")
        terminal.expect_exact("go")
        terminal.sendintr()
        terminal.expect_exact("KeyboardInterrupt")
        terminal.expect_exact("In [2]:")
        terminal.sendline("print(6 * 7)")
        terminal.expect_exact("42")
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    asyncio.run(nothing_is_claimed())


def test_a_blocking_client_attaches_by_its_connection_file(new_kernel):
    from jupyter_client.blocking import BlockingKernelClient

    kernel = new_kernel()
    kernel.run("shared = 42")
    client = BlockingKernelClient(connection_file=kernel.manager.connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        outputs = []
        client.execute_interactive("print(shared)", timeout=30, output_hook=outputs.append)
        assert [message["content"]["text"] for message in outputs if message["msg_type"] == "stream"] == ["42\n"]
    finally:
        client.stop_channels()


def test_the_connection_file_is_the_owners_alone(new_kernel):
    assert os.stat(new_kernel().manager.connection_file).st_mode & 0o077 == 0


def test_one_kernel_is_driven_from_several_event_loops(tree, tmp_path):
    """The sync KernelManager and nbclient call a provisioner from whatever loop is there; nothing may stick to one."""
    manager = AsyncKernelManager(kernel_name=KERNEL)

    async def run(code):
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=30)
            reply = await client.execute_interactive(code, timeout=30, output_hook=lambda _message: None)
            return reply["content"]["status"]
        finally:
            client.stop_channels()

    asyncio.run(manager.start_kernel(cwd=str(tmp_path)))
    try:
        assert asyncio.run(run("x = 1")) == "ok"
        assert asyncio.run(manager.is_alive())
        asyncio.run(manager.interrupt_kernel())
        asyncio.run(manager.restart_kernel())
        assert asyncio.run(run("y = 2")) == "ok"
        asyncio.run(manager.signal_kernel(signal.SIGKILL))
        asyncio.run(dies(manager))
    finally:
        asyncio.run(manager.shutdown_kernel())
    assert asyncio.run(sandboxes()) == []
    manager.context.destroy(linger=0)


async def dies(manager):
    async with asyncio.timeout(10):
        while await manager.is_alive():  # noqa: ASYNC110 - another process has no event for it
            await asyncio.sleep(0.02)


def test_kernels_of_several_threads_do_not_meet(tree, tmp_path):
    found = []

    def work(number):
        async def one():
            manager = AsyncKernelManager(kernel_name=KERNEL)
            await manager.start_kernel(cwd=str(tmp_path))
            client = manager.client()
            client.start_channels()
            try:
                await client.wait_for_ready(timeout=30)
                texts = []

                def hook(message):
                    texts.append(message["content"].get("text", ""))

                await client.execute_interactive(f"print({number})", timeout=30, output_hook=hook)
                found.append("".join(texts))
            finally:
                client.stop_channels()
                await manager.shutdown_kernel(now=True)
                manager.context.destroy(linger=0)

        asyncio.run(one())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["0\n", "1\n", "2\n", "3\n"]


def test_shutting_down_twice_is_quiet(tree, tmp_path):
    manager = KernelManager(kernel_name=KERNEL)
    manager.start_kernel(cwd=str(tmp_path))
    manager.shutdown_kernel(now=True)
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    assert asyncio.run(sandboxes()) == []
    manager.context.destroy(linger=0)


SLEEPER = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="sandbox-python", startup_timeout=60)
print("started", flush=True)
{rest}
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_frees_its_sandbox_at_once(tree, tmp_path, number):
    command = [sys.executable, "-c", SLEEPER.format(rest="sys.stdin.read()")]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"started\n"
        assert len(asyncio.run(sandboxes())) == 1
        client.send_signal(number)
        asyncio.run(nothing_is_claimed(timeout_s=10))


def test_a_client_that_forgets_its_kernel_frees_it_at_its_end(tree, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SLEEPER.format(rest="")]
    done = subprocess.run(command, cwd=tmp_path, timeout=60, capture_output=True, text=True, check=False)
    assert done.stdout == "started\n"
    asyncio.run(nothing_is_claimed(timeout_s=10))


def test_a_client_that_fails_at_exit_is_not_held_up(tree, tmp_path):
    """jupyter_client shuts kernels down at exit, when no executor can be used any more."""
    rest = "import atexit; client.stop_channels(); atexit.register(manager.shutdown_kernel, now=True)"
    command = [sys.executable, "-W", "ignore", "-c", SLEEPER.format(rest=rest)]
    done = subprocess.run(command, cwd=tmp_path, timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert asyncio.run(sandboxes()) == []


def test_an_interrupted_batch_frees_its_sandbox(tree, tmp_path):
    write(tmp_path / "long.ipynb", ["open('/sandbox/started', 'w')\nimport time; time.sleep(100)"])
    script = "from nbclient.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", script, "long.ipynb"], cwd=tmp_path, stderr=subprocess.PIPE) as client:
        wait_until(lambda: asyncio.run(sandboxes()) and asyncio.run(sandboxes())[0].kernels, timeout_s=30)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=30)
    asyncio.run(nothing_is_claimed(timeout_s=10))
