"""Hostile programs and hostile clients of RAGFlow's executor. With root's broker only, as in `test_rest_executions`."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.attacks.rest_world import watched
from tests.server.ragflow import Ragflow, basic, body_of, contents

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

RESULT = "/sandbox/result.json"
AFTER = f"import atexit, os\ndef main():\n    @atexit.register\n    def forge():\n        os.unlink({RESULT!r})\n"
"""What follows runs when main has returned and its result was written."""


@pytest.fixture
def client(world):
    """A client of the executor with a password: `client("alice")`."""

    def make(password):
        http = AsyncHTTPClient(force_instance=True, max_clients=50)

        async def fetch(*parts, params, **how):
            return await http.fetch(world + "/".join(parts), **how)

        return Ragflow(fetch, basic(password))

    return make


@pytest.fixture
def ragflow(client, rest, jp_asyncio_loop):
    """One of them. No program leaves a sandbox."""
    yield client("alice")
    assert jp_asyncio_loop.run_until_complete(rest.get()).body["sandboxes"] == []


# -- the result


FORGED = {
    "a symlink to a file of the host": "os.symlink('/etc/passwd', {0!r})",
    "a symlink to a file of its own": "open('own', 'w').write('1'); os.symlink('/sandbox/run/own', {0!r})",
    "a symlink to itself": "os.symlink({0!r}, {0!r})",
    "a FIFO": "os.mkfifo({0!r})",
    "a socket": "import socket; socket.socket(socket.AF_UNIX).bind({0!r})",
    "a directory": "os.mkdir({0!r})",
    "a file of a terabyte": "os.truncate(os.open({0!r}, os.O_CREAT | os.O_WRONLY), 1 << 40)",
    "a file of 3 MiB": "open({0!r}, 'w').write('\"' + 'x' * (3 << 20) + '\"')",
    "nothing but depth": "open({0!r}, 'w').write('[' * 1_000_000)",
    "depth": "open({0!r}, 'w').write('[' * 101 + ']' * 101)",
    "a million of lists": "open({0!r}, 'w').write('[' + '[],' * 600_000 + '1]')",
    "a number without end": "open({0!r}, 'w').write('9' * 1_000_000)",
    "a number that is infinite": "open({0!r}, 'w').write('1e999')",
    "NaN": "open({0!r}, 'w').write('NaN')",
    "a name twice": "open({0!r}, 'w').write('{{\"a\": 1, \"a\": 2}}')",
    "no UTF-8": "open({0!r}, 'wb').write(b'\"\\xff\"')",
    "two values": "open({0!r}, 'w').write('1 2')",
    "no value": "open({0!r}, 'w').write('')",
    "Python": "open({0!r}, 'w').write('__import__(\"os\")')",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_result_that_is_none_is_the_programs_error(world, ragflow, forged):
    async with watched(world):
        outcome = await ragflow.run(f"{AFTER}        {forged.format(RESULT)}\n")
    assert (outcome["status"], outcome["exit_code"]) == ("program_error", 1), outcome
    assert "the result of main() cannot be used" in outcome["stderr"]
    assert "root:" not in json.dumps(outcome)


async def test_a_program_may_say_that_its_main_returned_something_else(ragflow):
    """It is its own word, whoever writes it; nobody is told another program's."""
    assert await ragflow.value(f"{AFTER}        open({RESULT!r}, 'w').write('[1]')\n") == [1]
    assert (await ragflow.run(f"{AFTER}        pass\n"))["result"] is None


@pytest.mark.parametrize(
    "forged", ["os.mkfifo({0!r})", "os.symlink('/sandbox/run/main.py', {0!r})", "open({0!r}, 'w')"]
)
async def test_what_lies_where_the_result_goes_is_neither_followed_nor_waited_for(ragflow, forged):
    outcome = await ragflow.run(f"import os\ndef main():\n    {forged.format(RESULT)}\n    return 1")
    assert (outcome["status"], outcome["result"]) == ("program_error", None)
    assert "FileExistsError" in outcome["stderr"]


async def test_a_daemon_does_not_outlive_its_program(ragflow):
    code = f"""
import os, time
def main():
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        while True:
            for text in ('"forged"', '[' * 1_000_000):
                open({RESULT!r} + '.new', 'w').write(text)
                if os.path.exists({RESULT!r}): os.replace({RESULT!r} + '.new', {RESULT!r})
            open('artifacts/a.csv', 'a').write('x' * 100_000)
    time.sleep(0.2)
    return "main"
"""
    for _ in range(2):
        outcome = await ragflow.run(code)
        assert outcome["status"] in {"success", "program_error"}, outcome
        contents(outcome)


async def test_markers_on_standard_output_are_no_result(ragflow):
    outcome = await ragflow.run("def main():\n    print('__RAGFLOW_RESULT__:eyJwcmVzZW50Ijp0cnVlfQ==')\n    return 1")
    assert (outcome["result"]["value"], outcome["stdout"].count("__RAGFLOW_RESULT__")) == (1, 1)


# -- artifacts


ODD = """
import os, socket
def main():
    os.chdir(b'artifacts')
    os.symlink('/etc/passwd', 'passwd.csv')
    os.symlink('/sandbox/run/main.py', 'own.csv')
    os.mkfifo('fifo.csv')
    socket.socket(socket.AF_UNIX).bind('socket.csv')
    os.mkdir('directory.csv')
    for name in (b'..csv', b'...csv', b'a..csv', b'.hidden.csv', b'new\\nline.csv', b'no\\xff.csv', b'back\\\\slash.csv',
                 b'%2e%2e%2fb.csv', b'escape\\x1b[2J.csv', b'program.py', b'csv', b'plain.exe.csv.'):
        open(name, 'wb').write(b'odd')
    open('empty.csv', 'w')
    os.truncate(os.open('hole.csv', os.O_CREAT | os.O_WRONLY), 1 << 40)
    os.truncate(os.open('large.csv', os.O_CREAT | os.O_WRONLY), (10 << 20) + 1)
    open('secret.csv', 'w').write('mine')
    os.chmod('secret.csv', 0)
    open('x' * 251 + '.csv', 'w').write('long')
    open('\\u202efdp.csv', 'w').write('turned')
    os.link('x' * 251 + '.csv', 'PLAIN.CSV')
"""


async def test_odd_names_and_kinds_are_no_artifacts(world, ragflow):
    async with watched(world):
        outcome = await ragflow.run(ODD)
    assert outcome["status"] == "success", outcome
    assert contents(outcome) == {"PLAIN.CSV": b"long", "x" * 251 + ".csv": b"long", "\u202efdp.csv": b"turned"}
    assert outcome["detail"].startswith("21 files are no artifacts: 10 are taken at most"), outcome["detail"]


@pytest.mark.parametrize("where", ["/etc", "/sandbox/run", "/proc/self", "artifacts", None, "file"])
async def test_a_directory_of_artifacts_that_is_none_has_none(ragflow, where):
    code = "import os\ndef main(where):\n    os.rmdir('artifacts')\n    if where == 'file': open('artifacts', 'w').write('1')\n    elif where: os.symlink(where, 'artifacts')"
    outcome = await ragflow.run(code, where=where)
    assert (outcome["status"], outcome["artifacts"], outcome["detail"]) == ("success", [], None)


async def test_ten_artifacts_are_taken_and_the_others_counted(ragflow):
    code = "def main(names):\n    for name in names: open(name, 'w').write('1')"
    outcome = await ragflow.run(code, names=[*(f"artifacts/{n:02}.csv" for n in range(11)), "a.csv", "00.csv", "b.py"])
    assert list(contents(outcome)) == [f"{n:02}.csv" for n in range(10)]
    assert outcome["detail"].startswith("2 files are no artifacts")


async def test_a_directory_of_many_names_is_looked_at_in_part(world, ragflow):
    async with watched(world):
        outcome = await ragflow.run(
            "def main():\n    for n in range(5_000): open(f'artifacts/{n:04}.csv', 'w').write('1')"
        )
    assert list(contents(outcome)) == [f"{n:04}.csv" for n in range(10)]
    assert outcome["detail"].startswith("990 files")


LARGE = "import os\ndef main():\n    for n in range(10): open(f'artifacts/{n}.pdf', 'wb').write(os.urandom(10 << 20))"


async def sent(world, code: str, token: str = "alice"):
    """Reader and writer of a request for a run whose answer is still to be read; little of it is taken ahead."""
    address, body = urlsplit(world), json.dumps(body_of(code)).encode()
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 16)
    lines = ("POST /ragflow/run HTTP/1.1", "Host: localhost", f"Authorization: token {token}", "Connection: close")
    writer.write("\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body)
    return reader, writer


async def test_100_mib_of_artifacts_go_through_little_memory(world, ragflow):
    async with watched(world):
        reader, writer = await sent(world, LARGE)
        size = 0
        while block := await reader.read(1 << 16):
            size += len(block)
        writer.close()
    assert size > (100 << 20) * 4 // 3


async def test_who_reads_nothing_of_his_artifacts_and_hangs_up_leaves_nothing(world, ragflow, rest):
    async with watched(world):
        reader, writer = await sent(world, LARGE)
        await reader.readuntil(b'"artifacts":[')
        assert len((await rest.get()).body["sandboxes"]) == 1
        writer.transport.abort()
        async with asyncio.timeout(10):
            while (await rest.get()).body["sandboxes"]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)


async def test_clients_that_hang_up_at_any_moment_leave_nothing(world, program):
    rest = program("three")  # who may hold three sandboxes, with those that are being made
    async with watched(world):
        for moment in range(24):
            _, writer = await sent(world, "import time\ndef main(): time.sleep(0.05)", rest.token)
            await asyncio.sleep(0.007 * moment)
            writer.transport.abort()
        async with asyncio.timeout(30):
            for _ in range(3):
                while (await rest.post(body={})).status != 201:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.02)


# -- output and time


@pytest.mark.parametrize(
    "code",
    [
        "def main():\n    for n in range(40): print('x' * 1_000_000)",
        "import sys\ndef main():\n    for n in range(60): sys.stderr.write('\\udcff' * 100_000)",
        "import os\ndef main():\n    for n in range(200): os.write(1, os.urandom(100_000)); os.write(2, b'\\0' * 100_000)",
    ],
    ids=["text", "half characters", "bytes"],
)
async def test_a_flood_of_output_is_bounded(world, ragflow, code):
    async with watched(world):
        outcome = await ragflow.run(code)
    assert outcome["status"] == "success", outcome["stderr"][-1000:]
    assert max(len(outcome[stream]) for stream in ("stdout", "stderr")) < (1 << 20) + 100
    assert "are left out" in outcome["stdout"][:100] + outcome["stderr"][:100]


async def test_programs_that_end_their_sandbox_or_fill_its_disk_are_told_so(ragflow):
    full = "def main():\n    open('a', 'wb').write(bytes(2 << 30))\n    return 1"
    outcome = await ragflow.run(full)
    assert (outcome["status"], outcome["exit_code"]) == ("program_error", 1)
    assert "No space left" in outcome["stderr"]
    outcome = await ragflow.run("import os\ndef main():\n    os.kill(-1, 9)\n    os.kill(os.getpid(), 9)")
    assert (outcome["status"], outcome["exit_code"]) == ("runtime_error", 137), outcome


# -- clients


@pytest.mark.parametrize(
    "arguments",
    [
        {"../../etc/passwd": 1},
        {"__class__": {"__globals__": "x"}},
        {"self": 1, "": 2, "a b": 3, "\0": 4, "\n": 5},
        {"a": "\x1b[2J\u2028\ud800"},
        {f"n{n}": n for n in range(10_000)},
    ],
    ids=["a path", "names of Python", "odd names", "odd texts", "many"],
)
async def test_arguments_are_values_and_nothing_else(ragflow, arguments):
    assert await ragflow.value("def main(**given): return given", **arguments) == arguments


@pytest.mark.parametrize(
    "raw",
    [
        b'{"code_b64": "", "language": "../python"}',
        b'{"code_b64": "", "language": {"a": 1}}',
        b'{"code_b64": "", "arguments": "{}"}',
        b'{"code_b64": ["YQ=="]}',
        b'{"code_b64": "YQ"}',
        b'{"code_b64": "YQ==\\n"}',
        b'{"code_b64": "\\u00e9"}',
        b'{"code_b64": "", "code_b64": ""}',
        b'{"code_b64": "", "arguments": ' + b'{"a":' * 200 + b"1" + b"}" * 201,
        b'{"code_b64": "", "arguments": {"a": [' + b"[]," * 70_000 + b"1]}}",
        b"\xff",
    ],
    ids=range(11),
)
async def test_a_request_that_is_none_runs_nothing(world, ragflow, raw):
    async with watched(world):
        status, answer, _ = await ragflow.post(raw)
    assert (status, list(answer)) == (400, ["detail"])


async def test_a_token_needs_both_scopes_and_a_token_of_one_sandbox_opens_nothing(client, tokens, program):
    for scopes in (("kernels", "files"), ("sandboxes", "files"), ("kernels:read", "sandboxes:read")):
        status, answer, _ = await client(tokens.issue("carol", *scopes)).post(body_of("def main(): return 1"))
        assert (status, list(answer)) == (403, ["detail"]), scopes
    assert await client(tokens.issue("carol", "sandboxes", "kernels")).value("def main(): return 1") == 1
    carol = program("carol")
    issued = await carol.post((await carol.claimed())["id"], "tokens", body={"scopes": ["kernels"]})
    status, answer, _ = await client(issued.body["token"]).post(body_of("def main(): return 1"))
    assert (status, list(answer)) == (403, ["detail"])


async def test_an_owner_without_room_is_told_that_it_is_busy(client, tokens):
    outcome = await client(tokens.issue("nothing")).run("def main(): return 1")
    assert (outcome["status"], outcome["exit_code"]) == ("program_runner_error", -10)
    assert outcome["detail"] == "quota_exceeded"


@pytest.mark.parametrize("password", ["", "wrong", "token alice", "jst_" + "0" * 20 + "_" + "A" * 43, "a:b", "\u00e9"])
async def test_who_is_nobody_runs_nothing(client, password):
    status, answer, _ = await client(password).post(body_of("def main(): return 1"))
    assert (status, list(answer)) == (401, ["detail"])
