"""Interrupts, handlers of signals and forks at any moment: no message is spoiled, nothing is lost, and nobody hangs.

ipykernel by itself spoils a message in some hundred interrupts, and hangs in the fork.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.contract.test_kernel_order import FORK, Kernel, engine, kernel, text  # noqa: F401

pytestmark = pytest.mark.timeout(180)

COUNT = "i = 0\nwhile True:\n    print(i, flush=True)\n    i += 1"


def test_an_interrupt_beside_flushes_ends_the_execution_and_loses_nothing(kernel):  # noqa: F811
    for attempt in [*range(20)] * 4:
        msg_id = kernel.send(COUNT)
        kernel.printed(msg_id, f"{attempt * 5}\n")
        kernel.interrupt()
        assert kernel.reply(msg_id)["ename"] == "KeyboardInterrupt"
        outputs = kernel.outputs(msg_id)
        assert outputs[-2:] == [("error", "KeyboardInterrupt"), ("status", "idle")]
        lines = text(outputs).splitlines()
        assert lines == [f"{number}" for number in range(len(lines))]
        assert kernel.run("print(i)") in ([("stdout", f"{len(lines) - more}\n")] for more in (0, 1))


ALARM = """
import signal, sys
def ring(*_):
    global rang
    rang = True
    raise TimeoutError("rang")
rang, i = False, 0
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, AFTER_S)
while not rang:  # whoever formats a display may swallow the error
    display(i)
    sys.stdout.write(f"line {i}\\n")
    i += 1
"""


def test_a_handler_that_raises_anywhere_spoils_no_message(kernel):  # noqa: F811
    for attempt in [*range(20)] * 6:
        msg_id = kernel.send(ALARM.replace("AFTER_S", f"{0.002 + attempt * 0.001}"))
        kernel.reply(msg_id)
        outputs = kernel.outputs(msg_id)
        lines = text(outputs).splitlines()
        assert lines == [f"line {number}" for number in range(len(lines))]
        said = kernel.run("print('a')\ndisplay(1)\n2")
        assert said == [("stdout", "a\n"), ("display_data", "1"), ("execute_result", "2")]


def test_a_fork_while_a_thread_prints_ends(kernel):  # noqa: F811
    kernel.may_be_late = "child\n"
    code = FORK.replace("        with between:\n            sys", "        sys").replace(
        "with between:\n    child", "child"
    )
    assert "with between" not in code
    for _ in range(30):
        msg_id = kernel.send(code)
        assert kernel.reply(msg_id)["status"] == "ok"
        kernel.outputs(msg_id)
        kernel.printed(msg_id, "child\n")


def test_output_that_cannot_be_sent_costs_no_reply(kernel):  # noqa: F811
    for code in ("print('\\ud800')", "import sys; print('\\ud800', file=sys.stderr)"):
        assert kernel.reply(kernel.send(code))["status"] == "ok"
    assert kernel.run("print(1)")[-1] == ("stdout", "1\n")


@pytest.fixture
def busy_machine():
    """Others want each processor more than once, so that a thread that is woken has to wait."""
    endless = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(endless) for _ in range(3 * (os.cpu_count() or 1))]
    yield
    for each in others:
        each.kill()
        each.wait()


def test_an_interrupt_that_a_thread_of_the_kernel_sends_ends_a_sleep(kernel, busy_machine):  # noqa: F811
    """That thread once took the signal itself, and the sleep went on."""
    for _ in range(20):
        msg_id = kernel.send("import time; print('go', flush=True); time.sleep(60)")
        kernel.printed(msg_id, "go")
        assert kernel.control("interrupt_request")["status"] == "ok"
        assert kernel.reply(msg_id)["ename"] == "KeyboardInterrupt"
        kernel.outputs(msg_id)


WHO_GETS_IT = """
import os, signal
for thread in os.listdir("/proc/self/task"):
    status = dict(line.split(":", 1) for line in open(f"/proc/self/task/{thread}/status"))
    if not int(status["SigBlk"], 16) >> signal.SIGINT - 1 & 1:
        print("main" if int(thread) == os.getpid() else "other", end=" ")
"""


def test_interrupts_are_the_main_threads_until_somebody_wants_subshells(kernel):  # noqa: F811
    assert kernel.run(WHO_GETS_IT) == [("stdout", "main ")]
    kernel.new_subshell()
    assert sorted(text(kernel.run(WHO_GETS_IT)).split()) == ["main", "other", "other"]
