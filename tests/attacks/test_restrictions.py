"""A sandbox that may reach less than its template opens: from its claim on and later, and never more, whatever is said.

Worlds are those of tests/attacks/world.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from jupyter_sandbox import rulesets
from tests.attacks import attacker, world
from tests.attacks.attacker import Refusal, wait_until
from tests.attacks.test_network import PROBES, _is_unlocked, reached

pytestmark = pytest.mark.timeout(180)

EVERYWHERE = ["0.0.0.0/0", "::/0"]
IN_198 = {("198.51.100.9", "tcp", 9000), ("198.51.100.9", "tcp", 9001)}
OUTSIDE = """
import socket, threading, time
def echo(channel):
    while data := channel.recv(99):
        channel.sendall(data)
def talk():
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside the decoy, which is at every address
    channel.bind(("203.0.113.9", 5353))
    _, who = channel.recvfrom(99)
    while True:
        channel.sendto(b"again", who)
        time.sleep(0.25)  # the decoy, which sees them too, reports when nothing comes for a moment
listener = socket.create_server(("", 7777))
threading.Thread(target=talk, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
RAW = (
    "call(restriction_verbs.Restrict(sandbox=box.id, "
    "network=restriction_verbs.Network(denied=tuple(denied), excepted=tuple(excepted))), verbs.Done)"
)


@pytest.fixture(scope="module")
def small_world():
    with world.running_world() as made:
        yield made


@pytest.fixture(scope="module")
def host(small_world):
    """Root's broker in the small world."""
    with world.tidy_host(small_world) as made:
        yield made


@pytest.fixture
def own_host(small_world):
    """One that a test may kill."""
    with world.running_host(small_world) as made:
        yield made


@pytest.fixture
def claim(host):
    with contextlib.ExitStack() as undo:

        def make(template="open", denied=(), excepted=(), by=host):
            box = by.sandbox(template, network=(list(denied), list(excepted)))
            if by is host:
                undo.callback(box.release)
            assert box.execute(PROBES)["status"] == "ok"
            return box

        yield make


@pytest.fixture
def outside(small_world):
    """Somebody who keeps connections open, at every address outside, and who does not stop to send datagrams."""
    command = [*small_world.outside.prefix, sys.executable, "-c", OUTSIDE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield
        process.kill()


def restrict(box, denied=(), excepted=()):
    box.do("box.restrict(denied, excepted)", denied=list(denied), excepted=list(excepted))


def kill_broker(host):
    os.kill(host.broker_pid(), signal.SIGKILL)
    wait_until(lambda: _is_unlocked(host))


def record_of(box):
    (record,) = box.host.directory.glob(f"*/ledger/{box.id}.json")
    return record


# -- what is reached


@pytest.mark.parametrize(
    ("denied", "excepted", "left"),
    [
        (EVERYWHERE, [], set()),
        (EVERYWHERE, ["198.51.100.0/24"], IN_198),
        (["0.0.0.0/0"], [], {target for target in world.OPEN if ":" in target[0]}),
        (["::/0"], [], {target for target in world.OPEN if ":" not in target[0]}),
        (["198.51.100.0/25", "2001:db8:99::8"], [], world.OPEN - IN_198 - {("2001:db8:99::8", "tcp", 8000)}),
        ([], ["198.51.100.0/24"], world.OPEN),
        (EVERYWHERE, EVERYWHERE, world.OPEN),
        (["10.0.0.0/8", "169.254.169.254"], [], world.OPEN),
    ],
)
def test_from_the_claim_on_exactly_the_rest_is_reached(small_world, claim, denied, excepted, left):
    small_world.clear()
    box = claim("open", denied, excepted)
    assert reached(box) == left
    assert small_world.arrived_outside() == left
    assert small_world.arrived_at_host() == {"packets": 0}


def test_a_change_holds_at_once_and_never_widens_beyond_the_template(small_world, claim):
    box, neighbour = claim(), claim()
    for denied, excepted, left in (
        (EVERYWHERE, [], set()),
        (EVERYWHERE, ["198.51.100.9"], IN_198),
        (EVERYWHERE, EVERYWHERE, world.OPEN),
        ([], EVERYWHERE, world.OPEN),
        (EVERYWHERE, [], set()),
        ([], [], world.OPEN),
    ):
        restrict(box, denied, excepted)
        small_world.clear()
        assert reached(box) == left
        assert small_world.arrived_outside() == left
    restrict(box, EVERYWHERE)
    assert reached(neighbour) == world.OPEN, "nobody else is concerned"


def test_odd_ways_lead_nowhere_when_the_target_is_denied(small_world, claim):
    box = claim("open", EVERYWHERE)
    small_world.clear()
    said = box.probe("tell(odd_ways('203.0.113.7'))", 60)
    assert [way for way, outcome in said.items() if outcome == "done" and way not in ("device", "fragments")] == []
    assert small_world.arrived_outside() == set()


def test_a_denied_target_is_refused_at_once(claim):
    box = claim("open", ["203.0.113.7"])
    code = "began = __import__('time').monotonic()\n"
    code += "said = one(2, 1, '203.0.113.7', 443, 30)\ntell([said, __import__('time').monotonic() - began])"
    said, seconds = box.probe(code, 60)
    assert (said, seconds < 20) == ("ECONNREFUSED", True)


# -- what is open already


def test_an_open_connection_is_cut_and_one_to_what_is_excepted_goes_on(small_world, claim, outside):
    box = claim("wide")
    code = "def talk(channel):\n    channel.settimeout(2)\n    channel.sendall(b'x')\n"
    code += "    return 'heard' if channel.recv(9) else 'closed'\n"
    code += "cut, kept = (socket.create_connection((a, 7777), 5) for a in ('203.0.113.7', '198.51.100.9'))\n"
    code += "tell([attempt(talk, cut), attempt(talk, kept)])"
    assert box.probe(code) == ["heard", "heard"]
    restrict(box, EVERYWHERE, ["198.51.100.9"])
    small_world.clear()
    first, second = box.probe("tell([attempt(talk, cut), attempt(talk, kept)])")
    assert (first != "heard", second) == (True, "heard")
    assert small_world.arrived_outside() == {("198.51.100.9", "tcp", 7777)}
    restrict(box, EVERYWHERE)
    assert box.probe("tell(attempt(talk, kept))") != "heard"


def test_who_is_denied_cannot_go_on_to_send_to_a_worker(small_world, claim, outside):
    box = claim("open")
    code = "stream = socket.socket(2, 2); stream.settimeout(2); stream.connect(('203.0.113.9', 5353)); stream.send(b'go')\n"
    code += "def listen(seconds):\n    import time\n    until, heard = time.monotonic() + seconds, 0\n"
    code += "    while time.monotonic() < until and heard < 4:\n"
    code += "        heard += attempt(stream.recv, 9) == 'done'\n    return heard\n"
    code += "tell(listen(20))"
    assert box.probe(code, 40) == 4
    restrict(box, EVERYWHERE)  # late packets of connections that its address had before do not count then
    box.execute("stream.settimeout(0.1)\nwhile attempt(stream.recv, 9) == 'done': pass")  # what had arrived before
    small_world.clear()
    assert box.probe("tell(listen(1))") == 0
    assert small_world.counter("to_workers") == 0, "the host keeps it away, whatever the worker has become"
    restrict(box)
    assert box.probe("tell(listen(20))", 40) == 4, "it was sending all the time"


def test_a_paused_sandbox_is_restricted_and_finds_it_so(claim, outside):
    box = claim("wide")
    code = "channel = socket.create_connection(('203.0.113.7', 7777), 5); channel.settimeout(1); tell(1)"
    box.probe(code)
    try:
        box.host.run("call(verbs.Pause(sandbox=sandbox), verbs.Done)", sandbox=box.id)
    except Refusal as refusal:
        assert refusal.code == "not_supported", "a broker without control groups pauses nothing"
        return
    restrict(box, EVERYWHERE)
    box.host.run("call(verbs.Resume(sandbox=sandbox), verbs.Done)", sandbox=box.id)
    assert box.probe("tell([attempt(channel.sendall, b'x'), attempt(channel.recv, 9)])")[1] != "done"
    assert reached(box, ["203.0.113.7"]) == set()


# -- what is no restriction


@pytest.mark.parametrize(
    ("denied", "excepted", "code"),
    [
        *((["10.0.0.1/8"], [], "invalid_request"), (["::ffff:10.0.0.1"], [], "invalid_request")),
        *((["example.org"], [], "invalid_request"), ([""], [], "invalid_request")),
        *(
            (["2001:db8::1%x accept; flush ruleset"], [], "invalid_request"),
            (["1.1.1.1 }; drop"], [], "invalid_request"),
        ),
        *((["$(reboot)"], [], "invalid_request"), (["1.1.1.1\nflush ruleset"], [], "invalid_request")),
        *((["10.0.0.1"] * 65, [], "invalid_request"), ([], ["10.0.0.1"] * 65, "invalid_request")),
        *((["10.0.0.1"] * 10_000, [], "invalid_request"), ([1], [], "protocol_error")),
        *(([["1.1.1.1"]], [], "protocol_error"), ([None], [], "protocol_error")),
        *((EVERYWHERE, ["10.0.0.0/8"], "conflict"), ([], ["1.1.1.1"], "conflict")),
    ],
)
def test_what_is_none_is_refused_and_changes_nothing(small_world, claim, host, denied, excepted, code):
    box = claim("open", EVERYWHERE, ["198.51.100.9"])
    before = small_world.rules()
    with pytest.raises(Refusal) as caught:
        box.do(RAW, denied=denied, excepted=excepted)
    assert caught.value.code == code
    assert small_world.rules() == before
    if all(isinstance(each, str) for each in denied):
        with pytest.raises(Refusal) as caught:
            host.sandbox("open", network=(denied, excepted), start=False)
        assert caught.value.code == code
    assert reached(box) == IN_198


def test_ranges_that_overlap_are_one(claim):
    box = claim("open", ["203.0.113.0/24", "203.0.113.7", "203.0.112.0/23", "203.0.113.0/25"], ["203.0.113.7"] * 3)
    assert reached(box, ["203.0.113.7", "203.0.113.9"]) == {("203.0.113.7", "tcp", 443)}


# -- brokers that die


def test_the_next_broker_knows_it_holds_it_and_changes_it_within_what_was_claimed(small_world, claim, own_host):
    box = claim("open", EVERYWHERE, ["198.51.100.9"], by=own_host)
    kill_broker(own_host)
    assert reached(box) == IN_198, "without any broker"
    wider = own_host.directory / "config/sandbox-templates/open.toml"
    wider.write_text(attacker.TINY + world.TEMPLATES["wide"])
    box.do("asyncio.run(box.lease.reattach())")
    assert box.do("[box.lease.loss, str(box.lease.restriction.excepted[0])]") == [None, "198.51.100.9/32"]
    assert reached(box) == IN_198
    restrict(box, EVERYWHERE)
    assert reached(box) == set()
    restrict(box)
    small_world.clear()
    assert reached(box) == world.OPEN, "what its template was when it was claimed"
    assert small_world.arrived_outside() == world.OPEN


def test_what_was_recorded_when_a_broker_died_in_the_middle_is_put_in_force(claim, own_host):
    box = claim("open", by=own_host)
    kill_broker(own_host)
    record = record_of(box)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"denied": EVERYWHERE, "excepted": []}))
    box.do("asyncio.run(box.lease.reattach())")
    assert box.do("box.lease.loss") is None
    assert reached(box) == set()


def test_a_sandbox_that_cannot_be_held_to_it_any_more_is_given_up(small_world, claim, own_host):
    box = claim("open", EVERYWHERE, by=own_host)
    kill_broker(own_host)
    table = rulesets.table(own_host.run("result = places.find().instance"))
    small_world.host.run("nft", "delete", "table", "inet", table)
    box.do("asyncio.run(box.lease.reattach())")
    assert "lost" in box.do("box.lease.loss")
