"""Interrupts, handlers of signals and forks at any moment: no message is spoiled, nothing is lost, and nobody hangs.

ipykernel by itself spoils a message in some hundred interrupts, and hangs in the fork.
"""

from __future__ import annotations

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
