"""The pure parts of commands: what is kept of output, how bytes become JSON, how an end is told, what is refused."""

from __future__ import annotations

import asyncio
import base64
import collections
import itertools
from types import SimpleNamespace

import pytest

from jupyter_sandbox import kept
from jupyter_sandbox.command import Command, CommandOutcome, NewCommand, end_of
from jupyter_sandbox.command_output import Piece, Stream, Tail
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import processes
from jupyter_sandbox.surfaces.native import command_models, models
from sandbox_worker.protocol import TerminalSize

pytestmark = pytest.mark.unit

NEW = command_models.new_command(models.Times())


# -- the end of a stream


def test_a_tail_keeps_the_last_bytes_and_counts_the_others():
    tail = Tail(4)
    for data in (b"abc", b"d", b"efgh"):
        tail.put(data)
        tail.trim(tail.end)
    assert (tail.start, tail.end, tail.since(0, 100)) == (4, 8, (4, b"efgh"))


def test_a_tail_keeps_what_somebody_is_still_to_get():
    tail = Tail(2)
    tail.put(b"abcdef")
    tail.trim(wanted_from=1)
    assert tail.since(0, 3) == (1, b"bcd")


def test_a_tail_without_room_counts_all():
    tail = Tail(0)
    tail.put(b"abc")
    tail.trim(tail.end)
    assert (tail.since(0, 9), tail.end) == ((3, b""), 3)


def command(**wanted) -> Command:
    values = {"argv": ("x",), "max_output_bytes": 10, "timeout_s": None} | wanted
    return Command("cmd_1", 7, "alice", "sbx_1", NewCommand(**values))


async def test_who_comes_late_gets_what_is_kept_with_its_place():
    running = command()
    running.put(Stream.STDOUT, b"0123456789abc")
    running.end(end_of(0, ""))
    pieces = [(piece.stream, piece.offset, piece.data) async for piece in running.follow()]
    assert pieces == [(Stream.STDOUT, 3, b"3456789abc")]


async def test_a_command_waits_for_the_fastest_who_follows_it_and_loses_nothing_for_him():
    running = command()
    fast, slow = running.follow(), running.follow()
    running.put(Stream.STDOUT, b"x" * (1 << 18))
    assert running.is_held_up(Stream.STDOUT)
    got = aiter(fast)
    taken = 0
    while taken < 1 << 18:
        piece = await anext(got)
        assert piece.offset == taken
        taken += len(piece.data)
    running.put(Stream.STDOUT, b"y" * 10)
    assert (await anext(got)).data == b"y" * 10
    assert not running.is_held_up(Stream.STDOUT)
    running.put(Stream.STDOUT, b"")
    late = await anext(aiter(slow))
    assert late.offset + len(late.data) == (1 << 18) + 10, "the slow one is told by the offset how much is missing"
    slow.close()
    fast.close()
    assert not running.is_followed()


async def test_who_closes_comes_to_an_end_though_the_command_does_not():
    running = command()
    follower = running.follow()

    async def all_of_it():
        return [piece async for piece in follower]

    waiting = asyncio.create_task(all_of_it())
    await asyncio.sleep(0)
    follower.close()
    assert await waiting == []


# -- how it ended


@pytest.mark.parametrize(
    ("status", "outcome", "exit_code", "signal"),
    [(0, "ok", 0, None), (3, "error", 3, None), (-15, "signalled", None, "SIGTERM"), (-63, "signalled", None, "SIG63")],
)
def test_an_end_is_told_by_its_status(status, outcome, exit_code, signal):
    end = end_of(status, "words")
    assert (end.outcome, end.exit_code, end.signal) == (CommandOutcome(outcome), exit_code, signal)


def _item(name, owner="alice", *, is_over=True, is_detached=True):
    return SimpleNamespace(id=name, owner=owner, is_over=is_over, is_detached=is_detached, kept_bytes=10)


@pytest.mark.parametrize(
    ("max_kept", "max_kept_bytes", "left"),
    [
        (9, 999, ["a", "b", "c", "d", "e"]),
        (2, 999, ["b", "c", "d", "e"]),
        (9, 15, ["b", "c", "e"]),
        (0, 999, ["b", "c"]),
    ],
)
def test_the_oldest_of_an_owner_are_forgotten_and_those_that_run_never(max_kept, max_kept_bytes, left):
    items = [_item("a"), _item("b", "bob"), _item("c", is_over=False), _item("d"), _item("e")]
    known = collections.OrderedDict((each.id, each) for each in items)
    kept.settle(known, items[-1], max_kept=max_kept, max_kept_bytes=max_kept_bytes)
    assert list(known) == left


def test_what_is_not_detached_is_forgotten_when_it_ends():
    known = {"a": _item("a"), "b": _item("b", is_detached=False)}
    kept.settle(known, known["b"], max_kept=9, max_kept_bytes=999)
    assert list(known) == ["a"]


# -- bytes as JSON


async def _of(values):
    for value in values:
        yield value


async def told(*data: bytes, stream=Stream.STDOUT):
    offsets = itertools.accumulate(map(len, data), initial=0)
    pieces = [Piece(stream=stream, offset=offset, data=part) for offset, part in zip(offsets, data, strict=False)]
    return [event async for event in command_models.events(_of(pieces))]


def back(event) -> bytes:
    return event["text"].encode() if event["text"] is not None else base64.b64decode(event["base64"])


@pytest.mark.parametrize("text", ["a", "ä", "€", "𝄞", "aä€𝄞\n"])
async def test_no_character_is_cut_wherever_the_pieces_are(text):
    data = text.encode()
    for size in range(1, len(data) + 1):
        events = await told(*(data[start : start + size] for start in range(0, len(data), size)))
        assert "".join(event["text"] for event in events) == text
        assert [event["offset"] for event in events] == list(
            itertools.accumulate((len(back(event)) for event in events[:-1]), initial=0)
        )


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xc3", b"a\xe2\x82", b"\x80\x80", b"\xf0\x9d\x84", b"\xed\xa0\x80", b"\xc3\xc3\xa4"]
)
async def test_bytes_that_are_no_text_come_back_as_they_are(data):
    for size in (1, 2, 3, len(data)):
        events = await told(*(data[start : start + size] for start in range(0, len(data), size)))
        assert b"".join(map(back, events)) == data


async def test_half_a_character_before_a_gap_is_told_and_not_joined():
    pieces = [
        Piece(stream=Stream.STDOUT, offset=0, data=b"a\xc3"),
        Piece(stream=Stream.STDERR, offset=0, data=b"e"),
        Piece(stream=Stream.STDOUT, offset=9, data=b"\xa4b"),
    ]
    events = [event async for event in command_models.events(_of(pieces))]
    assert [(event["stream"], event["offset"], back(event)) for event in events] == [
        ("stdout", 0, b"a"),
        ("stderr", 0, b"e"),
        ("stdout", 1, b"\xc3"),
        ("stdout", 9, b"\xa4b"),
    ]


async def test_what_is_kept_begins_and_ends_with_a_character():
    running = command(max_output_bytes=4)
    running.put(Stream.STDOUT, "ä€b".encode() + b"\xe2")
    (out, err) = command_models.command_with_output(running.view())["output"]
    assert out == {"stream": "stdout", "offset": 5, "text": "b", "base64": None}
    assert err == {"stream": "stderr", "offset": 0, "text": "", "base64": None}


# -- what is refused


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"argv": ["ls"], "line": "ls"},
        {"argv": []},
        {"argv": None, "line": "ls"},
        {"line": None},
        {"argv": "ls"},
        {"argv": [1]},
        {"argv": ["a\0b"]},
        {"argv": ["\ud800"]},
        {"argv": ["x" * 32_769]},
        {"argv": ["x"] * 257},
        {"line": ""},
        {"line": "ls", "cwd": "/etc"},
        {"line": "ls", "cwd": "sandbox"},
        {"line": "ls", "env": {"A=B": ""}},
        {"line": "ls", "env": {"": "x"}},
        {"line": "ls", "env": {"A": "\0"}},
        {"line": "ls", "timeout_s": 0},
        {"line": "ls", "timeout_s": 1e9},
        {"line": "ls", "max_output_bytes": -1},
        {"line": "ls", "max_output_bytes": 1 << 30},
        {"line": "ls", "terminal": {}},
        {"line": "ls", "terminal": {"rows": 0, "columns": 80}},
        {"line": "ls", "terminal": {"rows": 24, "columns": 4097}},
        {"line": "ls", "terminal": {"rows": 24, "columns": 80, "x": 1}},
        {"line": "ls", "terminal": True},
        {"line": "ls", "tag": ""},
        {"line": "ls", "tag": "a\nb"},
        {"line": "ls", "user": "root"},
    ],
    ids=str,
)
def test_a_body_that_is_no_command_is_refused(body):
    with pytest.raises(InvalidRequestError):
        NEW.judge(body)


def test_a_line_is_for_the_shell():
    assert NEW.judge({"line": "a | b"}).argv == ("/bin/sh", "-c", "a | b")


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x", "base64": "eA=="},
        {"base64": "x"},
        {"base64": "eA==\n"},
        {"base64": "e=A="},
        {"base64": "eA="},
        {"base64": None},
        {"text": "x" * ((1 << 16) + 1)},
        {"base64": "A" * ((1 << 18) // 3 + 1) * 4},
        {"text": "\udfff"},
        {"text": 1},
        {"close": "yes"},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_body_that_is_no_input_is_refused(body):
    with pytest.raises(InvalidRequestError):
        command_models.INPUT.judge(body)


@pytest.mark.parametrize(
    ("body", "data", "close"),
    [({}, b"", False), ({"text": "a\0\n"}, b"a\0\n", False), ({"base64": "/w==", "close": True}, b"\xff", True)],
)
def test_input_is_text_or_bytes(body, data, close):
    assert command_models.INPUT.judge(body) == command_models.Input(data=data, close=close)


@pytest.mark.parametrize("argv", [["x" * 8000] * 5, ["\0"], ["\x01" * 8000], []], ids=range(4))
def test_arguments_that_no_message_can_hold_are_refused(argv):
    with pytest.raises(InvalidRequestError):
        processes.argv(argv)


@pytest.mark.parametrize(("rows", "columns"), [(0, 80), (24, 0), (-1, 80), (4097, 80), (24, 1 << 40)])
def test_a_terminal_has_a_size(rows, columns):
    with pytest.raises(InvalidRequestError):
        processes.terminal_size(TerminalSize(rows=rows, columns=columns))


@pytest.mark.parametrize("name", ["", "KILL", "sigkill", "SIGSEGV", "9", "SIGKILL\n"])
def test_a_signal_is_called_by_its_name(name):
    with pytest.raises(InvalidRequestError):
        processes.signal_named(name)


def test_every_signal_that_may_be_sent_has_a_name():
    assert [processes.signal_number(processes.signal_named(name)) for name in processes.SIGNAL_NAMES]
