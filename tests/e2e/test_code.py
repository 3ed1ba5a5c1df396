"""What people's code does in a notebook: magics, plots, processes, threads, the event loop."""

from __future__ import annotations

import base64
import re

import pytest


def test_shell_escapes_run_in_the_kernels_directory(kernel):
    kernel.run("open('here.txt', 'w').close()")
    assert "here.txt" in kernel.run("!ls")
    assert kernel.run("files = !ls\nprint('here.txt' in files)") == "True\n"


def test_bash_cells_run(kernel):
    assert kernel.run("%%bash\nfor i in 1 2 3; do echo $i; done\n") == "1\n2\n3\n"


def test_a_failing_bash_cell_is_an_error(kernel):
    assert kernel.execute("%%bash\nexit 3").reply["ename"] == "CalledProcessError"


def test_timeit_measures(kernel):
    assert re.search(r"per loop", kernel.run("%timeit -n 10 -r 2 sum(range(10))"))


def test_files_written_by_a_magic_can_be_run(kernel):
    kernel.run("%%writefile tool.py\nprint('from the tool')\n")
    assert kernel.run("%run tool.py") == "from the tool\n"
    assert kernel.run("import sys\n!{sys.executable} tool.py").strip() == "from the tool"


def test_changing_the_directory_lasts(kernel):
    kernel.run("%cd -q /sandbox")
    assert kernel.run("import os; print(os.getcwd())") == "/sandbox\n"
    kernel.run("%cd -q -")


def test_a_plot_is_shown_as_an_image(kernel):
    pytest.importorskip("matplotlib")
    result = kernel.execute("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);", timeout_s=60)
    assert result.status == "ok", result
    (shown,) = result.of("display_data")
    assert base64.b64decode(shown["data"]["image/png"]).startswith(b"\x89PNG")


def test_a_dataframe_is_shown_as_a_table(kernel):
    pytest.importorskip("pandas")
    result = kernel.execute("import pandas\npandas.DataFrame({'a': [1, 2]})", timeout_s=60)
    (shown,) = result.of("execute_result")
    assert "<table" in shown["data"]["text/html"]


def test_await_works_in_a_cell(kernel):
    kernel.run("import asyncio\nasync def f(x):\n    await asyncio.sleep(0.01)\n    return x")
    assert kernel.run("print(await asyncio.gather(f(1), f(2)))") == "[1, 2]\n"


def test_a_background_task_goes_on_between_cells(kernel):
    kernel.run("import asyncio; done = asyncio.Event()")
    kernel.run("task = asyncio.create_task(asyncio.sleep(0.05)); task.add_done_callback(lambda _: done.set())")
    assert kernel.run("async with asyncio.timeout(10): print(await done.wait())") == "True\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works(kernel, method):
    code = (
        "import math, multiprocessing\n"
        f"with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "    print(pool.map(math.sqrt, [1, 4, 9]))\n"
    )
    assert kernel.run(code) == "[1.0, 2.0, 3.0]\n"


def test_multiprocessing_shares_memory_and_queues(kernel):
    code = (
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "queue, number = context.Queue(), context.Value('i', 1)\n"
        "def work():\n    number.value += 41\n    queue.put('done')\n"
        "process = context.Process(target=work); process.start()\n"
        "print(queue.get(timeout=10), number.value); process.join()\n"
    )
    assert kernel.run(code) == "done 42\n"


def test_output_of_threads_reaches_the_cell(kernel):
    code = (
        "import threading\n"
        "threads = [threading.Thread(target=print, args=(f'thread {i}',)) for i in range(20)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads];\n"
    )
    said = kernel.run(code)
    assert {f"thread {i}" for i in range(20)} <= set(re.findall(r"thread \d+", said))


def test_output_of_child_processes_reaches_the_cell(kernel):
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(\"from a child\")'], check=True)"
    result = kernel.execute(code + "\nimport time\nfor _ in range(50): time.sleep(0.02)")
    assert "from a child" in result.text()


def test_packages_of_the_environment_can_be_imported(kernel):
    assert kernel.run("import IPython, zmq, traitlets; print('here')") == "here\n"


def test_random_numbers_of_two_kernels_differ(kernel, new_kernel):
    code = "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(4).hex())"
    other = new_kernel()
    assert set(kernel.run(code).split()) & set(other.run(code).split()) == set()


def test_a_deep_recursion_is_an_error_and_not_a_crash(kernel):
    assert kernel.execute("def f(): return f()\nf()").reply["ename"] == "RecursionError"


def test_exit_codes_of_commands_are_known(kernel):
    assert kernel.run("import subprocess; print(subprocess.run(['sh', '-c', 'exit 7']).returncode)") == "7\n"


@pytest.mark.parametrize(
    "code",
    ["import os; _ = os.write(1, b'all\\n')", "import os; _ = os.system('echo all')"],
    ids=["descriptor", "program"],
)
def test_what_was_written_without_python_comes_before_the_end_of_its_cell(kernel, code):
    """Once: the stream was flushed before the thread that reads the pipe had taken it, and a client missed it."""
    assert [kernel.run(code) for _ in range(40)] == ["all\n"] * 40


def test_temporary_files_work(kernel):
    assert (
        kernel.run("import tempfile\nwith tempfile.TemporaryFile() as file: print(file.write(b'x' * 1000))") == "1000\n"
    )


def test_sqlite_and_locks_work_on_the_sandboxs_disk(kernel):
    code = (
        "import sqlite3\n"
        "with sqlite3.connect('/sandbox/db.sqlite') as db:\n"
        "    db.execute('create table t (x)'); db.execute('insert into t values (1)')\n"
        "print(sqlite3.connect('/sandbox/db.sqlite').execute('select * from t').fetchall())\n"
    )
    assert kernel.run(code) == "[(1,)]\n"


def test_writing_to_a_closed_pipe_is_an_error_of_the_cell(kernel):
    """Once: the kernel died of SIGPIPE, which Python ignores when it starts, and a fork does not start."""
    code = "import os\nreader, writer = os.pipe()\nos.close(reader)\nos.write(writer, b'x')"
    assert kernel.execute(code).reply["ename"] == "BrokenPipeError"
    said = kernel.run("import subprocess; print(subprocess.run('yes | head -n 1', shell=True).returncode)")
    assert sorted(said.splitlines()) == ["0", "y"]  # what a program wrote is read beside what is printed after it
