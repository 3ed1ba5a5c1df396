"""Kernels that are executed, not forked: other arguments, other programs. Their bytes go through the worker's relay."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.kernels import several
from tests.server.brokers import sandboxes

MIB = 1 << 20
FLAG = "--InteractiveShell.cache_size=77"
LAUNCH = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
SPECS = {
    "flag": {"argv": [*LAUNCH, "--IPKernelApp.exec_lines=flag = 42"]},
    "signal": {"argv": [*LAUNCH, FLAG], "interrupt_mode": "signal"},
    "message": {"argv": [*LAUNCH, FLAG], "interrupt_mode": "message"},
    "resource": {"argv": [*LAUNCH, "--IPKernelApp.exec_lines=resource_dir = '{resource_dir}'"]},
    "dead": {"argv": ["python", "-c", "import sys; print('cannot go on', file=sys.stderr); sys.exit(9)"]},
    "late": {"argv": ["sh", "-c", "sleep 1; exec python3 -m ipykernel_launcher -f {connection_file}"]},
}


@pytest.fixture(scope="module")
def specs(add_kernelspec):
    for name, spec in SPECS.items():
        add_kernelspec(f"exec-{name}", env={"OF_THE_SPEC": "yes"}, **spec)


@pytest.fixture(scope="module")
def executed(tree, specs, tmp_path_factory):
    """One executed kernel for the tests that leave it as it was."""
    with several(tmp_path_factory.mktemp("notebooks")) as start:
        yield start("exec-message")


@pytest.fixture
def start(tree, specs, tmp_path):
    with several(tmp_path) as start:
        yield lambda name: start(f"exec-{name}")


def test_an_executed_kernel_runs_code_in_the_notebooks_directory(executed):
    said = executed.run("import os; print(os.getcwd().startswith('/workspace/'), os.environ['OF_THE_SPEC'], 6 * 7)")
    assert said == "True yes 42\n"


def test_it_is_really_executed(executed):
    command = executed.run("import os; print(open(f'/proc/{os.getpid()}/cmdline').read().split(chr(0))[1:-1])")
    assert FLAG in command


def test_more_arguments_of_a_kernelspec_arrive(start):
    assert start("flag").run("print(flag)") == "42\n"


def test_the_kernelspecs_directory_is_filled_in_and_cannot_be_changed(start, tree):
    kernel = start("resource")
    assert kernel.run("import os; print(resource_dir, os.listdir(resource_dir))") == "/run/kernelspec ['kernel.json']\n"
    attempt = "try:\n    open(resource_dir + '/kernel.json', 'a')\nexcept OSError as error:\n    print(error.errno)"
    assert kernel.run(attempt) == "30\n"


@pytest.mark.parametrize("mode", ["signal", "message"])
def test_interrupt_ends_the_cell(start, mode):
    kernel = start(mode)
    msg_id = kernel.client.execute("print('go', flush=True)\nwhile True: pass", stop_on_error=False)
    kernel.printed(msg_id, "go")
    kernel.manager.interrupt_kernel()
    assert kernel.reply_to(msg_id)["ename"] == "KeyboardInterrupt"
    assert kernel.run("print('again')") == "again\n"


def test_restart_keeps_files_and_identity(start):
    kernel = start("message")
    before = kernel.manager.get_connection_info()
    kernel.run("open('/sandbox/kept', 'w').write('kept'); forgotten = 1")
    kernel.restart()
    assert kernel.run("print('forgotten' in globals(), open('/sandbox/kept').read())") == "False kept\n"
    assert kernel.manager.get_connection_info() == before


def test_many_restarts_leave_one_kernel_and_no_relay_behind(start):
    kernel = start("message")
    count = "import glob; print(len(glob.glob('/proc/[0-9]*')), len(glob.glob('/proc/self/fd/*')))"
    kernel.restart()
    first = kernel.run(count)
    for _ in range(3):
        kernel.restart()
    assert kernel.run(count).split()[0] == first.split()[0]
    alive = {sandbox.sandbox: len(sandbox.kernels) for sandbox in asyncio.run(sandboxes())}
    assert alive[kernel.manager.provisioner.sandbox_id] == 1


def test_fifty_mebibytes_of_text_arrive_whole(executed):
    said = executed.execute(f"for _ in range(50):\n    print('x' * ({MIB} - 1))", timeout_s=60)
    assert sum(len(content["text"]) for content in said.of("stream")) == 50 * MIB


def test_ten_megabytes_of_display_data_arrive_whole(executed):
    code = "from IPython.display import display\ndisplay({'text/plain': 'y' * 10_000_000}, raw=True)"
    (shown,) = executed.execute(code).of("display_data")
    assert len(shown["data"]["text/plain"]) == 10_000_000


def test_a_client_that_does_not_read_does_not_stop_the_others(executed):
    """What waits for a slow reader is bounded in the relay; shell and control must stay quick."""
    msg_id = executed.client.execute(f"for _ in range(200):\n    print('x' * {MIB})\nprint('end')")
    started = time.monotonic()
    info = executed.control("kernel_info_request", {})
    assert info["status"] == "ok"
    assert time.monotonic() - started < 20
    assert executed.reply_to(msg_id, timeout_s=60)["status"] == "ok"
    executed.wait_for(
        lambda message: (
            message["parent_header"].get("msg_id") == msg_id and message["content"].get("execution_state") == "idle"
        ),
        timeout_s=60,
    )


def test_input_comms_and_completion_work(executed):
    msg_id = executed.client.execute("print('hello', input('name? '))", allow_stdin=True)
    executed.wait_for(lambda message: message["msg_type"] == "input_request", "stdin")
    executed.client.input("Ada")
    executed.printed(msg_id, "hello Ada")
    assert executed.reply_to(msg_id)["status"] == "ok"
    assert any("import" in match for match in executed.reply_to(executed.client.complete("impo"))["matches"])


def test_the_heartbeat_beats(executed):
    executed.client.hb_channel.unpause()
    assert executed.client.is_alive()
    deadline = time.monotonic() + 10
    while not executed.client.hb_channel.is_beating():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_kernel_that_takes_its_time_to_bind_is_waited_for(start):
    assert start("late").run("print(6 * 7)") == "42\n"


def test_a_kernel_that_ends_at_once_says_why(tree, specs, tmp_path):
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="exec-dead")
    manager.start_kernel(cwd=str(tmp_path))
    try:
        deadline = time.monotonic() + 10
        while manager.is_alive():
            assert time.monotonic() < deadline, "its death was not noticed"
            time.sleep(0.02)
        said = manager.provisioner.last_words()
        assert "exit status 9" in said
        assert "cannot go on" in said
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def test_a_kernelspecs_own_files_can_be_run(tree, add_kernelspec, tmp_path):
    """Kernelspecs bring scripts and name them by {resource_dir}."""
    name = add_kernelspec("exec-script", argv=["python", "{resource_dir}/launch.py", "-f", "{connection_file}"])
    script = "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()\n"
    (tree.kernelspecs / name / "launch.py").write_text(script)
    with several(tmp_path) as start:
        assert start(name).run("print(6 * 7)") == "42\n"
