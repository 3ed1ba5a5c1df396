"""ZMTP without I/O: whole messages come out however they were cut, and no amount of anything is kept."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_sandbox import zmtp
from jupyter_sandbox.errors import ProtocolError

pytestmark = pytest.mark.unit

READY = zmtp.ready("DEALER", b"us")
LIMITS = {"max_bytes": 1000, "max_parts": 8, "give_up_bytes": 5000}


def decoder(**limits) -> zmtp.Decoder:
    """One whose handshake is done."""
    made = zmtp.Decoder(**LIMITS | limits)
    made.feed(zmtp.GREETING + READY)
    assert made.next_event() == zmtp.Ready()
    assert made.next_event() is None
    return made


def events(made: zmtp.Decoder) -> list[zmtp.Event]:
    return list(iter(made.next_event, None))


def frame(body: bytes, *, more=False, command=False, long=False) -> bytes:
    flags = more | (2 if long or len(body) > 255 else 0) | (4 if command else 0)
    return bytes([flags]) + len(body).to_bytes(8 if flags & 2 else 1, "big") + body


messages = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=8), max_size=6)


@given(messages, st.lists(st.integers(1, 400)))
def test_whole_messages_come_out_however_they_were_cut(sent, cuts):
    data = zmtp.GREETING + READY + b"".join(map(zmtp.encode, sent))
    made, received = zmtp.Decoder(max_bytes=1 << 20, max_parts=8, give_up_bytes=1 << 20), []
    for size in [*cuts, len(data)]:
        made.feed(data[:size])
        data = data[size:]
        received += events(made)
    assert received == [zmtp.Ready(), *map(zmtp.Message, sent)]


@given(messages)
def test_what_is_too_large_is_skipped_and_the_rest_comes(sent):
    made = decoder(max_bytes=600, max_parts=4, give_up_bytes=1 << 20)
    made.feed(b"".join(map(zmtp.encode, sent)))
    for parts, event in zip(sent, events(made), strict=True):
        size = sum(map(len, parts))
        if size <= 600 and len(parts) <= 4:
            assert event == zmtp.Message(parts)
        else:
            assert event.size_bytes == size
            assert event.head == parts[: len(event.head)]
            assert len(event.head) <= 4


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_events_or_an_end(data, is_greeted):
    made = decoder() if is_greeted else zmtp.Decoder(**LIMITS)
    made.feed(data)
    try:
        events(made)
    except ProtocolError:
        return


def test_the_start_of_a_large_message_is_kept():
    made = decoder()
    made.feed(zmtp.encode([b"topic", b"<IDS|MSG>", b"x" * 2000, b"y"]))
    assert events(made) == [zmtp.Oversized(2015, [b"topic", b"<IDS|MSG>"])]


def test_a_large_message_uses_no_memory_while_it_passes():
    made = decoder(max_bytes=1 << 20, give_up_bytes=1 << 40)
    made.feed(b"\x02" + (200 << 20).to_bytes(8, "big"))
    chunk = bytes(1 << 16)
    tracemalloc.start()
    for _ in range(200 << 4):
        assert made.next_event() is None
        made.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert events(made) == [zmtp.Oversized(200 << 20, [])]
    assert peak < 1 << 20


def test_a_frame_that_is_only_announced_takes_no_memory():
    made = decoder(max_bytes=1 << 30, give_up_bytes=1 << 40)
    tracemalloc.start()
    made.feed(b"\x02" + (1 << 30).to_bytes(8, "big"))
    assert made.next_event() is None
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()


ENDLESS = {
    "a frame of 2**63 bytes": b"\x02" + b"\x7f" + b"\xff" * 7,
    "frames without end": zmtp.encode([b"x" * 900] * 7)[:-903] * 3,
    "empty frames without end": frame(b"", more=True) * 70_000,
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_message_without_end_ends_the_connection(what):
    made = decoder()
    with pytest.raises(ProtocolError):
        for _ in range(4):
            made.feed(ENDLESS[what])
            events(made)


STRANGERS = {
    "text": b"HTTP/1.1 400 Bad Request\r\n" * 4,
    "ZMTP 2": zmtp.GREETING[:10] + b"\x01" + zmtp.GREETING[11:],
    "encryption": zmtp.GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
    "a refusal": zmtp.GREETING + frame(b"\x05ERROR\x04gone", command=True),
    "a message too early": zmtp.GREETING + zmtp.encode([b"x"]),
    "unknown flags": zmtp.GREETING + READY + b"\xf8\x00",
    "a large command": zmtp.GREETING + READY + frame(bytes(5000), command=True),
    "an empty command for a handshake": zmtp.GREETING + frame(b"", command=True),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_strangers_are_hung_up_on(who):
    made = zmtp.Decoder(**LIMITS)
    made.feed(STRANGERS[who])
    with pytest.raises(ProtocolError):
        events(made)


def test_a_ping_is_told_and_other_commands_mean_nothing():
    made = decoder()
    made.feed(frame(b"\x04PING\x00\x0acontext", command=True) + frame(b"\x05OTHER", command=True, long=True))
    made.feed(frame(b"\x04PING", command=True) + frame(b"", command=True) + zmtp.encode([b"m"]))
    assert events(made) == [zmtp.Ping(b"context"), zmtp.Message([b"m"])]
    assert zmtp.pong(b"context") == frame(b"\x04PONGcontext", command=True)
