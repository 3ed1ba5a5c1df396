"""Requests of several clients while a kernel is busy: each is run, in the order in which they came.

A tab that is opened again is such a client: what its predecessor sent comes first, whoever ended first.
"""

from __future__ import annotations

import contextlib
import functools
import time

import pytest
from jupyter_client.blocking import BlockingKernelClient

from tests.contract.test_kernel_order import engine  # noqa: F401

BUSY = "import os, time\nseen = []\nprint('busy', flush=True)\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
ASYNCHRONOUS = BUSY.replace("print", "import asyncio; await asyncio.sleep(0.1)\nprint")


@pytest.fixture(params=[BUSY, ASYNCHRONOUS], ids=["cell", "asynchronous cell"])
def busy(broker, claim, request):
    box = claim()
    box.submit(request.param)
    while box.kernel.get_iopub_msg(timeout=20)["msg_type"] != "stream":
        pass
    return box


@pytest.fixture
def connect_to():
    made = []

    def another(box, session=None):
        """Another client of a kernel; `session`: the id of the one whose successor it is."""
        made.append(BlockingKernelClient())
        if session:
            made[-1].session.session = session
        made[-1].load_connection_info(box.kernel.get_connection_info(session=False))
        made[-1].start_channels()
        return made[-1]

    yield another
    for each in made:
        each.stop_channels()


@pytest.fixture
def connect(busy, connect_to):
    return functools.partial(connect_to, busy)


def ask(box, client, *words):
    """Ask to note these; come back when that has most probably arrived."""
    asked = [client.execute(f"seen.append({word!r})", store_history=False) for word in words]
    time.sleep(0.5)
    box.command(["true"])  # by the same relay
    return asked


def seen(box, last):
    box.command(["touch", "go"])
    reply = last.execute_interactive(
        "", user_expressions={"seen": "' '.join(seen)"}, store_history=False, timeout=20, output_hook=lambda _: None
    )
    return reply["content"]["user_expressions"]["seen"]["data"]["text/plain"].strip("'")


@contextlib.contextmanager
def stopped(box):
    """Its kernel gets no processor meanwhile."""
    pid = box.execute("import os; print(os.getpid())")["out"].strip()
    assert box.command(["kill", "-STOP", pid])["status"] == 0
    try:
        yield
    finally:
        assert box.command(["kill", "-CONT", pid])["status"] == 0


def test_two_clients_take_turns_as_they_came(busy, connect):
    first, second = connect(), connect()
    ask(busy, first, "a", "b", "c")
    ask(busy, second, "d")
    ask(busy, first, "e")
    ask(busy, second, "f", "g")
    assert seen(busy, second) == "a b c d e f g"


def test_what_a_client_left_comes_before_what_the_next_one_asks(busy, connect):
    first = connect()
    ask(busy, first, "a", "b", "c")
    first.stop_channels()
    time.sleep(0.2)
    second = connect()
    ask(busy, second, "d")
    assert seen(busy, second) == "a b c d"


def test_what_a_client_sent_is_not_lost_by_its_successor(busy, connect):
    """Who comes with the same identity takes the place of the one that is still there."""
    first = connect()
    asked = ask(busy, first, "a", "b", "c")
    second = connect(first.session.session)
    asked += ask(busy, second, "d")
    assert seen(busy, connect()) == "a b c d"
    replies = [second.get_shell_msg(timeout=20)["parent_header"]["msg_id"] for _ in asked]
    assert replies == asked


@pytest.mark.parametrize("is_closed", [False, True], ids=["still there", "closed"])
def test_who_is_there_for_the_first_time_comes_after_those_who_were_there(broker, claim, connect_to, is_closed):
    """The kernel waits for a processor meanwhile: ZeroMQ tells it of all of one connection, then of all of another."""
    box = claim()
    first, second = connect_to(box), connect_to(box)
    assert first.execute_interactive("seen = []", timeout=20)["content"]["status"] == "ok"
    with stopped(box):
        ask(box, first, "a", "b", "c")
        if is_closed:
            first.stop_channels()
        ask(box, second, "d", "e")
        if not is_closed:
            ask(box, first, "f")
    assert seen(box, connect_to(box)) == ("a b c d e" if is_closed else "a b c d e f")
