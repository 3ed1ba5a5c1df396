"""RAGFlow's executor on a real server with real workers: outcomes, values, artifacts, limits, who may, what stays."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from traitlets.config import Config

from tests.conftest import eventually
from tests.server.ragflow import Ragflow, basic, body_of, contents

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def settings():
    """What the executor's traits are set to."""
    return {"timeout_s": 30.0}


@pytest.fixture
def jp_server_config(jp_server_config, settings):
    jp_server_config.merge(Config({"RagflowExecutor": settings}))
    return jp_server_config


@pytest.fixture
def fetch(http_server_client, jp_base_url):
    """A request without the credentials that pytest-jupyter adds."""

    async def ask(*parts, params, **how):
        return await http_server_client.fetch(f"{jp_base_url}{'/'.join(parts)}", **how)

    return ask


@pytest.fixture
def ragflow(fetch, jp_serverapp, rest):
    """A client with the server's token in the place of a password. No outcome comes before its sandbox has gone."""

    async def ask(*parts, **how):
        reply = await fetch(*parts, **how)
        assert rest.services.sandboxes.whose() == {}
        return reply

    return Ragflow(ask, basic(jp_serverapp.identity_provider.token))


# -- what programs return and print


async def test_main_is_called_with_its_arguments_and_what_it_returns_is_the_result(ragflow):
    code = "import sys\ndef main(a, b=2, **more):\n    print('out')\n    print('err', file=sys.stderr)\n    return {'sum': a + b, **more}"
    outcome = await ragflow.run(code, a=1, c=["ü", None, {"deep": 1.5}])
    assert outcome["result"] == {"present": True, "value": {"sum": 3, "c": ["ü", None, {"deep": 1.5}]}, "type": "json"}
    assert (outcome["status"], outcome["exit_code"], outcome["artifacts"]) == ("success", 0, [])
    assert (outcome["stdout"], outcome["stderr"], outcome["detail"]) == ("out\n", "err\n", None)
    assert 0 < outcome["time_used_ms"] < 30_000


async def test_a_value_comes_back_as_it_was_sent(ragflow):
    values = [None, False, 0, -1.5, "", "ü\u2028\U0001f600", "\ud800", [], {"a": {}}, 10**30, "x" * 1_000_000]
    for value in values:
        assert await ragflow.value("def main(value): return value", value=value) == value
    assert await ragflow.value("def main(values): return values", values=values) == values


async def test_a_program_runs_in_a_directory_with_itself_and_its_arguments_and_nothing_else(ragflow):
    code = "import os, sys\ndef main(**arguments): return [os.getcwd(), sorted(os.listdir()), os.listdir('artifacts'), sys.argv[1:], __name__]"
    assert await ragflow.value(code, x=1) == ["/sandbox/run", ["args.json", "artifacts", "main.py"], [], [], "main"]


async def test_runs_at_the_same_time_do_not_mix_and_each_has_a_sandbox_of_its_own(fetch, jp_serverapp):
    ragflow = Ragflow(fetch, basic(jp_serverapp.identity_provider.token))
    code = "import os\ndef main(n):\n    open('/sandbox/mark', 'x').close()\n    return n"
    assert await asyncio.gather(*(ragflow.value(code, n=n) for n in range(6))) == list(range(6))


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)"])
async def test_a_program_that_ends_well_before_it_returns_has_no_result(ragflow, end):
    outcome = await ragflow.run(f"import os, sys\ndef main():\n    print('so far')\n    {end}")
    assert (outcome["status"], outcome["result"], outcome["stdout"]) == ("success", None, "so far\n")


# -- artifacts


async def test_plots_and_tables_are_artifacts(ragflow):
    code = """
import matplotlib.pyplot as plt
import pandas as pd

def main():
    table = pd.DataFrame({"n": [1, 2, 3]})
    table.plot()
    plt.savefig("artifacts/plot.png")
    table.to_csv("beside.csv", index=False)
    return table["n"].tolist()
"""
    outcome = await ragflow.run(code)
    assert outcome["result"]["value"] == [1, 2, 3], outcome
    found = contents(outcome)
    assert list(found) == ["beside.csv", "plot.png"]
    assert found["beside.csv"] == b"n\n1\n2\n3\n"
    assert found["plot.png"].startswith(PNG)
    assert [each["mime_type"] for each in outcome["artifacts"]] == ["text/csv", "image/png"]


async def test_large_artifacts_come_whole(ragflow):
    code = "import os\ndef main():\n    for n in range(3):\n        open(f'artifacts/{n}.pdf', 'wb').write(bytes([n]) * ((3 << 20) + n))"
    outcome = await ragflow.run(code)
    assert contents(outcome) == {f"{n}.pdf": bytes([n]) * ((3 << 20) + n) for n in range(3)}


# -- programs that fail


FAILING = [
    ("def main(): return 1 / 0", 'File "/sandbox/run/main.py", line 1, in main'),
    ("def main(", "SyntaxError"),
    ("import no_such_module\ndef main(): pass", "No module named 'no_such_module'"),
    ("x = 1", "main.py defines no function main"),
    ("main = 1", "main.py defines no function main"),
    ("def main(a): pass", "main() missing 1 required positional argument"),
    ("def main(): return {1, 2}", "main() returned a value that is not JSON: Object of type set"),
    ("def main(): return float('nan')", "main() returned a value that is not JSON"),
    ("def main():\n  a = []\n  a.append(a)\n  return a", "main() returned a value that is not JSON"),
    ("def main(): return 'x' * (3 << 20)", "of which 2097152 are accepted"),
    ("async def main(): return 1", "Object of type coroutine"),
    ("def main(): return input()", "EOFError"),
    ("a\0b", "null bytes"),
]


async def test_a_program_that_fails_is_told_why_in_its_standard_error(ragflow):
    for code, told in FAILING:
        outcome = await ragflow.run(code)
        assert (outcome["status"], outcome["exit_code"]) == ("program_error", 1), outcome
        assert outcome["runtime_error_type"] == "nonzero_exit"
        assert told in outcome["stderr"], outcome
        assert "<string>" not in outcome["stderr"], "frames of ours are nobody's business"
        assert (outcome["result"], outcome["artifacts"]) == (None, [])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys\ndef main(): sys.exit(3)", ("program_error", 3, "runtime_error_type", "nonzero_exit")),
        ("import os\ndef main(): os.kill(os.getpid(), 11)", ("runtime_error", 139, "runtime_error_type", "signalled")),
        ("import os\ndef main(): os.kill(os.getpid(), 9)", ("runtime_error", 137, "runtime_error_type", "signalled")),
        (
            "import os\ndef main(): os.chroot('/')",
            ("unauthorized_access", 1, "unauthorized_access_type", "disallowed_syscall"),
        ),
        (
            "def main(): open('/proc/1/mem')",
            ("unauthorized_access", 1, "unauthorized_access_type", "file_access"),
        ),
    ],
)
async def test_an_end_is_told_by_its_kind(ragflow, code, expected):
    outcome = await ragflow.run(code)
    status, exit_code, kind, word = expected
    assert (outcome["status"], outcome["exit_code"], outcome[kind]) == (status, exit_code, word), outcome


# -- limits


@pytest.mark.parametrize("settings", [{"timeout_s": 5.0}])
@pytest.mark.parametrize(
    "code",
    [
        "def main():\n    print('so far')\n    while True: pass",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "def main():\n    print('so far')\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "import os, signal\ndef main():\n    print('so far')\n    os.kill(os.getpid(), signal.SIGSTOP)",
        "import os, time\ndef main():\n    print('so far')\n    if os.fork() == 0: os.setsid()\n    while True: time.sleep(1)",
        "print('so far')\nwhile True: pass",
    ],
    ids=["a loop", "one that ignores signals", "one that stops", "one with a daemon", "one before main"],
)
async def test_a_program_without_end_is_ended(ragflow, code):
    outcome = await ragflow.run(code)
    assert (outcome["status"], outcome["exit_code"]) == ("resource_limit_exceeded", -124)
    assert (outcome["resource_limit_type"], outcome["stdout"]) == ("time", "so far\n")
    assert outcome["stderr"] == "Execution timeout: it did not end within 5 s.\n"
    assert 5000 <= outcome["time_used_ms"] < 30_000


@pytest.mark.parametrize("settings", [{"timeout_s": 30.0, "template": "small-memory"}])
@pytest.mark.parametrize("code", ["def main(): return len(b'x' * (1 << 30))", "def main(): raise MemoryError"])
async def test_a_program_that_needs_too_much_memory_is_ended(ragflow, code):
    outcome = await ragflow.run(code)
    assert (outcome["status"], outcome["exit_code"]) == ("resource_limit_exceeded", -137)
    assert outcome["resource_limit_type"] == "memory"
    assert "Memory limit exceeded" in outcome["stderr"]


async def test_of_much_output_the_end_is_told_and_how_much_came_before(ragflow):
    code = "import sys\ndef main():\n    sys.stdout.write('x' * (3 << 20) + 'end')\n    sys.stderr.write('few')"
    outcome = await ragflow.run(code)
    head, text = outcome["stdout"].split("\n")
    assert head == "[2097155 bytes of stdout are left out; the last 1048576 are here]"
    assert (text, outcome["stderr"]) == ("x" * ((1 << 20) - 3) + "end", "few")


# -- what is not the program's fault


@pytest.mark.parametrize("settings", [{"template": "only-one"}])
async def test_a_full_pool_is_busy(fetch, jp_serverapp, rest):
    await rest.claimed(template="only-one")
    outcome = await Ragflow(fetch, basic(jp_serverapp.identity_provider.token)).run("def main(): pass")
    assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -10)
    assert outcome["detail"] == "no_capacity"


@pytest.mark.parametrize("settings", [{"template": "no-such-template"}])
async def test_a_template_that_is_not_there_is_the_operators_fault(ragflow):
    outcome = await ragflow.run("def main(): pass")
    assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -3)
    assert outcome["detail"] == "unknown_template"


async def test_a_sandbox_that_is_lost_is_nobodys_fault(fetch, jp_serverapp, rest, tree):
    client = Ragflow(fetch, basic(jp_serverapp.identity_provider.token))
    running = asyncio.create_task(client.run("import time\ndef main(): time.sleep(1000)"))
    (sandbox,) = await claimed(rest)
    await eventually(lambda: rest.services.commands.all_in("*", sandbox))
    tree.kill_worker(sandbox)
    outcome = await running
    assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -3), outcome


async def claimed(rest) -> list[str]:
    """The sandboxes that live, once there are some."""
    await eventually(rest.services.sandboxes.whose)
    return list(rest.services.sandboxes.whose())


# -- the other language


@pytest.fixture
def has_node(tree):
    if tree.engine == "docker":
        return False  # the image of workers has none
    if shutil.which("node") is None:
        pytest.skip("needs node (apt install nodejs)")
    return True


async def test_a_program_in_javascript(ragflow, has_node):
    code = "const fs = require('fs');\nasync function main(args) {\n  console.log('hi');\n  fs.writeFileSync('artifacts/a.json', '1');\n  return { doubled: args.n * 2 };\n} // end"
    outcome = await ragflow.run(code, "nodejs", n=21)
    if not has_node:
        assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -999)
        return
    assert (outcome["status"], outcome["stdout"]) == ("success", "hi\n"), outcome
    assert outcome["result"]["value"] == {"doubled": 42}
    assert contents(outcome) == {"a.json": b"1"}


FAILING_IN_JAVASCRIPT = [
    ("function main(args) { return args.a.b }", "TypeError: Cannot read properties of undefined"),
    ("async function main() { throw new Error('mine') }", "Error: mine"),
    ("function main( {", "SyntaxError"),
    ("const x = 1", "main.js defines no function main"),
    ("function main() {}", "main() must return a value; null stands for none"),
    ("function main() { return 1n }", "main() returned a value that is not JSON"),
    ("function main() { return () => 1 }", "main() returned a value that is not JSON"),
]


async def test_a_program_in_javascript_that_fails(ragflow, has_node):
    for code, told in FAILING_IN_JAVASCRIPT:
        outcome = await ragflow.run(code, "nodejs")
        if has_node:
            assert (outcome["status"], outcome["exit_code"]) == ("program_error", 1), outcome
            assert told in outcome["stderr"]
        else:
            assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -999)


@pytest.mark.parametrize("settings", [{"template": "no-programs"}])
async def test_a_sandbox_without_node_says_so(ragflow, rest):
    body = {"environment": {"PATH": "/sandbox"}, "min_idle": 0}
    assert (await rest("PUT", "templates", "no-programs", body=body)).status in {200, 201}
    outcome = await ragflow.run("function main() { return 1 }", "nodejs")
    assert (outcome["status"], outcome["exit_code"], outcome["detail"]) == (
        *("program_runner_error", -999, "program_missing"),
    )
    assert "the sandbox has no program 'node'" in outcome["stderr"]
    assert (await rest.delete("templates", "no-programs")).status == 204


# -- requests


NO_REQUESTS = [
    ({**body_of("def main(): pass"), "code_b64": "###"}, "code_b64 is not base64 of UTF-8"),
    ({**body_of("def main(): pass"), "code_b64": "/w=="}, "code_b64 is not base64 of UTF-8"),
    ({"language": "python"}, "code_b64 must be a text"),
    ({**body_of(""), "language": "ruby"}, "language must be one of python, nodejs"),
    ({**body_of(""), "language": ["python"]}, "language must be one of python, nodejs"),
    ({**body_of(""), "arguments": [1]}, "arguments must be an object"),
    ([], "the body must be a JSON object"),
    (b"", "the body is not JSON"),
    (b'{"code_b64": NaN}', "the body is not JSON"),
    (b"[" * 100_000, "the body is nested too deeply"),
]


async def test_what_is_no_request_is_refused(ragflow):
    for body, detail in NO_REQUESTS:
        status, answer, _ = await ragflow.post(body)
        assert (status, list(answer)) == (400, ["detail"]), answer
        assert detail in answer["detail"]


async def test_fields_that_may_be_left_out_and_those_of_other_versions(ragflow):
    body = body_of("def main(): return 1")
    status, outcome, _ = await ragflow.post({"code_b64": body["code_b64"], "base_image": "other", "new": {}})
    assert (status, outcome["result"]["value"]) == (200, 1)
    status, outcome, _ = await ragflow.post({**body, "arguments": None})
    assert (status, outcome["result"]["value"]) == (200, 1)


async def test_a_body_that_is_too_large_and_a_method_that_is_none_are_refused(ragflow):
    status, answer, _ = await ragflow.post(b" " * (3 << 20))
    assert (status, list(answer)) == (413, ["detail"])
    status, answer, headers = await ragflow.ask("GET", "run")
    assert (status, list(answer), headers["Allow"]) == (405, ["detail"], "POST")
    status, answer, _ = await ragflow.ask("POST", "healthz")
    assert (status, list(answer)) == (403, ["detail"])


# -- who may


@pytest.mark.parametrize("path", ["healthz", ""])
@pytest.mark.parametrize("headers", [{}, basic("wrong"), {"Authorization": "token wrong"}], ids=str)
async def test_everybody_may_ask_whether_we_are_here(fetch, path, headers):
    status, answer, _ = await Ragflow(fetch, headers).ask("GET", path)
    assert (status, answer) == (200, {"status": "ok"})


async def test_the_servers_token_comes_as_a_password_or_in_jupyters_way_and_nothing_else_opens(
    fetch, jp_serverapp, ragflow
):
    token = jp_serverapp.identity_provider.token
    for headers in (basic(token), *({"Authorization": f"{word} {token}"} for word in ("token", "Bearer", "bearer"))):
        ragflow.headers = headers
        assert await ragflow.value("def main(): return 1") == 1
    page = await fetch("tree", params={}, headers={"Authorization": f"token {token}"}, raise_error=False)
    cookies = "; ".join(cookie.split(";")[0] for cookie in page.headers.get_list("Set-Cookie"))
    for headers in ({}, basic("wrong"), {"Authorization": "Basic ###"}, {"Cookie": cookies}):
        status, answer, _ = await Ragflow(fetch, headers).post(body_of("def main(): return 1"))
        assert (status, list(answer)) == (401, ["detail"]), headers


async def test_an_owners_token_opens_with_both_scopes_and_within_its_rate(owners_token, ragflow):
    for scopes in (("kernels",), ("sandboxes",), ("sandboxes:read", "kernels:read"), ("files",)):
        ragflow.headers = basic(owners_token(*scopes))
        status, answer, _ = await ragflow.post(body_of("def main(): return 1"))
        assert (status, list(answer)) == (403, ["detail"]), scopes
        assert "scope" in answer["detail"]


async def test_who_asks_too_often_is_told_so_in_an_outcome(owners_token, ragflow):
    ragflow.headers = basic(owners_token("sandboxes", "kernels"))
    assert [await ragflow.value("def main(n): return n", n=n) for n in range(2)] == [0, 1]
    status, outcome, headers = await ragflow.post(body_of("def main(): return 1"))
    assert (status, outcome["status"], outcome["exit_code"]) == (200, "program_runner_error", -429)
    assert (outcome["detail"], 1 <= int(headers["Retry-After"]) <= 60) == ("rate_limited", True)


# -- who hangs up


async def test_a_client_that_hangs_up_leaves_no_sandbox(jp_serverapp, jp_base_url, rest):
    token = jp_serverapp.identity_provider.token
    body = json.dumps(body_of("import time\ndef main(): time.sleep(1000)")).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", jp_serverapp.port)
    lines = (f"POST {jp_base_url}ragflow/run HTTP/1.1", "Host: localhost", f"Authorization: token {token}")
    writer.write("\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body)
    (sandbox,) = await claimed(rest)
    await eventually(lambda: rest.services.commands.all_in("*", sandbox))
    writer.close()
    await eventually(lambda: not rest.services.sandboxes.whose())
