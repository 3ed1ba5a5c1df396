"""In which order requests are handled that a kernel reads in one go."""

from __future__ import annotations

import json

import pytest
import zmq

from sandbox_worker.arrivals import Arrivals


def request(connection, word, date="2026-01-01T00:00:00Z", header=None):
    header = json.dumps({"msg_id": "x", "date": date}) if header is None else header
    frames = [connection, b"<IDS|MSG>", b"", header, b"{}", b"{}", word]
    return [zmq.Frame(frame.encode() if isinstance(frame, str) else frame) for frame in frames]


def order(*requests):
    waiting = Arrivals()
    for each in requests:
        waiting.add(each, 0)
    return " ".join(waiting.next()[-1].bytes.decode() for _ in range(len(waiting)))


def at(seconds):
    return f"2026-01-01T00:00:{seconds:09.6f}Z"


def test_those_of_several_connections_are_put_in_the_order_of_their_dates():
    assert (
        order(
            *(request("A", "b", at(2)), request("A", "c", at(3)), request("A", "f", at(6))),
            *(request("B", "a", at(1)), request("B", "d", at(4)), request("B", "g", at(7))),
            request("C", "e", at(5)),
        )
        == "a b c d e f g"
    )


def test_equal_dates_keep_the_order_in_which_they_were_read():
    assert order(request("A", "a"), request("B", "b"), request("C", "c"), request("A", "d")) == "a b c d"


def test_what_one_connection_sent_keeps_its_order_whatever_its_clock_says():
    assert order(request("A", "a", at(9)), request("A", "b", at(5)), request("A", "c", at(7))) == "a b c"
    assert order(request("A", "a", at(9)), request("B", "b", at(7)), request("A", "c", at(5))) == "b a c"


def test_who_has_a_slow_clock_does_not_pass_what_was_read_before():
    waiting = Arrivals()
    waiting.add(request("A", "a", at(50)), 0)
    for word, seconds in (("c", 2), ("b", 1)):
        waiting.add(request(word, word, at(seconds)), 1)
    assert [waiting.next()[-1].bytes for _ in range(3)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "header",
    [
        *("", "{", "[]", "7", "null", "{}", '{"date": null}', '{"date": 7}', '{"date": "yesterday"}', b"\xff"),
        *("[" * 100_000, '{"date": "' + "9" * 10_000 + '"}'),
    ],
)
def test_a_date_that_cannot_be_read_moves_nothing(header):
    odd = request("B", "b", header=header)
    assert order(request("A", "a", at(9)), odd, request("C", "c", at(5))) == "a b c"


def test_a_request_without_any_header_moves_nothing():
    odd = [zmq.Frame(b"B"), zmq.Frame(b"b")]
    assert order(request("A", "a", at(9)), odd, request("C", "c", at(5))) == "a b c"


@pytest.mark.parametrize("earlier", ["2026-01-01T00:00:01", "2026-01-01T01:00:01+01:00", "0001-01-01T00:00:00+14:00"])
def test_dates_with_and_without_zone_compare(earlier):
    assert order(request("A", "b", at(2)), request("B", "a", earlier)) == "a b"


def test_a_connection_is_new_once_and_the_first_of_all_never():
    waiting = Arrivals()
    assert [waiting.add(request(name, "x"), 0) for name in "AABABC"] == [False, False, True, False, False, True]


def test_no_more_connections_are_remembered_than_there_may_well_be():
    waiting = Arrivals()
    for number in range(1000):
        waiting.add(request("often", "x"), 0)
        assert waiting.add(request(str(number), "x"), 0)
    assert len(waiting._known) <= 64
    assert not waiting.add(request("often", "x"), 0)
