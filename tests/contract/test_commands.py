"""Commands on every engine: streams, terminals, signals, ends, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace

import pytest

from jupyter_sandbox import owners
from jupyter_sandbox.command import CommandOutcome, CommandState, NewCommand
from jupyter_sandbox.command_output import Stream
from jupyter_sandbox.commands import MAX_INPUT_BYTES, CommandBounds, Commands
from jupyter_sandbox.errors import BusyError, ConflictError, InvalidRequestError, UnknownCommandError
from sandbox_worker.protocol import TerminalSize
from tests.tries import tries

OWNER = owners.EVERYBODY
SIZE = TerminalSize(rows=30, columns=100)


class Known:
    """Of all sandboxes only those of a case; the rest of the service is real."""

    def __init__(self, *boxes):
        self._boxes = {box.id: SimpleNamespace(id=box.id, claim=None) for box in boxes}

    def find_running(self, owner, sandbox_id):
        return self._boxes[sandbox_id]

    find = find_running


@contextlib.asynccontextmanager
async def serving(box, **bounds):
    commands = Commands(Known(box), CommandBounds(**bounds))
    yield commands
    await commands.stop()


def wanted(*argv, **more) -> NewCommand:
    values = {"timeout_s": 20, "max_output_bytes": 1 << 20} | more
    return NewCommand(argv=argv if len(argv) > 1 else ("/bin/sh", "-c", *argv), **values)


def run(box, *argv, typed=None, **more):
    """The view of a command that has ended; `typed` is what it reads."""

    async def ended():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted(*argv, with_input=typed is not None, **more))
            if typed is not None:
                commands.write(command, typed, close=True)
            return await command.ended()

    return asyncio.run(ended())


def out(view, stream=Stream.STDOUT) -> bytes:
    return view.kept[stream].data


def python(code: str) -> tuple[str, ...]:
    return ("python3", "-c", code)


# -- streams


def test_streams_are_apart_and_every_byte_arrives(box):
    view = run(box, "printf 'a\\0\\377'; printf b >&2; exit 3")
    assert (out(view), out(view, Stream.STDERR)) == (b"a\0\xff", b"b")
    assert (view.end.outcome, view.end.exit_code, view.end.signal) == (CommandOutcome.ERROR, 3, None)


def test_input_is_read_to_its_end(box):
    assert out(run(box, "cat", typed=b"one\ntwo\xff")) == b"one\ntwo\xff"


def test_without_input_a_command_reads_the_end_at_once(box):
    view = run(box, "cat; echo done")
    assert (out(view), view.end.outcome) == (b"done\n", CommandOutcome.OK)


def test_megabytes_come_in_order_without_a_gap(box):
    async def followed():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted(*python("print('x' * 5_000_000, end='')")))
            place = 0
            async for piece in command.follow():
                assert (piece.offset, set(piece.data)) == (place, {ord("x")})
                place += len(piece.data)
            return place, (await command.ended()).end.outcome

    assert asyncio.run(followed()) == (5_000_000, CommandOutcome.OK)


def test_of_much_output_the_end_is_kept_and_the_rest_counted(box):
    view = run(box, *python("print('x' * 3_000_000 + 'end', end='')"), max_output_bytes=1000)
    kept = view.kept[Stream.STDOUT]
    assert (kept.offset, len(kept.data), kept.data[-4:]) == (3_000_003 - 1000, 1000, b"xend")
    assert view.written == {Stream.STDOUT: 3_000_003, Stream.STDERR: 0}


def test_many_follow_one_command_and_who_comes_late_gets_what_is_kept(box):
    async def followed():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("echo one; read x; echo $x", with_input=True))
            first, second = aiter(command.follow()), aiter(command.follow())
            assert (await anext(first)).data == (await anext(second)).data == b"one\n"
            late = aiter(command.follow())
            assert (await anext(late)).data == b"one\n"
            commands.write(command, b"two\n")
            assert {(await anext(each)).data for each in (first, second, late)} == {b"two\n"}

    asyncio.run(followed())


# -- where and as what it runs


def test_it_runs_where_and_with_what_is_wanted(box):
    view = run(box, "pwd; echo $WORD; id -un", cwd="/tmp", env={"WORD": "a b"})
    assert out(view) == b"/tmp\na b\nsandbox\n"


def test_a_program_is_looked_for_from_its_own_directory_and_path(box):
    script = "mkdir -p /sandbox/bin && printf '#!/bin/sh\\necho mine' > /sandbox/bin/tool && chmod +x /sandbox/bin/tool"
    assert run(box, script).end.outcome is CommandOutcome.OK
    assert out(run(box, "./tool", "x", cwd="/sandbox/bin")) == b"mine\n"
    assert out(run(box, "tool", "x", env={"PATH": "/sandbox/bin:/usr/bin:/bin"})) == b"mine\n"


def test_a_program_that_cannot_be_executed_says_so(box):
    assert run(box, "printf junk > /sandbox/junk; chmod +x /sandbox/junk").end.exit_code == 0
    view = run(box, "/sandbox/junk", "x")
    assert view.end.exit_code == 126
    assert out(view, Stream.STDERR) == b"/sandbox/junk: Exec format error\n"


@pytest.mark.parametrize(
    ("argv", "more", "kind"),
    [
        (("no-such-program", "x"), {}, ConflictError),
        (("", "x"), {}, ConflictError),
        (("/", "x"), {}, ConflictError),
        (("/etc/passwd", "x"), {}, ConflictError),
        (("true", "x"), {"cwd": "/sandbox/nowhere"}, ConflictError),
        (("true", "x"), {"cwd": "/etc"}, InvalidRequestError),
        (("true", "x"), {"cwd": "/sandbox/../etc"}, InvalidRequestError),
        (("true", "a\0b"), {}, InvalidRequestError),
        (("true", "x"), {"env": {"A=B": "c"}}, InvalidRequestError),
    ],
)
def test_what_cannot_start_is_told_before(box, argv, more, kind):
    with pytest.raises(kind):
        run(box, *argv, **more)


# -- terminals


def shown(box, code, **more):
    return out(run(box, *python(code), terminal=SIZE, **more), Stream.TERMINAL).replace(b"\r\n", b"\n").decode()


def test_a_terminal_is_its_controlling_one_with_a_name_and_a_size(box):
    code = """
import os
print([os.isatty(n) for n in (0, 1, 2)], os.ttyname(0).startswith("/dev/pts/"), tuple(os.get_terminal_size(0)))
print(os.getsid(0) == os.getpid() == os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)), os.environ["TERM"])
"""
    assert shown(box, code) == "[True, True, True] True (100, 30)\nTrue xterm-256color\n"


def test_a_terminal_is_resized_from_outside(box):
    code = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])  # else it may come while `print` is at work
print("ready", flush=True)
signal.sigwait([signal.SIGWINCH])
print(tuple(os.get_terminal_size()), flush=True)
"""

    async def resized():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted(*python(code), terminal=SIZE))
            pieces = aiter(command.follow())
            assert (await anext(pieces)).data == b"ready\r\n"
            await commands.resize(command, TerminalSize(rows=7, columns=9))
            return b"".join([piece.data async for piece in pieces])

    assert asyncio.run(resized()) == b"(9, 7)\r\n"


def test_ctrl_c_at_a_terminal_interrupts_and_ctrl_d_ends_input(box):
    async def typed(key):
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("cat", "-", terminal=SIZE))
            pieces = aiter(command.follow())
            commands.write(command, b"x\n")
            assert (await anext(pieces)).data.startswith(b"x")
            commands.write(command, key)
            return (await command.ended()).end

    assert asyncio.run(typed(b"\x03")).signal == "SIGINT"
    assert asyncio.run(typed(b"\x04")).outcome is CommandOutcome.OK


def test_ctrl_c_that_was_typed_before_the_command_has_begun_is_not_lost(box):
    async def typed():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("sleep", "1000", terminal=SIZE))
            commands.write(command, b"\x03")
            return (await command.ended()).end

    assert {asyncio.run(typed()).signal for _ in range(20)} == {"SIGINT"}


def test_a_kill_that_comes_at_once_is_not_lost(box):
    async def signalled():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("sleep", "1000", timeout_s=10))
            await commands.signal(command, "SIGKILL")
            return (await command.ended()).end

    assert {asyncio.run(signalled()).signal for _ in range(20)} == {"SIGKILL"}


def test_the_last_words_at_a_terminal_arrive(box):
    assert shown(box, "print('x' * 300_000)") == "x" * 300_000 + "\n"


def test_a_terminal_opened_again_after_its_streams_were_closed_still_shows(box):
    code = "import os, time\nfor n in (0, 1, 2): os.close(n)\ntime.sleep(0.1)\nos.write(os.open('/dev/tty', os.O_RDWR), b'back')"
    assert shown(box, code) == "back"


def test_terminals_are_given_back(box):
    for _ in range(80):  # of 64 that may exist at once
        assert run(box, "true", "x", terminal=SIZE).end.outcome is CommandOutcome.OK


# -- ends


def test_a_signal_ends_a_command_with_its_children(box):
    async def signalled():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("sleep 1000 & echo $!; sleep 1000"))
            child = (await anext(aiter(command.follow()))).data.decode().strip()
            await commands.signal(command, "SIGTERM")
            view = await command.ended()
            await commands.signal(command, "SIGTERM")  # quiet
            return child, view.end

    child, end = asyncio.run(signalled())
    assert (end.outcome, end.signal, end.exit_code) == (CommandOutcome.SIGNALLED, "SIGTERM", None)
    assert run(box, f"kill -0 {child}").end.outcome is CommandOutcome.ERROR


@pytest.mark.parametrize("code", ["sleep 1000", "trap '' TERM INT HUP; while :; do :; done", "kill -STOP $$"])
def test_a_command_ends_in_its_time(box, code):
    for attempt in tries(2, at_most_s=15):
        view = run(box, code, timeout_s=0.3)
        assert (view.end.outcome, view.end.signal) == (CommandOutcome.TIMEOUT, "SIGKILL")
        attempt.took_s = view.duration_s


def test_a_daemon_that_keeps_the_streams_does_not_keep_the_command(box):
    daemon = "import os, time\nif os.fork(): os._exit(5)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(30)"
    view = run(box, "sh", "-c", f"python3 -c '{daemon}'; echo started; exit 4")
    assert (out(view), view.end.exit_code) == (b"started\n", 4)
    assert view.duration_s < 10


def test_a_command_that_closes_its_streams_and_stays_is_still_running(box):
    async def silent():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("exec >&- 2>&- <&-; exec sleep 1000", detached=True))
            await asyncio.sleep(0.3)
            running = command.view().state
            await commands.signal(command, "SIGKILL")
            return running, (await command.ended()).end.signal

    assert asyncio.run(silent()) == (CommandState.RUNNING, "SIGKILL")


def test_a_worker_that_dies_ends_its_commands(claim, broker):
    box = claim(start=False)

    async def lost():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("echo up; sleep 1000", detached=True))
            await anext(aiter(command.follow()))
            os.kill(broker.record(box.id)["pid"], signal.SIGKILL)
            return (await command.ended()).end

    end = asyncio.run(lost())
    assert end.outcome is CommandOutcome.DIED
    assert "sandbox" in end.message


def test_a_command_ends_with_its_sandbox_and_can_still_be_fetched(claim, broker):
    box = claim(start=False)

    async def released():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("echo up; sleep 1000", detached=True))
            await anext(aiter(command.follow()))
            await asyncio.to_thread(box.release)
            await command.ended()
            return commands.get(OWNER, box.id, command.id).view()

    view = asyncio.run(released())
    assert (view.end.outcome, out(view)) == (CommandOutcome.DIED, b"up\n")


def test_a_command_ends_with_its_broker_and_the_sandbox_lives_on(claim, own_broker):
    box = claim(start=False)

    async def orphaned():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("sleep 1000", detached=True))
            await asyncio.to_thread(own_broker.kill)
            end = (await command.ended()).end
            await asyncio.to_thread(own_broker.start)
            box.lease.listen()
            await box.lease.reattach()
            return end

    assert asyncio.run(orphaned()).outcome is CommandOutcome.DIED
    assert out(run(box, "for p in /proc/[0-9]*; do cat $p/comm; done")).split().count(b"sleep") == 0


# -- bounds


def test_a_command_that_reads_nothing_is_given_so_much_and_no_more(box):
    async def unread():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("sleep", "1000", with_input=True, detached=True))
            with pytest.raises(BusyError):
                for _ in range(10):
                    commands.write(command, b"x" * MAX_INPUT_BYTES)
            with pytest.raises(InvalidRequestError):
                commands.write(command, b"x" * (MAX_INPUT_BYTES + 1))
            command.cancel()
            await command.ended()
            with pytest.raises(ConflictError):
                commands.write(command, b"x")

    asyncio.run(unread())


def test_what_is_written_to_who_has_closed_its_input_is_refused(box):
    async def closed():
        async with serving(box) as commands:
            command = await commands.start(OWNER, box.id, wanted("exec <&-; echo up; exec sleep 1000", with_input=True))
            await anext(aiter(command.follow()))
            with pytest.raises(ConflictError):
                for _ in range(10):
                    commands.write(command, b"x")
                    await asyncio.sleep(0)

    asyncio.run(closed())


def test_of_ten_thousand_starts_as_many_run_as_may_and_nothing_is_left(box, broker):
    async def flood():
        before = len(os.listdir("/proc/self/fd"))
        async with serving(box, max_running=8) as commands:
            starts = [commands.start(OWNER, box.id, wanted("sleep", "1000", detached=True)) for _ in range(10_000)]
            started = await asyncio.gather(*starts, return_exceptions=True)
            refused = [each for each in started if isinstance(each, BusyError)]
            running = [each for each in started if each not in refused]
            for command in running:
                command.cancel()
                await command.ended()
            async with asyncio.timeout(5):
                while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110 - nobody tells when they are closed
                    await asyncio.sleep(0.01)
            return len(refused), len(running)

    assert asyncio.run(flood()) == (9_992, 8)


def test_only_detached_commands_are_kept_and_those_of_others_are_unknown(box):
    async def kept():
        async with serving(box) as commands:
            passing = await commands.start(OWNER, box.id, wanted("true", "x"))
            lasting = await commands.start(OWNER, box.id, wanted("true", "x", detached=True, tag="mine"))
            await passing.ended()
            await lasting.ended()
            await asyncio.sleep(0.1)
            listed = commands.all_in(OWNER, box.id)
            for owner, sandbox_id, command_id in (
                (OWNER, box.id, passing.id),
                ("somebody", box.id, lasting.id),
                (OWNER, "sbx_" + "0" * 20, lasting.id),
            ):
                with pytest.raises(UnknownCommandError):
                    commands.get(owner, sandbox_id, command_id)
            return [view.wanted.tag for view in listed]

    assert asyncio.run(kept()) == ["mine"]
