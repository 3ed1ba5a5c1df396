"""The network: closed by default, and with rules exactly what they name, against every way out that we could think of.

The broker runs in a world of its own (tests/attacks/world.py). Nothing that is sent here leaves it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.attacks import attacker, world
from tests.attacks.attacker import Refusal, wait_until

pytestmark = pytest.mark.timeout(180)

ADDRESSES = [
    world.HOST4,  # the host
    world.HOST6,
    "192.168.77.1",  # the host's, on its loopback
    "127.0.0.1",
    "::1",
    "169.254.1.1",  # the worker's gateway
    "fe80::1",
    "10.77.0.2",  # the LAN
    "2001:db8:77::2",
    "169.254.169.254",  # metadata
    "fd00:ec2::254",
    "1.1.1.1",  # the internet
    "2606:4700:4700::1111",
    "203.0.113.7",  # named by the template `open`, for some ports
    "203.0.113.8",  # beside it
    "203.0.113.9",
    "198.51.100.9",
    "198.51.101.9",
    "2001:db8:99::7",
    "2001:db8:99::8",
    "2001:db8:9a::7",
    "198.18.0.1",  # workers
    "255.255.255.255",
    "10.77.0.255",
    "224.0.0.1",
    "ff02::1",
    "::ffff:203.0.113.8",
    "0.0.0.0",
    "::",
]

PROBES = r"""
import struct, threading
from concurrent.futures import ThreadPoolExecutor
threading.stack_size(1 << 18)  # without control groups the memory limit counts what is reserved
def outcome(function, *arguments):
    try:
        function(*arguments)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return _errno.errorcode.get(error.errno, str(error))
    return "done"
def one(family, kind, address, port, timeout=1.5, prepare=None):
    "Connect or send to a target, and wait for a word."
    with socket.socket(family, kind) as channel:
        channel.settimeout(timeout)
        def talk():
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if prepare:
                prepare(channel)
            channel.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                channel.send(QUERY)
            if not channel.recv(64):
                raise OSError("closed")
        return outcome(talk)
QUERY = bytes.fromhex("abcd01000001000000000000") + b"\x04evil\x07example\x03org\x00" + bytes([0, 16, 0, 1])
def those_of(targets, timeout):
    "Which of (address, kind, port) were not an error, some at a time."
    def reaches(target):
        address, kind, port = target
        kind = {"tcp": 1, "udp": 2}[kind]
        return one(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, address, port, timeout) == "done"
    with ThreadPoolExecutor(20) as executor:
        return [target for target, done in zip(targets, executor.map(reaches, targets)) if done]
def all_of(addresses, ports, opened):
    "Every address, port and kind; those that may be open and do not answer at once are asked again."
    found = those_of([(address, kind, port) for address in addresses for kind in ("tcp", "udp") for port in ports], 0.7)
    missing = [target for target in map(tuple, opened) if target[0] in addresses and target not in found]
    return found + those_of(missing, 10)
def odd_ways(named):
    "Ways that are not a plain connection; what each said."
    said = {}
    target = (named, 443)
    for family, number in ((2, 1), (2, 255), (10, 58), (10, 255)):
        said[f"raw {family} {number}"] = outcome(socket.socket, family, socket.SOCK_RAW, number)
        said[f"ping {family} {number}"] = outcome(socket.socket, family, socket.SOCK_DGRAM, number)
    for number in (33, 132, 136):
        said[f"transport {number}"] = outcome(socket.socket, 2, socket.SOCK_SEQPACKET, number)
    def bound_to(address, *options):
        def prepare(channel):
            for level, option, value in options:
                channel.setsockopt(level, option, value)
            channel.bind((address, 0))
        return prepare
    free = (socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
    for source in ("127.0.0.1", "127.0.0.2", "198.18.0.1", "10.77.0.66", "203.0.113.8"):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            said[f"from {source} {kind}"] = one(2, kind, *target, 0.7, bound_to(source))
            said[f"free from {source} {kind}"] = one(2, kind, *target, 0.7, bound_to(source, free))
    said["transparent"] = one(2, 1, *target, 0.7, bound_to("10.77.0.66", (socket.IPPROTO_IP, 19, 1)))
    route = bytes([1, 131, 7, 4]) + socket.inet_aton("203.0.113.8")  # NOP, loose source route
    said["source route"] = one(2, 1, *target, 0.7, lambda c: c.setsockopt(socket.IPPROTO_IP, 4, route))
    def big(channel):
        for address in (named, "203.0.113.8", "10.77.0.2"):
            channel.sendto(bytes(20000), (address, 53))
    with socket.socket(2, socket.SOCK_DGRAM) as channel:
        said["fragments"] = outcome(big, channel)
    with socket.socket(2, socket.SOCK_DGRAM) as channel:
        said["device"] = outcome(channel.setsockopt, socket.SOL_SOCKET, 25, b"eth0\0")
        channel.settimeout(0.7)
        said["device send"] = outcome(channel.sendto, QUERY, ("10.77.0.2", 53))
    said["name"] = outcome(socket.getaddrinfo, "evil.example.org", 80)
    for line in ("ip route add default dev eth0", "ip link set eth0 down", "nft flush ruleset"):
        subprocess.run(line, shell=True, capture_output=True, timeout=5)
    return said
"""


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
def claim(host):
    boxes = []

    def make(template="open"):
        box = host.sandbox(template)
        boxes.append(box)
        assert box.execute(PROBES)["status"] == "ok"
        return box

    yield make
    for box in boxes:
        box.release()


def reached(box, addresses=ADDRESSES, opened=world.OPEN):
    """What a worker reaches; `opened` is what its template may let it reach."""
    return {tuple(target) for target in box.probe(f"tell(all_of({addresses!r}, {world.PORTS!r}, {opened!r}))", 90)}


def pid_of(box) -> int:
    """The host pid of the worker's pid 1, from its broker's ledger."""
    (record,) = box.host.directory.glob(f"*/ledger/{box.id}.json")
    return json.loads(record.read_text())["pid"]


def as_root_inside(box, *command, text=None):
    """What an attacker could do who has become root of the worker's network: run a command with all rights there."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/{pid_of(box)}/ns/net", *command],
        input=text,
        text=True,
        capture_output=True,
        timeout=90,
    )


# -- the default


@pytest.mark.parametrize("uid", [0, attacker.USER], ids=["root's broker", "a user's broker"])
def test_by_default_not_one_packet_reaches_anything(small_world, uid):
    made = world.make_host(small_world, uid)
    try:
        small_world.clear()
        box = made.sandbox("tiny")
        assert box.execute(PROBES)["status"] == "ok"
        assert reached(box) == set()
        box.ask("odd_ways('203.0.113.7')")
        assert small_world.arrived_outside() == set()
        assert small_world.arrived_at_host() == {"packets": 0}
        assert [small_world.counter(name) for name in ("forwarded", "to_workers")] == [0, 0]
        box.release()
    finally:
        made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


def test_the_resolver_configuration_is_empty(claim):
    assert claim().ask("read('/etc/resolv.conf') if os.path.exists('/etc/resolv.conf') else ''").strip() == ""


# -- with rules


def test_exactly_the_named_targets_are_reached(small_world, claim):
    box = claim()
    small_world.clear()
    assert reached(box) == world.OPEN
    assert small_world.arrived_outside() == world.OPEN
    assert small_world.arrived_at_host() == {"packets": 0}


def test_what_leaves_has_the_hosts_address(small_world, claim):
    box = claim()
    small_world.clear()
    reached(box, ["203.0.113.7", "2001:db8:99::7"])
    assert small_world.sources_outside() == {world.HOST4, world.HOST6}


def test_odd_ways_lead_nowhere_else(small_world, claim):
    box = claim()
    small_world.clear()
    said = box.probe("tell(odd_ways('203.0.113.7'))", 60)
    assert [way for way, outcome in said.items() if outcome == "done" and way not in ("device", "fragments")] == []
    assert small_world.arrived_outside() <= {("203.0.113.7", "tcp", 443)}
    assert small_world.sources_outside() <= {world.HOST4}
    assert small_world.arrived_at_host() == {"packets": 0}


def test_a_refused_target_is_told_at_once(claim):
    box = claim()
    code = "began = __import__('time').monotonic()\n"
    code += "targets = (2, '203.0.113.7', 444), (2, '203.0.113.8', 443), (10, '2001:db8:99::7', 443)\n"
    code += "said = [one(family, 1, address, port, 30) for family, address, port in targets]\n"
    code += "tell([said, __import__('time').monotonic() - began])"
    said, seconds = box.probe(code, 100)
    assert said == ["ECONNREFUSED", "ENETUNREACH", "ECONNREFUSED"]
    assert seconds < 20


def test_another_worker_is_not_reached_even_by_a_rule_that_names_everything(small_world, claim):
    one, other = claim("wide"), claim("wide")
    address = other.ask("subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()")
    assert len(address) == 2, "IPv4 and IPv6"
    assert (
        other.execute(
            "heard = []\n"
            "def listen(family, kind):\n"
            "    channel = socket.socket(family, kind)\n"
            "    channel.bind(('0.0.0.0' if family == 2 else '::', 9000)) if family == 2 else None\n"
            "    if family == 10:\n"
            "        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); channel.bind(('::', 9000))\n"
            "    if kind == 1: channel.listen()\n"
            "    def wait():\n"
            "        heard.append(channel.accept() if kind == 1 else channel.recvfrom(9))\n"
            "    threading.Thread(target=wait, daemon=True).start()\n"
            "for family in (2, 10):\n"
            "    for kind in (1, 2): listen(family, kind)\n"
        )["status"]
        == "ok"
    )
    small_world.clear()
    assert reached(one, address) == set()
    assert small_world.counter("to_workers") == 0
    assert other.ask("len(heard)") == 0
    assert reached(one, [world.HOST4, world.HOST6, "192.168.77.1"]) == set(), "nor is the host"
    assert small_world.arrived_at_host() == {"packets": 0}
    answers = ("1.1.1.1", "tcp", 443)
    assert answers in reached(one, ["1.1.1.1"], [answers]), "but the rule does hold"


def test_nobody_outside_or_on_the_host_reaches_a_worker(small_world, claim):
    box = claim()
    addresses = box.ask("subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()")
    box.execute("listener = socket.create_server(('', 9000)); listener.settimeout(5)")
    program = (
        "import socket, sys\n"
        "for kind in (1, 2):\n"
        "    with socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, kind) as channel:\n"
        "        channel.settimeout(0.7)\n"
        "        try:\n"
        "            channel.connect((sys.argv[1], 9000)); channel.send(b'x'); print('reached', channel.recv(9))\n"
        "        except OSError: pass\n"
    )
    small_world.clear()
    for place in (small_world.host, small_world.outside):
        for address in addresses:
            assert place.run(sys.executable, "-c", program, address) == ""
    assert small_world.counter("to_workers") == 0


def test_a_rule_that_names_the_host_is_refused(host):
    with pytest.raises(Refusal) as caught:
        host.sandbox("host")
    assert caught.value.code == "isolation_unavailable"
    assert "address of the host itself" in str(caught.value)


def test_both_sides_hold_alone(small_world, claim):
    """The rules stand twice: without those of the host, or without its own, a worker reaches nothing more."""
    box = claim()
    (table,) = [line.split()[-1] for line in small_world.tables().splitlines()]
    rules = small_world.host.run("nft", "list", "table", "inet", table)
    small_world.host.run("nft", "delete", "table", "inet", table)
    small_world.clear()
    reached(box)
    assert small_world.arrived_outside() <= world.OPEN
    assert small_world.arrived_at_host() == {"packets": 0}
    assert reached(claim()) == world.OPEN, "the next worker brings the table back"
    assert rules.splitlines()[0] in small_world.host.run("nft", "list", "ruleset")
    small_world.clear()
    assert reached(box) == set(), "the first one's rules are gone, and so is its network"
    assert small_world.arrived_outside() == set()


SPOOF = r"""
import socket, struct, sys
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packet(source, target, protocol, port, options=b""):
    if protocol == 6:
        body = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
        if not options:  # with options the checksum is wrong, too: connection tracking calls that invalid
            pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 6, len(body))
            body = body[:16] + struct.pack("!H", checksum(pseudo + body)) + body[18:]
    elif protocol == 17:
        body = struct.pack("!HHHH", 40000, port, 8, 0)
    else:
        body = struct.pack("!BBHHH", 8, 0, 0xf7fe, 1, 0)
    header = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 1, 0, 64, protocol,
                         0, socket.inet_aton(source), socket.inet_aton(target)) + options
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return header + body
own = sys.argv[1]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
route = bytes([131, 7, 4]) + socket.inet_aton("203.0.113.8") + b"\0"
sent = 0
for source in (own, "10.77.0.66", "10.77.0.1", "127.0.0.1", "198.18.0.1", "203.0.113.8", "0.0.0.0"):
    for target in sys.argv[2:]:
        for protocol, port in ((6, 443), (6, 80), (6, 9000), (6, 22), (17, 53), (17, 5353), (17, 443), (1, 0), (132, 443), (47, 0)):
            for mac in (b"\x02\x6a\x73\x62\x00\x01", b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01"):
                for options in (b"", route):
                    wire.send(mac + b"\x02\x6a\x73\x62\x00\x02\x08\x00" + packet(source, target, protocol, port, options))
                    sent += 1
for kind in (b"\x08\x06", b"\x81\x00", b"\x88\x47", b"\x88\xcc"):
    wire.send(b"\xff" * 6 + b"\x02\x6a\x73\x62\x00\x02" + kind + bytes(60))
print(sent)
"""


def test_the_host_holds_a_worker_that_has_won_its_own_network(small_world, claim):
    """As if it had CAP_NET_ADMIN and CAP_NET_RAW in its network namespace: no rules, any route, any packet."""
    box, neighbour = claim(), claim()
    own4, own6 = box.ask("subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()")
    there = neighbour.ask("subprocess.run(['hostname', '-I'], capture_output=True, text=True).stdout.split()")
    setup = (
        "nft flush ruleset; ip route add default via 169.254.1.1 dev eth0 onlink; "
        "ip -6 route add default via fe80::1 dev eth0 onlink; ip address add 10.77.0.66/32 dev eth0; "
        "ip address add 2001:db8:77::66/128 dev eth0 nodad preferred_lft 0; sysctl -qw net.ipv4.ping_group_range='0 4294967294'"
    )
    done = as_root_inside(box, "sh", "-c", setup)
    assert done.returncode == 0, done.stderr
    small_world.clear()
    assert reached(box) == world.OPEN
    box.ask("odd_ways('203.0.113.7')")
    reached(box, there)
    assert small_world.arrived_outside() == world.OPEN
    assert small_world.arrived_at_host() == {"packets": 0}

    small_world.clear()
    targets = [address for address in [*ADDRESSES, there[0]] if ":" not in address]
    done = as_root_inside(box, sys.executable, "-c", SPOOF, own4, *targets)
    assert int(done.stdout) > 1000, done.stderr
    pings = as_root_inside(
        box, sys.executable, "-c",
        "import socket, sys\n"
        "channel = socket.socket(10, socket.SOCK_RAW, 58)\n"
        "for source in ('::', sys.argv[1], '2001:db8:77::66'):\n"
        "    for target in sys.argv[2:]:\n"
        "        try: channel.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), (target, 0))\n"
        "        except OSError: pass\n",
        own6, *[address for address in [*ADDRESSES, there[1]] if ":" in address],
    )  # fmt: skip
    assert pings.returncode == 0, pings.stderr
    report = small_world.beyond.report()["packets"]
    assert {(target, protocol, port) for _, target, protocol, port in report} <= world.OPEN
    assert {source for source, *_ in report} <= {world.HOST4, world.HOST6}
    assert small_world.arrived_at_host() == {"packets": 0}


def connections_made(small_world, box) -> int:
    """How many of 3 000 connections, one after another, the host lets a worker make."""
    code = "for port in range(10000, 13000):\n    with socket.socket(2, socket.SOCK_DGRAM) as channel:\n"
    code += "        channel.bind(('', port))\n"
    code += "        attempt(channel.sendto, b'x', ('203.0.113.9', 5353))\ntell(1)"
    small_world.clear()
    box.probe(code, 60)
    return small_world.counter("forwarded")


def test_a_worker_cannot_fill_the_hosts_table_of_connections(small_world, claim):
    assert connections_made(small_world, claim()) == 1024


# -- life and death


def test_a_user_without_root_is_told_what_is_needed(small_world):
    made = world.make_host(small_world, attacker.USER)
    try:
        with pytest.raises(Refusal) as caught:
            made.sandbox("open")
        assert caught.value.code == "isolation_unavailable"
        assert "root" in str(caught.value)
    finally:
        made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


def test_a_host_that_does_not_forward_is_told_with_the_setting(small_world, host):
    small_world.host.set("ipv4/conf/up0/forwarding", "0")
    try:
        with pytest.raises(Refusal) as caught:
            host.sandbox("open")
    finally:
        small_world.host.set("ipv4/conf/up0/forwarding", "1")
    assert caught.value.code == "isolation_unavailable"
    assert "net.ipv4.conf.up0.forwarding=1" in str(caught.value)


def test_another_firewall_that_drops_is_told_and_can_let_ours_pass(small_world):
    text = "table ip filter {\nchain FORWARD {\ntype filter hook forward priority filter; policy drop;\n}\n}\n"
    small_world.host.run("nft", "-f", "-", text=text)
    made = world.make_host(small_world, 0)
    try:
        box = made.sandbox("open")
        assert box.execute(PROBES)["status"] == "ok"
        notes = made.run("result = call(verbs.Status(), verbs.StatusReport).notes")
        assert "network: blocked by table ip filter, chain FORWARD; let jsb* pass" in notes
        assert reached(box, ["203.0.113.7"]) == set()
        for rule in ("iifname", "oifname"):
            small_world.host.run("nft", "add", "rule", "ip", "filter", "FORWARD", rule, "jsb*", "accept")
        small_world.clear()
        assert reached(box) == world.OPEN, "and no more"
        assert small_world.arrived_outside() == world.OPEN
    finally:
        small_world.host.run("nft", "delete", "table", "ip", "filter")
        made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


TALKER = """
import socket, sys, time
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside the decoy, which is at every address
channel.bind(("203.0.113.9", 5353))
print("ready", flush=True)
_, who = channel.recvfrom(99)
print("heard", flush=True)
while True:
    channel.sendto(b"again", who)
    time.sleep(0.1)
"""


def test_who_goes_on_to_answer_a_released_worker_is_heard_by_nobody(small_world, host):
    box = host.sandbox("open")
    command = [*small_world.outside.prefix, sys.executable, "-c", TALKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as talker:
        try:
            assert talker.stdout.readline() == "ready\n"
            box.execute(PROBES + "channel = socket.socket(2, 2)\nchannel.sendto(b'x', ('203.0.113.9', 5353))")
            assert talker.stdout.readline() == "heard\n"
            box.release()
            wait_until(lambda: not small_world.wires())
            small_world.clear()
            time.sleep(1)
            assert small_world.arrived_outside() == {("203.0.113.9", "1", 0)}, "the host says that nobody is there"
        finally:
            talker.kill()


def test_what_a_released_worker_had_open_is_not_counted_as_its_successors(small_world, host):
    names = []
    for _ in range(8):
        box = host.sandbox("open")
        names += small_world.wires()
        assert box.execute(PROBES)["status"] == "ok"
        assert connections_made(small_world, box) == 1024, names
        box.release()
        wait_until(lambda: not small_world.wires())
        if len(set(names)) < len(names):
            return
    pytest.fail(f"no slot was used twice: {names}")


def test_a_released_worker_takes_its_wire_and_rules_along_and_leaves_the_others(small_world, host, claim):
    stays = claim()
    before = small_world.wires(), small_world.host.run("nft", "list", "ruleset")
    goes = host.sandbox("open")
    assert len(small_world.wires()) == len(before[0]) + 1
    goes.release()
    wait_until(lambda: small_world.wires() == before[0])
    chains = small_world.host.run("nft", "list", "ruleset").count("chain jsb")
    assert chains == before[1].count("chain jsb")
    assert reached(stays) == world.OPEN


def test_a_killed_brokers_workers_keep_their_policy_until_they_end(small_world):
    made = world.make_host(small_world, 0)
    try:
        box = made.sandbox("open")
        assert box.execute(PROBES)["status"] == "ok"
        lost = made.sandbox("open")
        wires = small_world.wires()
        os.kill(made.broker_pid(), signal.SIGKILL)
        os.kill(pid_of(lost), signal.SIGKILL)
        small_world.clear()
        assert reached(box) == world.OPEN, "without any broker"
        assert small_world.arrived_outside() == world.OPEN
        box.do("asyncio.run(box.lease.reattach())")  # starts the next broker, which finds the sandbox again
        assert box.do("box.lease.loss") is None
        wait_until(lambda: len(small_world.wires()) == len(wires) - 1)
        small_world.clear()
        assert reached(box) == world.OPEN
        assert small_world.arrived_outside() == world.OPEN
        assert small_world.host.run("nft", "list", "ruleset").count("chain jsb") == len(small_world.wires())
        box.release()
        wait_until(lambda: len(small_world.wires()) == len(wires) - 2)
        assert small_world.host.run("nft", "list", "ruleset").count("chain jsb") == len(small_world.wires())
    finally:
        made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


def _is_unlocked(host) -> bool:
    """Whether no broker is left; one of its threads may hold its sockets open for a while after its first has ended."""
    (path,) = host.directory.glob("*/lock")
    with path.open() as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_a_broker_killed_while_it_opens_a_network_leaves_nothing_to_the_next(small_world):
    made = world.make_host(small_world, 0, config="c.BrokerApp.recover_grace_s = 1")
    chains = small_world.host.run("nft", "list", "ruleset").count("chain jsb")
    wires = small_world.wires()
    try:
        for delay_ms in (4, 12, 24):
            made.run("box = Sandbox('open'); box.release()")
            time.sleep(0.7)  # the pool refills
            killer = threading.Timer(delay_ms / 1000, os.kill, (made.broker_pid(), signal.SIGKILL))
            killer.start()
            with contextlib.suppress(Refusal):
                made.run("box = Sandbox('open'); box.lease.close()")
            killer.join()  # seen: nothing yet, rules without a wire, both
            wait_until(lambda: _is_unlocked(made))
        made.broker_pid()  # starts the next one
        wait_until(lambda: small_world.wires() == wires, 30)
        wait_until(lambda: small_world.host.run("nft", "list", "ruleset").count("chain jsb") == chains)
    finally:
        made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


def test_what_a_crash_left_is_listed_and_reaped(small_world, host):
    host.sandbox("open").release()
    (name,) = {line.split()[-1] for line in small_world.tables().splitlines()}
    stray = f"jsb{name.rpartition('-')[2]}fff0"
    small_world.host.run("ip", "link", "add", "name", stray, "type", "veth", "peer", "name", "stray0")
    small_world.host.run("nft", "add", "chain", "inet", name, stray)
    small_world.host.run("nft", "add", "element", "inet", name, "workers", f'{{ "{stray}" : goto {stray} }}')
    reap = "result = call(verbs.Reap(dry_run=dry), verbs.Reaped).found"
    assert "network of slot 65520" in host.run(reap, dry=True)
    assert stray in small_world.wires()
    assert "network of slot 65520" in host.run(reap, dry=False)
    assert stray not in small_world.wires()
    assert stray not in small_world.host.run("nft", "list", "ruleset")


def test_the_world_has_no_way_out(small_world):
    """For the tests themselves: neither namespace has an interface that leads to the machine's own network."""
    for place, known in ((small_world.host, {"lo", "up0"}), (small_world.outside, {"lo", "up1"})):
        names = {link["ifname"] for link in json.loads(place.run("ip", "-json", "link", "show"))}
        assert {name for name in names if not name.startswith("jsb")} - known <= {"stray0"}
        assert os.readlink(place.path) != os.readlink("/proc/self/ns/net")
