"""What clients of a kernel rely on, however its process moves messages between threads: order, completeness, answers.

Every message is read with the session's key: one that is malformed fails the test that meets it. Nothing here knows
which thread does what. What the kernel has to wait for comes over another subshell, so no test guesses a time.
"""

from __future__ import annotations

import os
import signal

import pytest

from jupyter_sandbox.broker.app import ENGINE_VARIABLE

TIMEOUT_S = 30
BUSY, IDLE = ("status", "busy"), ("status", "idle")


@pytest.fixture(scope="module")
def engine():
    return os.environ[ENGINE_VARIABLE]  # one is enough: the kernel's process is the same in all of them


@pytest.fixture
def kernel(broker, claim):
    """A kernel of a test's own; at the end nothing may have come for a request after its `idle`."""
    made = Kernel(claim())
    yield made
    made.settled()


class Kernel:
    """The client of a kernel that drops no message."""

    def __init__(self, box) -> None:
        self.client = box.kernel
        self.interrupt = lambda: box.signal(signal.SIGINT)
        self.ended: set[str] = set()
        self.published: dict[str, list[dict]] = {}
        self.may_be_late: str | None = None
        self.settled()

    def ask(self, msg_type, content, *, channel="shell", subshell=None) -> str:
        message = self.client.session.msg(msg_type, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        getattr(self.client, f"{channel}_channel").send(message)
        return message["header"]["msg_id"]

    def send(self, code, *, subshell=None, **options) -> str:
        """Ask to execute code; return the request's id. An error aborts nothing unless that is asked for."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        return self.ask("execute_request", content | {"stop_on_error": False} | options, subshell=subshell)

    def read(self, channel) -> dict:
        """Return the next message of a channel; raises ValueError when it is none."""
        return getattr(self.client, f"get_{channel}_msg")(timeout=TIMEOUT_S)

    def printed(self, msg_id, words) -> None:
        self.until(lambda: words in "".join(texts(self.published.get(msg_id, ()))))

    def until(self, condition) -> None:
        while not condition():
            message = self.read("iopub")
            parent, content = message["parent_header"].get("msg_id"), message["content"]
            late = self.may_be_late and self.may_be_late in content.get("text", "")
            assert late or parent not in self.ended, f"after idle: {message['msg_type']} {content}"
            self.published.setdefault(parent, []).append(message)
            if parent and content.get("execution_state") == "idle":
                self.ended.add(parent)

    def outputs(self, msg_id) -> list[tuple[str, object]]:
        """Wait for a request's `idle`; return what was published for it, as `shown`."""
        self.until(lambda: msg_id in self.ended)
        return shown(self.published[msg_id])

    def reply(self, msg_id, channel="shell") -> dict:
        message = self.read(channel)
        assert message["parent_header"]["msg_id"] == msg_id, f"another reply: {message['content']}"
        return message["content"]

    def run(self, code, *, subshell=None) -> list[tuple[str, object]]:
        """Run code that must not fail; return what came between `execute_input` and `idle`."""
        msg_id = self.send(code, subshell=subshell)
        assert self.reply(msg_id)["status"] == "ok"
        first, second, *between, last = self.outputs(msg_id)
        assert (first, second, last) == (BUSY, ("execute_input", code), IDLE)
        return between

    def answered(self, msg_id, words) -> None:
        assert self.reply(msg_id)["status"] == "ok"
        assert text(self.outputs(msg_id)) == words

    def control(self, msg_type, **content) -> dict:
        return self.reply(self.ask(msg_type, content, channel="control"), "control")

    def new_subshell(self) -> str:
        return self.control("create_subshell_request")["subshell_id"]

    def settled(self) -> None:
        """Nothing is left of what was asked before: no reply, and nothing published after an `idle`."""
        assert self.run("print('settled')") == [("stdout", "settled\n")]


def shown(messages) -> list[tuple[str, object]]:
    """What messages say; pieces of a stream that follow each other as one, as clients show them."""
    found: list[tuple[str, object]] = []
    for message in messages:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            name, text = content["name"], content["text"]
            if found and found[-1][0] == name:
                text = found.pop()[1] + text
            found.append((name, text))
        elif kind in ("display_data", "execute_result"):
            found.append((kind, content["data"].get("text/plain")))
        else:
            found.append((kind, content.get("execution_state") or content.get("code") or content.get("ename")))
    return found


def text(outputs) -> str:
    return "".join(said for kind, said in outputs if kind == "stdout")


def texts(messages) -> list[str]:
    return [message["content"]["text"] for message in messages if message["msg_type"] == "stream"]


CELL = "import sys\nprint('out', {0})\ndisplay({0})\nprint('err', {0}, file=sys.stderr)\n-{0}"


def test_everything_of_an_execution_comes_in_its_order_and_nothing_after_its_idle(kernel):
    for number in range(300):
        output = [("stdout", f"out {number}\n"), ("display_data", f"{number}"), ("stderr", f"err {number}\n")]
        assert kernel.run(CELL.format(number)) == [*output, ("execute_result", f"{-number}")]


THREADS = """
import sys, threading
def tell(name):
    for number in range(2000):
        sys.stdout.write(f"{name} {number}\\n")
threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
for thread in threads: thread.start()
number = 0
while any(thread.is_alive() for thread in threads) or number < 500:
    print(f"main {number}\\n", end="", flush=True)
    number += 1
for thread in threads: thread.join()
"""


def test_threads_that_print_beside_flushes_lose_nothing_and_keep_their_order(kernel):
    lines = text(kernel.run(THREADS)).splitlines()
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(2000)]
    ours = [line for line in lines if line.startswith("main")]
    assert ours == [f"main {number}" for number in range(len(ours))]
    assert len(lines) == len(ours) + 4 * 2000


def test_what_is_printed_before_and_after_a_display_stays_there(kernel):
    code = "for n in range(100):\n    print('a', n, flush=n % 2 == 0)\n    display(n)\n    print('b', n)"
    expected = [("stdout", "a 0\n")]
    for number in range(100):
        after = f"b {number}\n" + (f"a {number + 1}\n" if number < 99 else "")
        expected += [("display_data", f"{number}"), ("stdout", after)]
    assert kernel.run(code) == expected


FORK = """
import os, sys, threading
ended, between = threading.Event(), threading.Lock()
def tell():
    number = 0
    while not ended.is_set():
        with between:
            sys.stdout.write(f"thread {number}\\n")
        number += 1
thread = threading.Thread(target=tell)
thread.start()
with between:
    child = os.fork()
if child == 0:
    sys.stdout.write("child\\n")
    sys.stdout.flush()
    os._exit(0)
status = os.waitpid(child, 0)[1]
ended.set()
thread.join()
print("parent", status)
"""


def test_a_fork_between_prints_of_a_thread_ends_and_both_are_heard(kernel):
    """A child may say again what its parent had not sent, and after `idle`: its output has a way of its own."""
    kernel.may_be_late = "child\n"
    for _ in range(30):
        msg_id = kernel.send(FORK)
        assert kernel.reply(msg_id)["status"] == "ok"
        assert kernel.outputs(msg_id)
        kernel.printed(msg_id, "child\n")
        ours = [said for said in texts(kernel.published[msg_id]) if not said.endswith("child\n")]
        *lines, last = "".join(ours).splitlines()
        assert last == "parent 0"
        assert lines == [f"thread {number}" for number in range(len(lines))]


COUNT = "import time\ni = 0\nwhile True:\n    print(i)\n    time.sleep(0.0001)\n    i += 1"


def test_an_interrupt_between_prints_ends_the_execution_and_loses_nothing(kernel):
    for attempt in range(20):
        msg_id = kernel.send(COUNT)
        kernel.printed(msg_id, f"{attempt * 5}\n")
        kernel.interrupt()
        assert kernel.reply(msg_id)["ename"] == "KeyboardInterrupt"
        outputs = kernel.outputs(msg_id)
        assert outputs[-2:] == [("error", "KeyboardInterrupt"), IDLE]
        lines = text(outputs).splitlines()
        assert lines == [f"{number}" for number in range(len(lines))]
        assert kernel.run("print(i)") in ([("stdout", f"{len(lines) - more}\n")] for more in (0, 1))


ALARM = """
import signal, sys
def ring(_, frame):
    if frame.f_globals is not globals() or frame.f_code.co_name == "ring":
        signal.setitimer(signal.ITIMER_REAL, 0.0001)  # again when this cell runs itself
    else:
        raise TimeoutError
i, _ = 0, signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, AFTER_S)
while True:
    display(i)
    sys.stdout.write(f"line {i}\\n")
    i += 1
"""


def test_a_handler_that_raises_between_displays_and_prints_spoils_no_message(kernel):
    for attempt in range(20):
        msg_id = kernel.send(ALARM.replace("AFTER_S", f"{0.002 + attempt * 0.001}"))
        assert kernel.reply(msg_id)["ename"] == "TimeoutError"
        outputs = kernel.outputs(msg_id)
        lines = text(outputs).splitlines()
        assert lines == [f"line {number}" for number in range(len(lines))]
        displays = [said for kind, said in outputs if kind == "display_data"]
        assert displays == [f"{number}" for number in range(len(displays))]
        assert 0 <= len(displays) - len(lines) <= 1
        said = kernel.run("print('a')\ndisplay(1)\n2")
        assert said == [("stdout", "a\n"), ("display_data", "1"), ("execute_result", "2")]


WAIT = """
import threading, time
gate = threading.Event()
print("waits", flush=True)
while not gate.is_set():
    time.sleep(0.001)
"""


def begin(kernel, code, **options) -> str:
    msg_id = kernel.send(code, **options)
    kernel.printed(msg_id, "waits")
    return msg_id


def replies(kernel, count) -> list[tuple[str, str]]:
    found = [kernel.read("shell") for _ in range(count)]
    return [(message["parent_header"]["msg_id"], message["content"]["status"]) for message in found]


def test_an_error_aborts_what_waits_and_nothing_that_is_sent_when_it_is_idle(kernel):
    """The gate is opened over the same channel, after the five: they wait when the second fails."""
    subshell = kernel.new_subshell()
    for number in range(30):
        first = begin(kernel, WAIT, stop_on_error=True)
        failing = kernel.send("1 / 0", stop_on_error=True)
        waiting = [kernel.send(f"print('no', {number})", stop_on_error=True) for _ in range(3)]
        opening = kernel.send("gate.set()", subshell=subshell)
        main = [(first, "ok"), (failing, "error"), *((msg_id, "aborted") for msg_id in waiting)]
        assert [reply for reply in replies(kernel, 6) if reply[0] != opening] == main
        for msg_id in waiting:
            assert kernel.outputs(msg_id) == [BUSY, IDLE]
        assert kernel.run(f"print('yes', {number})") == [("stdout", f"yes {number}\n")]
        alone = kernel.send("1 / 0", stop_on_error=True)
        assert kernel.reply(alone)["status"] == "error"
        kernel.outputs(alone)
        assert kernel.run(f"print('again', {number})") == [("stdout", f"again {number}\n")]


def test_a_subshell_answers_while_the_main_shell_is_busy(kernel):
    first = begin(kernel, WAIT)
    subshell = kernel.new_subshell()
    assert kernel.control("list_subshell_request") == {"status": "ok", "subshell_id": [subshell]}
    waiting = [kernel.send(f"print({number})") for number in range(5)]
    said = kernel.run("print('sub')\ndisplay(1)\n2", subshell=subshell)
    assert said == [("stdout", "sub\n"), ("display_data", "1"), ("execute_result", "2")]
    assert first not in kernel.ended
    unknown = kernel.send("3", subshell="no-such-subshell")
    assert kernel.reply(unknown)["status"] == "error"
    assert kernel.outputs(unknown) == [BUSY, IDLE]
    opening = kernel.send("gate.set()", subshell=subshell)
    found = [reply for reply in replies(kernel, 7) if reply[0] != opening]
    assert found == [(msg_id, "ok") for msg_id in (first, *waiting)]
    assert "".join(text(kernel.outputs(msg_id)) for msg_id in waiting) == "0\n1\n2\n3\n4\n"
    assert kernel.control("delete_subshell_request", subshell_id=subshell)["status"] == "ok"
    assert kernel.control("delete_subshell_request", subshell_id=subshell)["status"] == "error"
    assert kernel.control("list_subshell_request") == {"status": "ok", "subshell_id": []}


def test_main_shell_and_subshell_take_turns(kernel):
    subshell, other = kernel.new_subshell(), kernel.new_subshell()
    for number in range(50):
        where = (None, subshell, None, other)[number % 4]
        name = f"subshell-{where}" if where else "MainThread"
        said = kernel.run(f"import threading\nprint({number})\nthreading.current_thread().name", subshell=where)
        assert said == [("stdout", f"{number}\n"), ("execute_result", repr(name))]


COMM = """
said = []
def opened(comm, message):
    comm.on_msg(lambda message: said.append(message["content"]["data"]["number"]))
get_ipython().kernel.comm_manager.register_target("recorder", opened)
"""
AWAIT = """
import asyncio
said.clear()
print("waits", flush=True)
while len(said) < 3:
    await asyncio.sleep(0.001)
print(said)
"""


def test_a_comm_message_is_handled_while_a_cell_awaits(kernel):
    kernel.run(COMM)
    opening = kernel.ask("comm_open", {"comm_id": "c", "target_name": "recorder", "data": {}})
    assert kernel.outputs(opening) == [BUSY, IDLE]
    for _ in range(10):
        msg_id = begin(kernel, AWAIT)
        for number in range(3):
            kernel.ask("comm_msg", {"comm_id": "c", "data": {"number": number}})
        after = kernel.send("print('after')")
        kernel.answered(msg_id, "waits\n[0, 1, 2]\n")
        kernel.answered(after, "after\n")


def test_a_flood_of_requests_is_answered_in_order(kernel):
    first = kernel.send("import time; time.sleep(1)")
    sent = [kernel.send(f"print({number})") for number in range(1500)]
    assert kernel.reply(first)["status"] == "ok"
    for number, msg_id in enumerate(sent):
        kernel.answered(msg_id, f"{number}\n")
    assert [msg_id for msg_id in kernel.published if msg_id in {*sent}] == sent, "as they begin"


def test_what_is_printed_before_a_question_is_there_when_it_is_asked(kernel):
    for number in range(20):
        msg_id = kernel.send(f"print('before', {number})\nanswer = input('name? ')\nprint(answer)", allow_stdin=True)
        request = kernel.read("stdin")
        assert (request["msg_type"], request["content"]["prompt"]) == ("input_request", "name? ")
        assert request["parent_header"]["msg_id"] == msg_id
        kernel.printed(msg_id, f"before {number}\n")
        kernel.client.input(f"Ada {number}")
        kernel.answered(msg_id, f"before {number}\nAda {number}\n")


TOOLKIT = """
import time
from ipykernel import eventloops
turns = 0
@eventloops.register_integration("toolkit")
def turn(kernel):
    global turns
    stream = eventloops.get_shell_stream(kernel)
    end = time.monotonic() + kernel._poll_interval
    while time.monotonic() < end and not stream.flush(limit=1):
        turns += 1
        time.sleep(0.001)
"""


@pytest.mark.parametrize("gui", ["asyncio", "toolkit"])
def test_executions_work_beside_the_loop_of_a_gui(kernel, gui):
    kernel.run(TOOLKIT)
    kernel.run(f"%gui {gui}")
    for number in range(50):
        said = kernel.run(f"print({number})\n{number}")
        assert said == [("stdout", f"{number}\n"), ("execute_result", f"{number}")]
    sent = [kernel.send(f"print({number})") for number in range(50)]
    for number, msg_id in enumerate(sent):
        kernel.answered(msg_id, f"{number}\n")
    assert gui != "toolkit" or int(text(kernel.run("print(turns)"))) > 0
    kernel.run("get_ipython().enable_gui(None)")
