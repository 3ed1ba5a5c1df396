"""The code interpreter's API: every row, field and error of its tables, as its clients send and read them."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid

import pytest
from traitlets.config import Config

from jupyter_sandbox import named_sandboxes, template_service, template_shape
from jupyter_sandbox.host import places
from jupyter_sandbox.surfaces.interpreter import answers
from tests.server.brokers import nothing_is_claimed, sandboxes

PLOT = """
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
from IPython.display import Image, display
plt.plot([1, 2])
plt.savefig("/sandbox/plot.png")
print("this is not shown")
display(Image("/sandbox/plot.png"))
"""


@pytest.fixture
def jp_server_config(jp_server_config, request):
    """With the settings that `@pytest.mark.parametrize("settings", …)` names, if a test does."""
    if "settings" in request.fixturenames:
        jp_server_config.merge(Config({"CodeInterpreter": request.getfixturevalue("settings")}))
    return jp_server_config


async def test_variables_stay_between_executions_and_text_comes_in_order(interpreter):
    said = await interpreter.execute("x = 41")
    assert said == {"result_text": "", "result_base64": None, "worker_id": said["worker_id"]}
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); print('out again', flush=True); x + 1"
    said = await interpreter.execute(code)
    assert said["result_text"] == "out\nerr\nout again\n42"
    (sandbox,) = await sandboxes()
    assert said["worker_id"] == sandbox.sandbox


async def test_each_user_has_a_session_of_its_own(interpreter):
    await interpreter.execute("x = 1")
    other = str(uuid.uuid4())
    said = await interpreter.execute("x", user=other)
    assert said["result_text"] == "Python Execution Error: NameError: name 'x' is not defined"
    assert (await interpreter("POST", "release", user=other)).code == 204
    assert (await interpreter.execute("x", user=interpreter.user.upper()))["result_text"] == "1"


async def test_many_first_requests_of_one_user_make_one_session(interpreter):
    said = await asyncio.gather(*(interpreter.execute("1") for _ in range(5)))
    assert len({each["worker_id"] for each in said}) == 1
    assert len(await sandboxes()) == 1


async def test_an_image_replaces_all_text_and_the_last_one_wins(interpreter):
    said = await interpreter.execute(PLOT)
    assert said["result_text"] is None
    assert base64.b64decode(said["result_base64"]).startswith(b"\x89PNG")
    said = await interpreter.execute("display(Image(b'\\x89PNG one')); display(Image(b'\\x89PNG two')); 'text'")
    assert base64.b64decode(said["result_base64"]) == b"\x89PNG two"


async def test_an_exception_is_a_success_without_what_was_printed(interpreter):
    said = await interpreter.execute("print('before'); {}['key']")
    assert said["result_text"] == "Python Execution Error: KeyError: 'key'"
    said = await interpreter.execute("input()")
    assert said["result_text"].startswith("Python Execution Error: StdinNotImplementedError")


@pytest.mark.parametrize("settings", [{"execution_timeout_s": 4}])
async def test_code_that_does_not_end_takes_its_session_along(interpreter, settings):
    first = (await interpreter.execute("x = 1"))["worker_id"]
    assert await interpreter.detail("POST", "execute", body={"code": "while True: pass"}) == (503, answers.RESET)
    said = await interpreter.execute("'x' in globals()")
    assert (said["result_text"], said["worker_id"] == first) == ("False", False)
    assert len(await sandboxes()) == 1


async def test_a_kernel_that_crashes_takes_its_session_along(interpreter):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert await interpreter.detail("POST", "execute", body={"code": code}) == (503, answers.RESET)
    assert (await interpreter.execute("6 * 7"))["result_text"] == "42"
    assert len(await sandboxes()) == 1


@pytest.mark.parametrize("settings", [{"execution_timeout_s": 6}])
async def test_the_time_of_code_counts_from_its_turn(interpreter, settings):
    await interpreter.execute("import time; order = []")
    code = "time.sleep(2.5); order.append({}); print(order)"
    said = await asyncio.gather(*(interpreter.execute(code.format(i)) for i in range(3)))
    assert sorted(each["result_text"].count(",") for each in said) == [0, 1, 2]


@pytest.mark.parametrize("settings", [{"execution_timeout_s": 4}])
async def test_code_that_waited_in_a_session_that_was_lost_is_told_so(interpreter, settings):
    await interpreter.execute("1")
    request = ("POST", "execute")
    found = await asyncio.gather(*(interpreter.detail(*request, body={"code": "while True: pass"}) for _ in range(3)))
    assert found == [(503, answers.RESET)] * 3


async def test_only_so_many_executions_of_one_user_may_wait(interpreter, monkeypatch):
    monkeypatch.setattr(named_sandboxes, "MAX_WAITING", 3)
    await interpreter.execute("import time")
    asked = [interpreter("POST", "execute", body={"code": "time.sleep(0.3)"}) for _ in range(5)]
    answered = await asyncio.gather(*asked)
    assert sorted(each.code for each in answered) == [200] * 3 + [503] * 2
    assert {each.headers.get("Retry-After") for each in answered if each.code == 503} == {"1"}


async def test_an_owner_who_asks_too_often_is_told_when_to_ask_again(owners_token, interpreter):
    interpreter.token = owners_token("sandboxes", "kernels")
    assert [(await interpreter.execute(str(n)))["result_text"] for n in range(2)] == ["0", "1"]
    refused = await interpreter("POST", "execute", body={"code": "1"})
    assert (refused.code, set(json.loads(refused.body))) == (429, {"detail"})
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("settings", [{"max_output_mib": 1}])
async def test_output_beyond_the_limit_is_cut_and_counted(interpreter, settings):
    text = (await interpreter.execute("print('x' * 3_000_000, flush=True)"))["result_text"]
    assert "The output was too large" in text
    assert len(text) < 1_100_000


@pytest.mark.parametrize("settings", [{"max_output_mib": 1}])
async def test_a_flood_that_no_interrupt_ends_takes_its_session_along(interpreter, settings):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: print('x' * 1000)"
    assert await interpreter.detail("POST", "execute", body={"code": code}) == (503, answers.RESET)
    assert (await interpreter.execute("6 * 7"))["result_text"] == "42"


@pytest.mark.parametrize("settings", [{"idle_timeout_s": 1}])
async def test_a_session_that_nobody_uses_is_given_back(interpreter, settings):
    await interpreter.execute("import time; kept = 1; time.sleep(1.5)")
    assert (await interpreter.execute("kept"))["result_text"] == "1"  # it was used, so it lives
    await nothing_is_claimed()
    assert "NameError" in (await interpreter.execute("kept"))["result_text"]


@pytest.mark.parametrize("settings", [{"template": "none-of-them"}])
async def test_an_environment_that_cannot_be_made_is_told_as_such(interpreter, settings):
    status, words = await interpreter.detail("POST", "execute", body={"code": "1"})
    assert (status, "none-of-them" in words) == (503, True)
    told = json.loads((await interpreter("GET", "status", user=None)).body)
    assert told == {"total_workers": 0, "busy_workers": 0, "is_initializing": False}


async def test_a_broker_that_cannot_be_reached_is_a_gateway_timeout(interpreter, monkeypatch, tmp_path):
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(tmp_path / "nobody-listens"))
    for method, path, how in (("POST", "execute", {"body": {"code": "1"}}), ("GET", "status", {"user": None})):
        status, words = await interpreter.detail(method, path, **how)
        assert (status, words.startswith("Gateway Timeout: Could not connect")) == (504, True)
    monkeypatch.delenv(places.SOCKET_VARIABLE)
    assert (await interpreter.execute("6 * 7"))["result_text"] == "42"


async def test_release_ends_a_session_once(interpreter):
    await interpreter.execute("1")
    response = await interpreter("POST", "release")
    assert (response.code, response.body) == (204, b"")
    assert await sandboxes() == []
    assert await interpreter.detail("POST", "release") == (404, "No active session found for user")


async def test_a_session_shows_among_the_sandboxes_and_kernels_of_its_owner(interpreter, rest, jp_fetch):
    worker = (await interpreter.execute("y = 2"))["worker_id"]
    (shown,) = (await rest.get()).body["sandboxes"]
    assert (shown["id"], shown["metadata"]) == (worker, {"name": interpreter.user})
    kernels = json.loads((await jp_fetch("api", "kernels")).body)
    assert [kernel["id"] for kernel in kernels] == shown["contexts"]


@pytest.fixture
def filling(jp_asyncio_loop):
    """A template of which three workers stand by, once it was used; none is there."""
    limits = {"disk_mib": 16, "disk_inodes": 1024, "memory_mib": 512}
    values = {"min_idle": 3, "max_total": 4, "limits": limits}
    definition = template_shape.DEFINITION.judge(values, "filling")
    jp_asyncio_loop.run_until_complete(template_service.define("filling", definition, replace=False))
    yield
    jp_asyncio_loop.run_until_complete(template_service.delete("filling"))


@pytest.mark.parametrize("settings", [{"template": "filling"}])
async def test_status_counts_workers_and_tells_while_the_first_ones_start(interpreter, filling, settings):
    async def status():
        response = await interpreter("GET", "status", user=None)
        assert response.code == 200
        return json.loads(response.body)

    assert await status() == {"total_workers": 0, "busy_workers": 0, "is_initializing": False}
    executing = asyncio.ensure_future(interpreter.execute("1"))
    told = [await status()]
    async with asyncio.timeout(60):
        while told[-1] != {"total_workers": 4, "busy_workers": 1, "is_initializing": False}:
            told.append(await status())
    await executing
    starting = [each["total_workers"] for each in told if each["is_initializing"]]
    assert starting, told
    assert max(starting) < 4
    assert (await interpreter("POST", "release")).code == 204
    assert (await status())["busy_workers"] == 0


UNPROCESSABLE = {
    "no user": ("POST", ["execute"], {"code": "1"}, None, ("missing", ["query", "user_uuid"])),
    "a user that is no uuid": ("POST", ["execute"], {"code": "1"}, "me", ("uuid_parsing", ["query", "user_uuid"])),
    "no code": ("POST", ["execute"], {}, ..., ("missing", ["body", "code"])),
    "code that is no text": ("POST", ["execute"], {"code": 1}, ..., ("string_type", ["body", "code"])),
    "an unknown field": ("POST", ["execute"], {"code": "", "x": 1}, ..., ("extra_forbidden", ["body", "x"])),
    "a body that is no object": ("POST", ["execute"], [], ..., ("model_attributes_type", ["body"])),
    "no files": ("POST", ["files"], {}, ..., ("missing", ["body", "files"])),
    "an empty batch": ("POST", ["files"], {"files": []}, ..., ("too_short", ["body", "files"])),
    "101 files": ("DELETE", ["files"], {"files": [{}] * 101}, ..., ("too_long", ["body", "files"])),
    "a path outside": (
        *("POST", ["files", "export"], {"files": [{"path": "/sandbox/../etc", "name": "a", "upload_url": "http://a"}]}),
        *(..., ("string_pattern_mismatch", ["body", "files", 0, "path"])),
    ),
    "a name that leads away": (
        *("DELETE", ["files"], {"files": [{"path": "/sandbox", "name": ".."}]}),
        *(..., ("value_error", ["body", "files", 0, "name"])),
    ),
    "no url": (
        *("POST", ["files"], {"files": [{"path": "/sandbox", "name": "a"}]}),
        *(..., ("missing", ["body", "files", 0, "download_url"])),
    ),
    "files that are no list": ("POST", ["files"], {"files": {}}, ..., ("list_type", ["body", "files"])),
    "a file that is no object": (
        "POST",
        ["files"],
        {"files": [1]},
        ...,
        ("model_attributes_type", ["body", "files", 0]),
    ),
    "a url that is none": (
        *("POST", ["files"], {"files": [{"path": "/sandbox", "name": "a", "download_url": "ftp://a"}]}),
        *(..., ("url_parsing", ["body", "files", 0, "download_url"])),
    ),
    "a url without end": (
        *("POST", ["files"], {"files": [{"path": "/sandbox", "name": "a", "download_url": "http://" + "a" * 8186}]}),
        *(..., ("string_too_long", ["body", "files", 0, "download_url"])),
    ),
    "a path of 1025 characters": (
        *("DELETE", ["files"], {"files": [{"path": "/sandbox/" + "a" * 1016, "name": "a"}]}),
        *(..., ("string_too_long", ["body", "files", 0, "path"])),
    ),
    "a name of 256 characters": (
        *("DELETE", ["files"], {"files": [{"path": "/sandbox", "name": "a" * 256}]}),
        *(..., ("string_too_long", ["body", "files", 0, "name"])),
    ),
    "no path and no name": (
        *("DELETE", ["files"], {"files": [{"path": "", "name": ""}]}),
        *(..., ("string_too_short", ["body", "files", 0, "path"])),
    ),
    "fields of a form that are no object": (
        *("POST", ["files", "export"]),
        {"files": [{"path": "/sandbox", "name": "a", "upload_url": "http://a", "upload_fields": ["key"]}]},
        *(..., ("dict_type", ["body", "files", 0, "upload_fields"])),
    ),
    "a field of a form that is no text": (
        *("POST", ["files", "export"]),
        {"files": [{"path": "/sandbox", "name": "a", "upload_url": "http://a", "upload_fields": {"key": 1}}]},
        *(..., ("dict_type", ["body", "files", 0, "upload_fields"])),
    ),
}


@pytest.mark.parametrize("case", UNPROCESSABLE)
async def test_what_cannot_be_meant_is_told_field_by_field(interpreter, case):
    method, path, body, user, (kind, location) = UNPROCESSABLE[case]
    status, (problem, *_) = await interpreter.detail(method, *path, body=body, user=user)
    assert (status, problem["type"], problem["loc"]) == (422, kind, location)
    assert problem["msg"]
    assert await sandboxes() == []


async def test_code_is_bounded_in_characters(interpreter):
    most = 16 << 20
    request = ("POST", "execute")
    status, (problem,) = await interpreter.detail(*request, raw='{"code": "%s"}' % ("#" * (most + 1)))
    assert (status, problem["type"], problem["loc"]) == (422, "string_too_long", ["body", "code"])
    assert str(most) in problem["msg"]


async def test_code_above_the_limit_of_a_kernels_message_misses_no_output(interpreter):
    """The kernel repeats code in a message of its own, which is refused; the code's output is whole all the same."""
    said = await interpreter.execute("#" * (9 << 20) + "\nprint(6 * 7)")
    assert said["result_text"] == "42\n"


async def test_the_longest_path_and_name_are_no_mistake(interpreter):
    longest = {"path": "/sandbox/" + "a" * 1015, "name": "b" * 255}
    said = await interpreter.detail("DELETE", "files", body={"files": [longest]})
    assert said == (404, "No active session found for user")


async def test_all_that_is_wrong_is_told_at_once(interpreter):
    status, problems = await interpreter.detail("POST", "execute", body={"x": 1}, user="me")
    assert status == 422
    assert [problem["type"] for problem in problems] == ["uuid_parsing", "missing", "extra_forbidden"]


UNKNOWN_METHODS = [("GET", "execute"), ("POST", "status"), ("DELETE", "release"), ("DELETE", "files/export")]


@pytest.mark.parametrize(("method", "path"), UNKNOWN_METHODS)
async def test_other_methods_are_not_known(interpreter, method, path):
    raw = "{}" if method == "POST" else None
    assert await interpreter.detail(method, *path.split("/"), raw=raw) == (405, "Method Not Allowed")


async def test_what_is_nothing_is_not_found(interpreter):
    assert await interpreter.detail("GET", "files", "other") == (404, "Not Found")
