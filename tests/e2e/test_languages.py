"""Every language that is there: over REST, the contexts API, in a notebook by nbclient, and by E2B's SDK.

Each keeps its state over two executions, prints, returns a value, tells an error, and is interrupted.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox
from nbclient import NotebookClient

from tests.e2e.kernels import several
from tests.e2e.languages import IMAGE, PROGRAMS, spoken
from tests.e2e.served import served_for_e2b
from tests.server.brokers import Tree
from tests.tries import tries

INTERRUPT_S = 2
TRY_S = 20
EXECUTIONS = 20

LOSES_WHEN_NOBODY_WAITS = ("javascript", "typescript")
"""Deno gives an output to the request that came last."""

SPOKEN = spoken()
each = pytest.mark.parametrize("language", SPOKEN)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def kept_tree():
    """A broker tree of our own, whose workers speak all that there is."""
    tree = Tree()
    tree.arguments = [f"--BrokerApp.docker_image={IMAGE}"]
    yield tree
    tree.stop()


@pytest.fixture(scope="module")
def served(tree, tmp_path_factory):
    """A server, and the settings that lead E2B's SDK to it."""
    with served_for_e2b(tmp_path_factory.mktemp("languages")) as server:
        yield server


@pytest.fixture(scope="module")
def ask(served):
    """A request over REST; its answer, whatever its status."""

    def request(method, path, body=None):
        headers = {"Authorization": f"token {served.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        wanted = urllib.request.Request(f"{served.url}/api/sandboxes{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(wanted, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            with error:
                return json.loads(error.read())

    return request


@pytest.fixture
def sandbox(ask):
    made = ask("POST", "", {})["id"]
    yield made
    ask("DELETE", f"/{made}")


@pytest.fixture(scope="module")
def installed(tree):
    """Kernelspecs for programs without a server."""
    command = [sys.executable, "-m", "jupyter_sandbox.cli", "languages", "--install", "user"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(tree.kernelspecs.parent))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=os.environ)
        yield done.stdout


def shown(outputs):
    """Everything that outputs say as text, without colours."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join("".join(text) for text in texts))


def judge_failure(program, name, traceback):
    """An error has its name, and says where it comes from."""
    assert program.error in name
    assert program.traced in shown([{"text": traceback}])


@each
def test_over_rest(ask, sandbox, language):
    program = PROGRAMS[language]
    context = ask("POST", f"/{sandbox}/contexts", {"language": language})
    assert context["language"] == language, context

    def execute(code, timeout_s=60):
        return ask("POST", f"/{sandbox}/contexts/{context['id']}/executions", {"code": code, "timeout_s": timeout_s})

    assert execute(program.keeps)["outcome"] == "ok"
    asked = execute(program.asks)["outputs"]
    assert (shown(asked).strip(), {output["output_type"] for output in asked}) == (program.says, {program.returned})
    assert execute(program.prints)["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "hello\n"}]
    failed = execute(program.fails)
    assert failed["outcome"] == "error"
    error = failed["outputs"][-1]
    assert error["output_type"] == "error"
    judge_failure(program, error["ename"], error["traceback"])
    for attempt in tries(1 + INTERRUPT_S, TRY_S):
        stopped = execute(program.endless, 1)
        assert stopped["outcome"] == "timeout"
        attempt.took_s, attempt.counts = stopped["duration_s"], stopped["message"] is None
        assert shown(execute(program.asks)["outputs"]).strip() == program.says


@each
def test_over_the_contexts_api(served, language):
    program = PROGRAMS[language]

    def ask(method, path="", body=None):
        secret = base64.b64encode(f"any:{served.token}".encode()).decode()
        headers = {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        wanted = urllib.request.Request(f"{served.url}/api/v1/contexts{path}", data, headers, method=method)
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return json.loads(answer.read())

    made = ask("POST", body={"language": language})["context_id"]
    try:
        assert ask("POST", f"/{made}/execute", {"code": program.keeps})["success"]
        asked = ask("POST", f"/{made}/execute", {"code": program.asks})
        assert (asked["output"]["stdout"], asked["success"]) == (f"{program.says}\n", True)
        failed = ask("POST", f"/{made}/execute", {"code": program.fails})
        assert not failed["success"]
        assert program.traced in failed["output"]["stderr"]
    finally:
        ask("DELETE", f"/{made}")


@each
def test_in_a_notebook(installed, tmp_path, language):
    program = PROGRAMS[language]
    codes = (program.keeps, program.asks, program.prints, program.fails)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    name = f"sandbox-{language}"
    run = {"kernel_name": name, "allow_errors": True, "resources": {"metadata": {"path": str(tmp_path)}}}
    NotebookClient(notebook, timeout=60, **run).execute()
    kept, asked, printed, failed = (cell.outputs for cell in notebook.cells)
    assert not [output for output in kept if output.output_type == "error"]
    assert (shown(asked).strip(), shown(printed)) == (program.says, "hello\n")
    assert {output.output_type for output in asked} == {program.returned}
    judge_failure(program, failed[-1].ename, failed[-1].traceback)
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in (program.endless, program.prints)]

    def timeout_s(cell):
        return 3 if cell.source == program.endless else 60

    client = NotebookClient(notebook, timeout_func=timeout_s, interrupt_on_timeout=True, **run)
    with client.setup_kernel():
        client.execute_cell(notebook.cells[1], 1)  # so that it has started
        for attempt in tries(3 + INTERRUPT_S, TRY_S):
            with attempt:
                client.execute_cell(notebook.cells[0], 0)
                client.execute_cell(notebook.cells[1], 1)
            assert shown(notebook.cells[1].outputs) == "hello\n"


@each
def test_outputs_come_before_the_end_of_their_execution(installed, tmp_path, language):
    program = PROGRAMS[language]
    with several(tmp_path) as start:
        kernel = start(f"sandbox-{language}")
        kernel.execute(program.keeps)
        said = {}

        def is_last(message):
            parent = message["parent_header"].get("msg_id")
            if parent in said:
                said[parent].append(message["content"].get("execution_state") or message["msg_type"])
            return parent == last

        def has_ended(message):
            return is_last(message) or said[asked][-1:] == ["idle"]

        last = ""
        for _ in range(EXECUTIONS):
            asked = kernel.client.execute(f"{program.prints}\n{program.asks}")
            said[asked] = []
            if language in LOSES_WHEN_NOBODY_WAITS:
                kernel.wait_for(has_ended)
        last = kernel.client.kernel_info()
        kernel.wait_for(is_last)
    for heard in said.values():
        assert (heard[0], heard[-1]) == ("busy", "idle")
        assert len(heard) >= 4


@each
def test_by_e2bs_sdk(served, language):
    program = PROGRAMS[language]
    with Sandbox.create(timeout=300, envs={"FROM": "create"}) as sandbox:

        def run(code, **more):
            return sandbox.run_code(code, language=language.upper(), **more)

        def said(ran):
            return "".join([*ran.logs.stdout, *(each.text or "" for each in ran.results)]).strip()

        assert run(program.keeps).error is None
        assert said(run(program.asks)) == program.says
        assert run(program.prints).logs.stdout == ["hello\n"]
        error = run(program.fails).error
        judge_failure(program, error.name, error.traceback)
        assert "once" in said(run(program.variable, envs={"ONCE": "once 'x'\"$y\"\\"}))
        assert "once" not in said(run(program.variable))
        always = program.variable.replace("ONCE", "FROM")
        assert "changed" in said(run(always, envs={"FROM": "changed"}))
        assert "create" in said(run(always))
        with ThreadPoolExecutor(6) as pool:  # whose code waits behind it does not get its variables
            asked = [pool.submit(run, program.variable, envs=envs) for envs in [{"ONCE": "once"}, None] * 3]
        assert "once" not in "".join(said(each.result()) for each in asked[1::2])
        for attempt in tries(INTERRUPT_S, TRY_S):
            with pytest.raises(TimeoutException):
                run(program.endless, timeout=1)
            with attempt:
                assert said(run(program.asks, timeout=TRY_S)) == program.says
        context = sandbox.create_code_context(language=language)
        listed = sandbox.list_code_contexts()
        assert listed[-1].id == context.id
        assert {"python", "javascript"} & set(SPOKEN) <= {each.language for each in listed}


def test_what_is_there_is_told_and_installed(installed, tree):
    for line in installed.splitlines():
        language, name, is_there = line.split()[:3]
        assert (is_there == "yes") == (language in SPOKEN)
        assert (tree.kernelspecs / name).is_dir() == (language in SPOKEN and language != "python")


def test_a_server_offers_what_is_there_and_nothing_else(served, ask, sandbox):
    request = urllib.request.Request(
        f"{served.url}/api/kernelspecs", headers={"Authorization": f"token {served.token}"}
    )
    with urllib.request.urlopen(request) as answer:
        offered = json.loads(answer.read())["kernelspecs"]
    ours = {f"sandbox-{language}" for language in PROGRAMS}
    assert set(offered) & ours == {f"sandbox-{language}" for language in SPOKEN}
    refused = ask("POST", f"/{sandbox}/contexts", {"language": "cobol"})
    assert refused["code"] == "invalid_request"
