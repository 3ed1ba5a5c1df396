"""Every part of Jupyter's messaging protocol that clients use, with a kernel in a sandbox."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path

import pytest

from tests.e2e.kernels import TIMEOUT_S

MIB = 1 << 20


def test_kernel_info_names_language_debugger_and_subshells(kernel):
    info = kernel.reply_to(kernel.client.kernel_info())
    assert (info["language_info"]["name"], info["implementation"]) == ("python", "ipython")
    assert set(info["supported_features"]) >= {"kernel subshells", "debugger"}


def test_input_asks_the_person(kernel):
    msg_id = kernel.client.execute("print('hello', input('name? '))", allow_stdin=True)
    request = kernel.wait_for(lambda message: message["msg_type"] == "input_request", "stdin")
    assert request["content"] == {"prompt": "name? ", "password": False}
    kernel.client.input("Ada")
    kernel.printed(msg_id, "hello Ada")
    assert kernel.reply_to(msg_id)["status"] == "ok"


def test_getpass_asks_for_a_password(kernel):
    msg_id = kernel.client.execute("import getpass; secret = getpass.getpass('key? ')", allow_stdin=True)
    request = kernel.wait_for(lambda message: message["msg_type"] == "input_request", "stdin")
    assert request["content"] == {"prompt": "key? ", "password": True}
    kernel.client.input("s3cret")
    assert kernel.reply_to(msg_id)["status"] == "ok"
    assert kernel.run("print(secret)") == "s3cret\n"


def test_input_without_a_person_is_an_error(kernel):
    assert kernel.execute("input()", allow_stdin=False).reply["ename"] == "StdinNotImplementedError"


COMM_TARGET = """
from ipykernel.comm import Comm
from IPython import get_ipython

def opened(comm, message):
    comm.on_msg(lambda message: comm.send({'echo': message['content']['data']['say']}))
    comm.send({'opened': message['content']['data']})

get_ipython().kernel.comm_manager.register_target('echo', opened)
"""


def send_comm(kernel, msg_type, **content):
    kernel.client.shell_channel.send(kernel.client.session.msg(msg_type, content))


def comm_message(kernel, comm_id):
    return kernel.wait_for(
        lambda message: message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == comm_id
    )["content"]["data"]


def test_a_comm_that_the_client_opens_carries_messages_both_ways(kernel):
    kernel.run(COMM_TARGET)
    send_comm(kernel, "comm_open", comm_id="c1", target_name="echo", data={"first": 1})
    assert comm_message(kernel, "c1") == {"opened": {"first": 1}}
    send_comm(kernel, "comm_msg", comm_id="c1", data={"say": "ünï"})
    assert comm_message(kernel, "c1") == {"echo": "ünï"}
    assert "c1" in kernel.reply_to(kernel.client.comm_info())["comms"]
    send_comm(kernel, "comm_close", comm_id="c1", data={})
    assert "c1" not in kernel.reply_to(kernel.client.comm_info())["comms"]


def test_a_widget_shows_and_takes_the_persons_value(kernel):
    pytest.importorskip("ipywidgets")
    result = kernel.execute("import ipywidgets; slider = ipywidgets.IntSlider(value=3); slider")
    states = {
        message["content"]["comm_id"]: message["content"] for message in result.outputs if "comm" in message["msg_type"]
    }
    sliders = [comm for comm in states.values() if comm["data"]["state"].get("_model_name") == "IntSliderModel"]
    assert [slider["data"]["state"]["value"] for slider in sliders] == [3]
    (shown,) = result.of("execute_result") + result.of("display_data")
    comm_id = sliders[0]["comm_id"]
    assert shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] == comm_id
    send_comm(kernel, "comm_msg", comm_id=comm_id, data={"method": "update", "state": {"value": 7}, "buffer_paths": []})
    assert kernel.run("print(slider.value)") == "7\n"


def test_completion_knows_keywords_attributes_and_variables(kernel):
    kernel.run("my_variable = 1; import os")
    for code, wanted in {"impo": "import", "os.pat": "path", "my_vari": "my_variable"}.items():
        matches = kernel.reply_to(kernel.client.complete(code))["matches"]
        assert any(wanted in match for match in matches), (code, matches)


def plain(text):
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_inspection_shows_documentation_and_source(kernel):
    kernel.run("def documented(x):\n    'What it does.'\n    return x + 41")
    for detail, wanted in {0: "What it does.", 1: "return x + 41"}.items():
        reply = kernel.reply_to(kernel.client.inspect("documented", detail_level=detail))
        assert reply["found"]
        assert wanted in plain(reply["data"]["text/plain"])


def test_history_remembers_what_was_run(kernel):
    kernel.execute("'a line to remember'")
    tail = kernel.reply_to(kernel.client.history(hist_access_type="tail", n=1, raw=True))["history"]
    assert tail[-1][2] == "'a line to remember'"
    found = kernel.reply_to(kernel.client.history(hist_access_type="search", pattern="*to remem*"))["history"]
    assert found


def test_incomplete_code_is_known(kernel):
    reply = kernel.reply_to(kernel.client.is_complete("for i in range(3):"))
    assert (reply["status"], reply["indent"]) == ("incomplete", "    ")


def test_an_error_has_its_traceback(kernel):
    result = kernel.execute("def f():\n    1 / 0\nf()")
    (error,) = result.of("error")
    assert error["ename"] == "ZeroDivisionError"
    assert "1 / 0" in plain("\n".join(error["traceback"]))


def test_user_expressions_are_evaluated(kernel):
    reply = kernel.execute("x = 6", user_expressions={"y": "x * 7"}).reply
    assert reply["user_expressions"]["y"]["data"]["text/plain"] == "42"


def test_requests_after_an_error_are_aborted(kernel):
    first = kernel.client.execute("import time; time.sleep(0.2); 1 / 0")
    second = kernel.client.execute("print('never')")
    assert kernel.reply_to(first)["status"] == "error"
    assert kernel.reply_to(second)["status"] == "aborted"
    kernel.reply_to(kernel.client.kernel_info())  # comes after the end of aborting
    assert kernel.run("print('again')") == "again\n"


def test_connect_info_tells_a_connection_file_inside_the_sandbox(kernel):
    said = kernel.run("%connect_info")
    info = json.loads(said[: said.index("}") + 1])
    assert info["transport"] == "ipc"
    path = kernel.run("from ipykernel.connect import get_connection_file; print(get_connection_file())").strip()
    assert json.loads(kernel.run(f"print(open({path!r}).read())"))["key"] == info["key"]


# -- debugger, as ipykernel's own tests drive it

_sequence = itertools.count(1)


def debug(kernel, command, **arguments):
    request = {"type": "request", "seq": next(_sequence), "command": command, "arguments": arguments}
    return kernel.control("debug_request", request)


@pytest.fixture
def debugged(new_kernel):
    """A kernel with the debugger attached; attaching changes it for good."""
    kernel = new_kernel()
    capabilities = debug(
        kernel,
        "initialize",
        clientID="test-client",
        clientName="testClient",
        adapterID="",
        pathFormat="path",
        linesStartAt1=True,
        columnsStartAt1=True,
        supportsVariableType=True,
        supportsVariablePaging=True,
        supportsRunInTerminalRequest=True,
        locale="en",
    )
    assert capabilities["success"], capabilities
    assert debug(kernel, "attach")["success"]
    yield kernel
    assert debug(kernel, "disconnect", restart=False, terminateDebuggee=True)["success"]


def test_the_debugger_stops_at_a_breakpoint_and_goes_on(debugged):
    code = "def f(a, b):\n    c = a + b\n    return c\n\nf(2, 3)"
    source = debug(debugged, "dumpCell", code=code)["body"]["sourcePath"]
    reply = debug(debugged, "setBreakpoints", breakpoints=[{"line": 2}], source={"path": source}, sourceModified=False)
    assert reply["success"]
    assert [point["verified"] for point in reply["body"]["breakpoints"]] == [True]
    debug(debugged, "configurationDone")
    msg_id = debugged.client.execute(code)
    stopped = debugged.wait_for(
        lambda message: message["msg_type"] == "debug_event" and message["content"]["event"] == "stopped"
    )["content"]["body"]
    frames = debug(debugged, "stackTrace", threadId=stopped["threadId"])["body"]["stackFrames"]
    assert (frames[0]["name"], frames[0]["line"]) == ("f", 2)
    scopes = debug(debugged, "scopes", frameId=frames[0]["id"])["body"]["scopes"]
    locals_ = next(scope for scope in scopes if scope["name"] == "Locals")["variablesReference"]
    variables = debug(debugged, "variables", variablesReference=locals_)["body"]["variables"]
    assert {variable["name"]: variable["value"] for variable in variables} == {"a": "2", "b": "3"}
    assert debug(debugged, "continue", threadId=stopped["threadId"])["success"]
    assert debugged.reply_to(msg_id)["status"] == "ok"


def test_the_debugger_shows_variables_between_cells(debugged):
    debugged.run("seen_between_cells = 'yes'")
    variables = debug(debugged, "inspectVariables")["body"]["variables"]
    assert "seen_between_cells" in {variable["name"] for variable in variables}


# -- subshells


def test_a_subshell_runs_while_the_main_shell_is_busy(kernel):
    subshell = kernel.control("create_subshell_request", {})["subshell_id"]
    kernel.run("import threading; freed = threading.Event()")
    busy = kernel.client.execute("print('go', flush=True); print(freed.wait(20))")
    kernel.printed(busy, "go")
    content = {"code": "freed.set()", "silent": False, "user_expressions": {}, "allow_stdin": False}
    message = kernel.client.session.msg("execute_request", content)
    message["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(message)
    kernel.printed(busy, "True")
    replies = {}
    while len(replies) < 2:
        reply = kernel.client.get_shell_msg(timeout=TIMEOUT_S)
        replies[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
    assert replies == {busy: "ok", message["header"]["msg_id"]: "ok"}
    assert subshell in kernel.control("list_subshell_request", {})["subshell_id"]
    assert kernel.control("delete_subshell_request", {"subshell_id": subshell})["status"] == "ok"


# -- amounts


def test_fifty_mebibytes_of_text_arrive_whole(kernel):
    said = kernel.execute(f"for _ in range(50):\n    print('x' * ({MIB} - 1))", timeout_s=60)
    assert said.status == "ok"
    assert sum(len(content["text"]) for content in said.of("stream")) == 50 * MIB


def test_ten_megabytes_of_display_data_arrive_whole(kernel):
    code = "from IPython.display import display\ndisplay({'text/plain': 'y' * 10_000_000}, raw=True)"
    (shown,) = kernel.execute(code).of("display_data")
    assert len(shown["data"]["text/plain"]) == 10_000_000


def test_many_small_outputs_arrive_in_order(kernel):
    code = "from IPython.display import display\nfor i in range(2000): display({'text/plain': str(i)}, raw=True)"
    shown = [int(content["data"]["text/plain"]) for content in kernel.execute(code, timeout_s=60).of("display_data")]
    assert shown == list(range(2000))


def test_outputs_wait_for_a_client_that_reads_later(kernel):
    code = "from IPython.display import display\nfor i in range(20_000): display({'text/plain': str(i)}, raw=True)"
    msg_id = kernel.client.execute(code)
    assert kernel.reply_to(msg_id, timeout_s=60)["status"] == "ok"
    shown = []
    while len(shown) < 20_000:
        message = kernel.client.get_iopub_msg(timeout=30)
        if message["msg_type"] == "display_data" and message["parent_header"]["msg_id"] == msg_id:
            shown.append(int(message["content"]["data"]["text/plain"]))
    assert shown == list(range(20_000))


def test_a_megabyte_of_code_runs(kernel):
    assert kernel.run(f"print(len('{'z' * 1_000_000}'))") == "1000000\n"


def test_characters_of_the_whole_world_survive(kernel):
    text = "ünï ☃ 🎉 \u202e\u0301 ﷽ 漢字"
    assert kernel.run(f"ключ = {text!r}; print(ключ)") == text + "\n"
    assert kernel.run("import sys; sys.stderr.write(''); print(open('/sandbox/ü', 'w').write('ß'))") == "1\n"
    assert kernel.execute("print('\\udce4')").status in {"ok", "error"}
    assert kernel.run("print(1)") == "1\n"


def test_no_thread_of_an_idle_kernel_polls(new_kernel, tree):
    """Once: ZMQ looked ten times a second for a path that exists on the host only."""
    kernel = new_kernel()
    kernel.run("1")
    (record,) = tree.directory.glob(f"*/ledger/{kernel.manager.provisioner.sandbox_id}.json")
    agent = json.loads(record.read_text())["pid"]
    (pid,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()

    def switches():
        found = {}
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            found[status.parent.name] = int(
                re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.M)[1]
            )
        return found

    time.sleep(1)  # its first execution is over
    before = switches()
    time.sleep(3)
    assert max(count - before.get(thread, 0) for thread, count in switches().items()) <= 10
