"""E2B's asynchronous SDK, as it is published: what `test_e2b` asks the synchronous one, which is code of its own.

Watched directories and streams of files are in `test_e2b_files`.
"""

from __future__ import annotations

import asyncio
import functools
import urllib.error
import urllib.request

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    NotFoundException,
    PtySize,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from e2b_code_interpreter import AsyncSandbox

from tests.e2e import e2b_clients

KIND = {"kind": "asynchronous"}

pytestmark = pytest.mark.timeout(180)


def with_sandbox(use):
    """Make a test of a coroutine function: it gets a sandbox of its own, in a loop of its own."""

    @functools.wraps(use)
    def test(served):
        async def run():
            async with await AsyncSandbox.create(timeout=60, envs={"FROM": "create"}, metadata=KIND) as sandbox:
                await use(sandbox)

        e2b_clients.in_a_loop(run)

    del test.__wrapped__  # pytest must see that the test wants `served`
    return test


def fetched(url, data=None, **headers):
    """The body of an answer, for use in a thread."""
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return answer.read()


# -- code


@with_sandbox
async def test_code_keeps_its_state_and_tells_what_it_says_as_it_comes(sandbox):
    heard, results = [], []
    ran = await sandbox.run_code(
        "x = 41\nprint('hello')\nx + 1",
        on_stdout=lambda message: heard.append(message.line),
        on_result=lambda result: results.append(result.text),
    )
    assert (ran.text, "".join(ran.logs.stdout), ran.error) == ("42", "hello\n", None)
    assert ("".join(heard), results) == ("hello\n", ["42"])
    failed = await sandbox.run_code("x / 0")
    assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in failed.error.traceback
    code = "import os; os.environ.get('FROM'), os.environ.get('ONCE')"
    assert (await sandbox.run_code(code, envs={"ONCE": "1"})).text == "('create', '1')"
    assert (await sandbox.run_code(code)).text == "('create', None)"


@with_sandbox
async def test_code_that_is_sent_at_once_runs_one_after_the_other(sandbox):
    ran = await asyncio.gather(*(sandbox.run_code(f"{i} * 2") for i in range(5)))
    assert [each.text for each in ran] == ["0", "2", "4", "6", "8"]


@with_sandbox
async def test_contexts_are_kernels_of_their_own(sandbox):
    context = await sandbox.create_code_context(cwd="/home/user")
    await sandbox.run_code("mine = 1", context=context)
    assert (await sandbox.run_code("'mine' in globals()")).text == "False"
    assert (await sandbox.run_code("mine", context=context)).text == "1"
    assert context.id in {each.id for each in await sandbox.list_code_contexts()}
    await sandbox.restart_code_context(context)
    assert (await sandbox.run_code("'mine' in globals()", context=context)).text == "False"
    await sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException):
        await sandbox.run_code("1", context=context)


@with_sandbox
async def test_code_that_its_client_gives_up_is_interrupted(sandbox):
    with pytest.raises(TimeoutException):
        await sandbox.run_code("while True: pass", timeout=1)
    assert (await sandbox.run_code("6 * 7", timeout=20)).text == "42"
    begun = asyncio.Event()
    code = "print('begun', flush=True)\nwhile True: pass"
    endless = asyncio.create_task(sandbox.run_code(code, on_stdout=lambda _: begun.set()))
    async with asyncio.timeout(20):
        await begun.wait()
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    assert (await sandbox.run_code("6 * 7", timeout=20)).text == "42"


# -- commands


@with_sandbox
async def test_commands_tell_their_output_and_their_exit_code(sandbox):
    heard = []
    done = await sandbox.commands.run("echo out $FROM; echo err >&2", on_stdout=heard.append)
    assert (done.stdout, done.stderr, done.exit_code) == ("out create\n", "err\n", 0)
    assert "".join(heard) == "out create\n"
    with pytest.raises(CommandExitException) as failed:
        await sandbox.commands.run("echo no >&2; exit 3")
    assert (failed.value.exit_code, failed.value.stderr) == (3, "no\n")
    with pytest.raises(TimeoutException):
        await sandbox.commands.run("sleep 1000", timeout=1)


@with_sandbox
async def test_commands_in_the_background_read_what_is_sent_are_followed_and_killed(sandbox):
    running = await sandbox.commands.run("cat; echo done", background=True, stdin=True)
    assert running.pid in {each.pid for each in await sandbox.commands.list()}
    followed = await sandbox.commands.connect(running.pid)
    await sandbox.commands.send_stdin(running.pid, "typed\n")
    await sandbox.commands.close_stdin(running.pid)
    assert (await running.wait()).stdout == (await followed.wait()).stdout == "typed\ndone\n"
    endless = await sandbox.commands.run("sleep 1000", background=True)
    assert await endless.kill()
    with pytest.raises(CommandExitException):
        await endless.wait()
    assert not await sandbox.commands.kill(endless.pid)
    assert await sandbox.commands.list() == []


@with_sandbox
async def test_a_terminal_is_one_and_can_be_resized(sandbox):
    seen = []
    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=seen.append)
    await sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    await sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 0\n")
    await terminal.wait()
    assert b"30 100" in b"".join(seen)
    left = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=seen.append)
    assert await sandbox.pty.kill(left.pid)


# -- files


@with_sandbox
async def test_files_are_written_read_listed_moved_and_removed(sandbox):
    files = sandbox.files
    written = await files.write("a/b.txt", "text")
    assert (written.path, written.name) == ("/home/user/a/b.txt", "b.txt")
    await files.write_files([{"path": "one", "data": b"\x00\xff"}, {"path": "two/three", "data": "3"}])
    assert await files.read("one", format="bytes") == b"\x00\xff"
    assert sorted(each.path for each in await files.list("/home/user", depth=2)) == [
        *("/home/user/a", "/home/user/a/b.txt", "/home/user/one", "/home/user/two", "/home/user/two/three")
    ]
    assert (await files.make_dir("d"), await files.make_dir("d")) == (True, False)
    assert (await files.rename("a/b.txt", "d/c.txt")).path == "/home/user/d/c.txt"
    info = await files.get_info("d/c.txt")
    assert (info.size, info.permissions, info.type.value) == (4, "-rw-r--r--", "file")
    await files.remove("d")
    assert not await files.exists("d/c.txt")
    with pytest.raises(FileNotFoundException):
        await files.read("d/c.txt")


@with_sandbox
async def test_signed_urls_work_for_what_they_were_signed_for(sandbox):
    await sandbox.files.write("s.txt", "signed")
    url = sandbox.download_url("s.txt", use_signature_expiration=60)
    assert await asyncio.to_thread(fetched, url) == b"signed"
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(fetched, url.replace("s.txt", "other.txt"))
    refused.value.close()
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="u.txt"\r\n\r\nsent\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    await asyncio.to_thread(fetched, sandbox.upload_url("u.txt"), form, **kind)
    assert await sandbox.files.read("u.txt") == "sent"


# -- the life of a sandbox


@with_sandbox
async def test_sandboxes_are_listed_by_their_time_on_full_pages(sandbox):
    metadata = {"kind": "listed asynchronously"}
    made = [await AsyncSandbox.create(timeout=60, metadata=metadata) for _ in range(2)]
    ids = [each.sandbox_id for each in made]
    second = (await made[1].get_info()).started_at

    async def listed(order=None, **query):
        pages, found = AsyncSandbox.list(query=SandboxQuery(metadata=metadata, **query), order=order, limit=1), []
        while pages.has_next:
            (each,) = await pages.next_items()
            found.append(each.sandbox_id)
        return found

    assert await listed() == await listed(order="desc", template="base") == ids[::-1]
    assert await listed(order="asc") == ids
    assert await listed(started_after=second) == ids[1:]
    for each in made:
        assert await each.kill()


@with_sandbox
async def test_a_sandbox_is_found_and_lives_as_long_as_it_is_told(sandbox):
    (found,) = await AsyncSandbox.list(query=SandboxQuery(metadata=KIND)).next_items()
    assert (found.sandbox_id, found.metadata) == (sandbox.sandbox_id, KIND)
    before = (await sandbox.get_info()).end_at
    await sandbox.set_timeout(200)
    assert 100 < ((await sandbox.get_info()).end_at - before).total_seconds() < 200
    (now,) = await sandbox.get_metrics()
    assert 0 < now.mem_used < now.mem_total


@with_sandbox
async def test_a_paused_sandbox_keeps_its_memory_its_files_and_its_commands(sandbox):
    await sandbox.run_code("kept = 41")
    await sandbox.files.write("x", "y")
    running = await sandbox.commands.run("cat; echo done", background=True, stdin=True)
    assert (await sandbox.pause(), await sandbox.pause()) == (True, False)
    assert not await sandbox.is_running()
    assert (await sandbox.get_info()).state is SandboxState.PAUSED
    with pytest.raises((SandboxException, TimeoutException), match="not found"):
        await sandbox.run_code("kept")
    with pytest.raises(SandboxException, match="not supported here"):
        await sandbox.create_snapshot()
    same = await AsyncSandbox.connect(sandbox.sandbox_id)
    assert (await same.run_code("kept + 1")).text == "42"
    assert await same.files.read("x") == "y"
    await same.commands.send_stdin(running.pid, "typed\n")
    await same.commands.close_stdin(running.pid)
    assert (await running.wait()).stdout == "typed\ndone\n"


@with_sandbox
async def test_a_network_is_restricted_and_told(sandbox):
    assert (await sandbox.get_info()).network is None
    await sandbox.update_network({"deny_out": lambda context: [context.all_traffic]})
    info = await sandbox.get_info()
    assert info.allow_internet_access is False
    assert info.network == {"allow_out": [], "deny_out": ["0.0.0.0/0", "::/0"]}
    with pytest.raises(SandboxException, match="not supported here"):
        await sandbox.update_network({"allow_out": ["example.com"]})
    await sandbox.update_network({})
    assert (await sandbox.get_info()).network is None


@with_sandbox
async def test_a_sandbox_that_is_gone_is_told_as_the_sdk_expects(sandbox):
    assert await sandbox.kill()
    assert not await sandbox.is_running()
    assert not await sandbox.kill()
    for use in (sandbox.commands.run("ls"), sandbox.files.read("x"), sandbox.run_code("1")):
        with pytest.raises((SandboxException, TimeoutException), match="not found"):
            await use
    with pytest.raises(SandboxNotFoundException):
        await AsyncSandbox.connect(sandbox.sandbox_id)


def test_a_wrong_key_opens_nothing(served):
    async def use():
        with pytest.raises(AuthenticationException):
            await AsyncSandbox.create(api_key="e2b_" + "0" * 64)

    e2b_clients.in_a_loop(use)
