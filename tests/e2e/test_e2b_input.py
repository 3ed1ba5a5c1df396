"""Streams of input by E2B's SDKs, as they are published: for commands and terminals, to their end and to the command's."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time

import pytest
from e2b import InvalidArgumentException, NotFoundException, PtySize, SandboxException, TimeoutException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.e2e import e2b_clients

PIECE = bytes(range(256)) * 1024
PIECES = 64
"""More than a pipe and what waits before it hold."""
NO_PID = 999_999_999

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def sandbox(served):
    made = Sandbox.create(timeout=170)
    yield made
    made.kill()


def asked(sandbox, use):
    """Run a coroutine with the asynchronous SDK's view of the sandbox."""

    async def run():
        await use(await AsyncSandbox.connect(sandbox.sandbox_id))

    e2b_clients.in_a_loop(run)


def test_what_an_iterator_gives_is_read_in_order_as_it_comes(sandbox):
    running = sandbox.commands.run("while read line; do echo got $line; done", background=True, stdin=True)
    heard = threading.Event()
    follower = threading.Thread(target=lambda: running.wait(on_stdout=lambda text: "got one" in text and heard.set()))
    follower.start()

    def lines():
        yield "one\n"
        assert heard.wait(20), "the first line waits for the second one"
        yield b"two\n"

    assert sandbox.commands.stream_input(running.pid, lines()) is None
    sandbox.commands.stream_input(running.pid, ["three", "\n"])
    sandbox.commands.close_stdin(running.pid)
    follower.join(20)
    assert sandbox.commands.connect(running.pid).wait().stdout == "got one\ngot two\ngot three\n"


def test_a_client_waits_for_a_command_that_does_not_read_and_nothing_is_lost(sandbox):
    command = "until test -e go; do sleep 0.05; done; sha256sum"
    running = sandbox.commands.run(command, background=True, stdin=True)
    given = []

    def pieces():
        for _ in range(PIECES):
            given.append(PIECE)
            yield PIECE

    sender = threading.Thread(target=sandbox.commands.stream_input, args=(running.pid, pieces()))
    sender.start()
    deadline = time.monotonic() + 20
    while len(given) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sandbox.files.write("go", "")
    sender.join(60)
    sandbox.commands.close_stdin(running.pid)
    assert running.wait().stdout.split()[0] == hashlib.sha256(PIECE * PIECES).hexdigest()


def test_a_terminal_reads_a_stream(sandbox):
    seen = []
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.stream_input(terminal.pid, ["echo o", b"ne; ", "exit 0\n"])
    terminal.wait(on_pty=seen.append)
    assert b"one" in b"".join(seen).replace(b"echo one", b"")


def test_who_names_no_command_that_runs_is_told_though_he_sends_without_end(sandbox):
    ended = sandbox.commands.run("true", background=True, stdin=True)
    ended.wait()
    for pid in (NO_PID, ended.pid):
        with pytest.raises(NotFoundException):
            sandbox.commands.stream_input(pid, itertools.repeat("x" * 1000), timeout=20)
        with pytest.raises(NotFoundException):
            sandbox.pty.stream_input(pid, [])


def test_a_command_that_has_ended_reads_no_more(sandbox):
    running = sandbox.commands.run("head -c 1", background=True, stdin=True)
    with pytest.raises((NotFoundException, InvalidArgumentException)):
        sandbox.commands.stream_input(running.pid, itertools.repeat("x" * 1000), timeout=20)
    assert running.wait().stdout == "x"


def test_a_command_without_input_is_fed_nothing(sandbox):
    running = sandbox.commands.run("sleep 1000", background=True)
    with pytest.raises(SandboxException, match="does not read its standard input"):
        sandbox.commands.stream_input(running.pid, ["x"])
    running.kill()


def test_the_asynchronous_handle_sends_what_it_is_given_and_its_end_is_not_the_commands(sandbox):
    async def use(sandbox):
        heard = asyncio.Event()
        running = await sandbox.commands.run(
            "while read line; do echo got $line; done", background=True, stdin=True, on_stdout=lambda _: heard.set()
        )
        async with sandbox.commands.stream_input(running.pid) as handle:
            await handle.send("one\n")
            async with asyncio.timeout(20):
                await heard.wait()
            for number in range(100):
                await handle.send(f"{number}\n")
        with pytest.raises(SandboxException, match="closed"):
            await handle.send("more")
        await sandbox.commands.close_stdin(running.pid)
        assert (await running.wait()).stdout == "got one\n" + "".join(f"got {number}\n" for number in range(100))

    asked(sandbox, use)


def test_a_handle_is_closed_in_peace_after_its_command_has_ended(sandbox):
    async def use(sandbox):
        running = await sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
        handle = sandbox.commands.stream_input(running.pid)
        await handle.send("one\n")
        assert (await running.wait()).stdout == "got one\n"
        await handle.close()

    asked(sandbox, use)


def test_a_handle_keeps_a_stream_alive(sandbox):
    async def use(sandbox):
        running = await sandbox.commands.run("cat", background=True, stdin=True)
        handle = sandbox.commands.stream_input(running.pid)
        handle._keepalive_interval = 0.01  # the SDK's own, for what it does every 50 s
        await handle.send("one ")
        await asyncio.sleep(0.3)
        await handle.send("two")
        await handle.close()
        await sandbox.commands.close_stdin(running.pid)
        assert (await running.wait()).stdout == "one two"

    asked(sandbox, use)


def test_a_terminal_of_the_asynchronous_sdk_reads_a_stream(sandbox):
    async def use(sandbox):
        seen = bytearray()
        terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=seen.extend)
        async with sandbox.pty.stream_input(terminal.pid) as handle:
            await handle.send("stty size; ")
            await handle.send(b"exit 0\n")
        await terminal.wait()
        assert b"24 80" in seen

    asked(sandbox, use)


def test_a_handle_hears_that_there_is_no_such_command_and_that_its_time_is_over(sandbox):
    async def use(sandbox):
        with pytest.raises(NotFoundException):
            async with sandbox.commands.stream_input(NO_PID):
                pass
        running = await sandbox.commands.run("cat", background=True, stdin=True)
        handle = sandbox.commands.stream_input(running.pid, timeout=1)
        with pytest.raises(TimeoutException):
            async with asyncio.timeout(20):
                await handle._task
                await handle.close()
        await sandbox.commands.send_stdin(running.pid, "still there")
        await sandbox.commands.close_stdin(running.pid)
        assert (await running.wait()).stdout == "still there"

    asked(sandbox, use)
