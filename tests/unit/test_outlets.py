"""How much waits in the server for a client, and what a closed tab finds when it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from jupyter_sandbox.outlets import OfflineBuffer, Outlet

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key")
REQUEST = SESSION.msg("execute_request")


def item(msg_type: str, size: int = 0) -> tuple[str, list[bytes]]:
    message = SESSION.msg(msg_type, {"text": "x" * size}, parent=REQUEST)
    return "iopub", SESSION.serialize(message, ident=b"topic")


def marker(count, size_bytes, parent):
    return "marker", [count, size_bytes, parent.get("msg_id")]


def test_an_outlet_is_full_until_half_is_gone():
    outlet = Outlet(100)
    assert [outlet.put(60), outlet.put(40), outlet.put(1), outlet.put(30)] == [False, False, True, False]
    assert outlet.is_full
    assert [outlet.took(60), outlet.took(40), outlet.took(1)] == [False, True, False]
    assert (outlet.is_full, outlet.unsent_bytes, outlet.taken) == (False, 30, 3)


def test_an_outlet_is_full_of_many_small_messages_too():
    outlet, number = Outlet(1 << 20), 1
    while not outlet.put(1):
        number += 1
    assert number < 1000
    assert not any(outlet.took(1) for _ in range(number // 2 - 1))
    assert outlet.took(1) or outlet.took(1)


@given(st.lists(st.integers(0, 300)))
def test_an_outlet_that_is_stopped_when_full_holds_one_message_more(sizes):
    outlet, waiting = Outlet(500), []
    for size in sizes:
        if outlet.is_full:
            while not outlet.took(waiting.pop(0)):
                pass
        outlet.put(size)
        waiting.append(size)
        assert outlet.unsent_bytes == sum(waiting) <= 500 + 300


def test_a_buffer_with_room_is_a_list():
    items = [item("status"), item("stream", 10)]
    buffer = OfflineBuffer(10_000, marker)
    assert not buffer
    for each in items:
        buffer.append(each)
    assert list(buffer) == items
    assert len(buffer) == 2


def test_a_full_buffer_drops_output_and_keeps_what_a_client_waits_for():
    buffer = OfflineBuffer(10_000, marker)
    sizes = []
    for _ in range(20):
        large = item("display_data", 2000)
        sizes.append(sum(map(len, large[1])))
        buffer.append(large)
    status, reply = item("status"), item("execute_reply")
    buffer.append(status)
    buffer.append(reply)
    kept = list(buffer)
    shown = [each for each in kept if each not in (status, reply)][:-1]
    assert 2 <= len(shown) <= 4
    assert kept[-3:-1] == [status, reply]
    assert kept[-1] == ("marker", [20 - len(shown), sum(sizes[len(shown) :]), REQUEST["header"]["msg_id"]])


def test_even_replies_and_states_end():
    buffer = OfflineBuffer(1000, marker)
    for _ in range(5000):
        buffer.append(item("status"))
    assert sum(len(part) for _, parts in buffer if isinstance(parts[0], bytes) for part in parts) < 1_100_000
    assert buffer.dropped > 3000


def test_what_was_refused_is_told_too():
    buffer = OfflineBuffer(1000, marker)
    assert len(buffer) == 0
    buffer.drop(5_000_000, None)
    assert len(buffer) == 1
    assert list(buffer) == [("marker", [1, 5_000_000, None])]
