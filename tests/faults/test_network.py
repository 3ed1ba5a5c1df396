"""The firewall's driver, each step made to fail in turn, on a host of the test's own: nothing is left on either side."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from jupyter_sandbox import firewall, rulesets, templates
from jupyter_sandbox.errors import CapacityError, IsolationUnavailableError, SandboxError, StartError
from jupyter_sandbox.firewall import NftFirewall
from jupyter_sandbox.host import network, processes
from jupyter_sandbox.specs import UNRESTRICTED, Restriction
from sandbox_worker import linux
from tests.attacks import world

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(60)]

INSTANCE, OTHER = "1234abcd5678", "fedcba987654"
POLICY = templates.parse("open", world.TEMPLATES["open"], "open.toml").policy


class Bench:
    """A firewall whose threads are on the host of a small world, and workers that are namespaces without a process."""

    def __init__(self, small_world: world.World) -> None:
        self.world = small_world
        self.threads = ThreadPoolExecutor(4, initializer=self.enter)
        self.firewall = NftFirewall(instance=INSTANCE, pool=rulesets.DEFAULT_POOL)
        self.workers: list[world.Namespace] = []

    def enter(self) -> None:
        with open(self.world.host.path) as namespace:
            linux.setns(namespace.fileno(), linux.CLONE_NEWNET)

    def do(self, work, *args, **kwargs):
        """Call `work` on the host."""
        return self.threads.submit(work, *args, **kwargs).result()

    def worker(self) -> tuple[world.Namespace, int]:
        self.workers.append(world.Namespace())
        return self.workers[-1], os.open(self.workers[-1].path, os.O_RDONLY)

    def open(
        self, slot: int, *, policy=POLICY, other: NftFirewall | None = None, restriction=UNRESTRICTED
    ) -> world.Namespace:
        worker, namespace = self.worker()
        try:
            self.do((other or self.firewall).open, slot, policy, namespace, restriction)
        finally:
            os.close(namespace)
        return worker

    def chains(self) -> list[str]:
        listing = json.loads(self.world.host.run("nft", "-j", "list", "ruleset"))["nftables"]
        return sorted(
            item["chain"]["name"] for item in listing if item.get("chain", {}).get("name", "").startswith("jsb")
        )

    def elements(self) -> str:
        return self.world.host.run("nft", "list", "ruleset").partition("map workers")[2].partition("\n\t}")[0]

    def assert_nothing_left(self) -> None:
        assert self.world.wires() == []
        assert self.chains() == []
        assert "jsb" not in self.elements()
        assert self.firewall._open == {}

    def close(self) -> None:
        self.do(self.firewall.reap, set, dry_run=False)
        self.do(self.firewall.stop)
        self.threads.shutdown()
        for worker in self.workers:
            worker.close()


@pytest.fixture(scope="module")
def small_world():
    with world.running_world() as made:
        yield made


@pytest.fixture
def bench(small_world):
    made = Bench(small_world)
    yield made
    made.close()
    assert small_world.tables() == ""


def test_a_network_that_is_opened_and_closed_leaves_nothing_but_the_common_table(bench):
    bench.open(1)
    assert bench.world.wires() == bench.chains() == ["jsb1234abcd0001"]
    bench.do(bench.firewall.close, 1)
    bench.do(bench.firewall.close, 1)
    bench.assert_nothing_left()
    bench.do(bench.firewall.stop)
    assert bench.world.tables() == ""


def test_a_slot_without_a_network_costs_nothing(bench, monkeypatch):
    monkeypatch.setattr(network, "run", None)
    bench.do(bench.firewall.close, 7)


COMMANDS = ["route", "host rules", "wire", "connections", "those of IPv6", "inner rules", "inner addresses"]


@pytest.mark.parametrize("written", [False, True], ids=["first worker", "later worker"])
@pytest.mark.parametrize("step", COMMANDS)
def test_a_step_that_fails_leaves_nothing(bench, monkeypatch, step, written):
    if written:
        bench.open(9)
        bench.do(bench.firewall.close, 9)
    run, calls = network.run, []

    def fail(command, text="", *args, **kwargs):
        calls.append(command)
        if len(calls) > COMMANDS.index(step) and command[1] != "link" and "delete" not in text:
            raise StartError(f"{command[0]}: no")
        return run(command, text, *args, **kwargs)

    monkeypatch.setattr(network, "run", fail)
    with pytest.raises(StartError):
        bench.open(1)
    monkeypatch.undo()
    bench.assert_nothing_left()
    bench.open(1)


def test_a_setting_that_cannot_be_made_leaves_nothing(bench, monkeypatch):
    def fail(_interface):
        raise IsolationUnavailableError("read-only")

    monkeypatch.setattr(firewall, "_forward_from", fail)
    with pytest.raises(IsolationUnavailableError):
        bench.open(1)
    bench.assert_nothing_left()


def test_a_missing_program_is_told_before_anything_is_done(bench, monkeypatch):
    monkeypatch.setattr(network, "TOOLS", {"no-such-program": "a-package"})
    with pytest.raises(IsolationUnavailableError, match="apt-get install a-package"):
        bench.firewall.judge(templates.parse("open", world.TEMPLATES["open"], "open.toml"))
    bench.firewall.judge(templates.BUILT_IN["python"])
    assert bench.firewall.notes() == ["network: none; templates that open it are refused without no-such-program"]


def test_a_worker_that_dies_meanwhile_leaves_nothing(bench):
    worker, namespace = bench.worker()
    worker.close()
    bench.do(bench.firewall.open, 1, POLICY, namespace, UNRESTRICTED)  # the descriptor keeps the namespace
    os.close(namespace)
    bench.do(bench.firewall.close, 1)
    bench.assert_nothing_left()


def test_a_reused_pid_is_not_taken_for_the_worker():
    ours = world.Namespace()
    pidfd = os.pidfd_open(ours.process.pid)
    namespace = processes.network_namespace(ours.process.pid, pidfd)
    assert os.fstat(namespace).st_ino == Path(ours.path).stat().st_ino
    os.close(namespace)
    pid = ours.process.pid
    ours.close()
    with pytest.raises(StartError, match="gone"):
        processes.network_namespace(pid, pidfd)
    with pytest.raises(StartError, match="gone"):
        processes.network_namespace(os.getpid(), pidfd)  # as if the number were somebody else's by now
    os.close(pidfd)


def test_workers_at_once_get_addresses_of_their_own(bench):
    opened = []
    threads = [threading.Thread(target=lambda slot=slot: opened.append(bench.open(slot))) for slot in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    addresses = {worker.run("ip", "-br", "address", "show", "eth0").split()[2] for worker in opened}
    assert len(addresses) == 4
    assert bench.chains() == bench.world.wires()
    assert len(bench.chains()) == 4
    for slot in (1, 2, 3, 4):
        bench.do(bench.firewall.close, slot)
    bench.assert_nothing_left()


def test_brokers_that_share_a_pool_share_no_address(bench):
    pool = IPv4Network("10.9.0.0/29")
    mine, theirs = (NftFirewall(instance=instance, pool=pool) for instance in (INSTANCE, OTHER))
    addresses = []
    for slot in (1, 2, 3):
        for each in (mine, theirs):
            addresses.append(bench.open(slot, other=each).run("ip", "-br", "address", "show", "eth0").split()[2])
    assert len(set(addresses)) == 6
    with pytest.raises(CapacityError, match="network_pool"):
        bench.open(4, other=mine)
    assert len(bench.world.wires()) == 6
    for each in (mine, theirs):
        bench.do(each.reap, set, dry_run=False)
        bench.do(each.stop)
    bench.assert_nothing_left()


def test_the_next_broker_learns_what_lives_and_reaps_the_rest(bench):
    bench.open(1)
    bench.open(2)
    following = NftFirewall(instance=INSTANCE, pool=rulesets.DEFAULT_POOL)
    for dry_run in (True, True, False):
        assert bench.do(following.reap, lambda: {1}, dry_run=dry_run) == ["network of slot 2"]
    assert bench.do(following.reap, lambda: {1}, dry_run=False) == []
    assert bench.world.wires() == bench.chains() == ["jsb1234abcd0001"]
    bench.do(following.stop)
    assert bench.chains() == ["jsb1234abcd0001"], "a claimed sandbox lives on, and so does its policy"
    bench.open(3)
    bench.do(following.close, 1)
    assert bench.chains() == ["jsb1234abcd0003"]


def test_a_flushed_host_is_written_again_with_the_next_worker(bench):
    bench.open(1)
    (table,) = [line.split()[-1] for line in bench.world.tables().splitlines()]
    bench.world.host.run("nft", "delete", "table", "inet", table)
    bench.do(bench.firewall.close, 1)
    assert bench.world.tables() == "", "taking away makes nothing"
    bench.open(2)
    assert 'iifname "jsb1234abcd*" drop' in bench.world.host.run("nft", "list", "ruleset")


@pytest.mark.parametrize("leftover", ["wire", "rules"])
def test_what_is_left_of_a_slot_does_not_keep_its_next_worker(bench, leftover):
    bench.open(9)
    if leftover == "wire":
        bench.world.host.run("ip", "link", "add", "name", "jsb1234abcd0001", "type", "veth", "peer", "name", "stray0")
    else:
        (table,) = [line.split()[-1] for line in bench.world.tables().splitlines()]
        bench.world.host.run("nft", "add", "chain", "inet", table, "jsb1234abcd0001")
        bench.world.host.run("nft", "add", "rule", "inet", table, "jsb1234abcd0001", "accept")
    bench.open(1)
    rules = bench.world.host.run("nft", "list", "ruleset").partition("chain jsb1234abcd0001")[2].partition("}")[0]
    assert rules.count("accept") == len(POLICY.egress)


def test_a_closed_uplink_is_told_and_nothing_is_made(bench):
    bench.world.host.set("ipv6/conf/all/forwarding", "0")
    try:
        with pytest.raises(IsolationUnavailableError, match=r"net\.ipv6\.conf\.all\.forwarding=1"):
            bench.open(1)
    finally:
        bench.world.host.set("ipv6/conf/all/forwarding", "1")
    bench.assert_nothing_left()


def test_another_firewall_that_drops_is_seen(bench):
    assert bench.do(network.foreign_drops) == []
    text = "table ip filter {\nchain FORWARD {\ntype filter hook forward priority filter; policy drop;\n}\n}\n"
    bench.world.host.run("nft", "-f", "-", text=text)
    try:
        assert bench.do(network.foreign_drops) == ["table ip filter, chain FORWARD"]
    finally:
        bench.world.host.run("nft", "delete", "table", "ip", "filter")


def test_the_interfaces_that_lead_outside_are_found(bench):
    assert bench.do(network.default_uplinks) == {4: "up0", 6: "up0"}


def test_a_target_without_a_route_is_not_refused(bench):
    """It may get one; until then the worker is told that it is unreachable."""
    text = '[network]\negress = [{ to = "192.0.2.1", port = 1 }]'
    bench.world.host.run("ip", "route", "delete", "default")
    try:
        bench.open(1, policy=templates.parse("t", text, "t").policy)
    finally:
        bench.world.host.run("ip", "route", "add", "default", "via", "10.77.0.2")


def test_every_error_is_of_ours(bench, monkeypatch):
    monkeypatch.setattr(network, "_TIMEOUT_S", 0)
    with pytest.raises(SandboxError, match="did not finish"):
        bench.open(1)
    monkeypatch.undo()
    bench.assert_nothing_left()


# -- restrictions

ALL = Restriction(denied=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))
SOME = Restriction(denied=ALL.denied, excepted=(IPv4Network("198.51.100.0/24"),))
TARGETS = (("203.0.113.7", 443), ("198.51.100.9", 9000), ("2001:db8:99::7", 8000))
LOOK = """
import concurrent.futures, json, socket, sys
def answers(target):
    try:
        with socket.create_connection(target, 5) as channel:
            channel.recv(9)
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor() as threads:
    print(json.dumps([target[0] for target, told in zip(targets, threads.map(answers, targets)) if told]))
"""


def reached(worker) -> list[str]:
    """Which of the targets a worker reaches."""
    return json.loads(worker.run(sys.executable, "-c", LOOK, json.dumps(TARGETS)))


def connections(bench, slot) -> int:
    """How many the host knows of a worker."""
    wire = rulesets.wire(INSTANCE, slot, rulesets.DEFAULT_POOL)
    listings = [
        bench.world.host.run("conntrack", "--dump", "--family", family, "--orig-src", str(address))
        for family, address in (("ipv4", wire.address4), ("ipv6", wire.address6))
    ]
    return sum(len(listing.splitlines()) for listing in listings)


def test_the_host_forgets_what_connections_a_worker_had_and_no_others(bench):
    for slot in (1, 2):
        assert len(reached(bench.open(slot))) == connections(bench, slot) == len(TARGETS)
    bench.do(bench.firewall.close, 1)
    assert [connections(bench, slot) for slot in (1, 2)] == [0, len(TARGETS)]


@pytest.mark.parametrize("end", ["reaped", "learnt and closed", "flushed and closed"])
def test_whoever_has_the_addresses_next_begins_without_connections(bench, end):
    """Its broker died, so that nobody knew what the first had."""
    for slot in (1, 2):
        assert len(reached(bench.open(slot))) == len(TARGETS)
    if end == "flushed and closed":
        bench.world.host.run("nft", "delete", "table", "inet", rulesets.table(INSTANCE))
    following = NftFirewall(instance=INSTANCE, pool=rulesets.DEFAULT_POOL)
    bench.do(following.reap, lambda: {2} if end == "reaped" else {1, 2}, dry_run=False)
    bench.do(following.close, 1)
    bench.open(1, other=following)
    assert [connections(bench, slot) for slot in (1, 2)] == [0, len(TARGETS)]


def test_what_was_forgotten_at_the_end_is_not_looked_for_at_the_next_beginning(bench, monkeypatch):
    bench.open(1)
    run, calls = network.run, []

    def note(command, *args, **kwargs):
        calls.append(command[0])
        return run(command, *args, **kwargs)

    monkeypatch.setattr(network, "run", note)
    bench.do(bench.firewall.close, 1)
    assert calls.count("conntrack") == 2
    bench.open(1)
    assert calls.count("conntrack") == 2
    monkeypatch.setattr(firewall, "_forget_connections", _fail)
    bench.do(bench.firewall.close, 1)
    monkeypatch.undo()
    monkeypatch.setattr(network, "run", note)
    bench.open(1)
    assert calls.count("conntrack") == 4, "what could not be then"


def _fail(_addresses):
    raise StartError("no")


def test_the_rules_of_who_lives_stay_when_a_program_goes_missing(bench, monkeypatch):
    bench.open(1)
    monkeypatch.setattr(network, "TOOLS", {"no-such-program": "a-package"})
    bench.do(bench.firewall.stop)
    assert bench.chains() == ["jsb1234abcd0001"]


def test_who_finds_an_address_taken_leaves_the_connections_of_who_has_it(bench):
    pool = IPv4Network("10.9.0.0/30")
    for slot in (1, 2):
        bench.open(slot, other=NftFirewall(instance=INSTANCE, pool=pool))
    theirs = NftFirewall(instance=OTHER, pool=pool)
    worker = bench.workers[0]
    assert len(reached(worker)) == len(TARGETS)
    known = bench.world.host.run("conntrack", "--dump", "--orig-src", "10.9.0.0/30")
    with pytest.raises(CapacityError):
        bench.open(1, other=theirs)
    assert (
        bench.world.host.run("conntrack", "--dump", "--orig-src", "10.9.0.0/30").count("\n") == known.count("\n") >= 2
    )
    bench.do(theirs.stop)


@pytest.mark.parametrize(("said", "times"), [("0 flow entries", 1), ("such conntrack doesn't exist", 64)])
def test_connections_that_end_meanwhile_are_no_failure_and_keep_nobody(bench, monkeypatch, said, times):
    bench.open(1)
    run, calls = network.run, []

    def stub(command, *args, **kwargs):
        if command[0] == "conntrack":
            calls.append(command)
            raise StartError(said)
        return run(command, *args, **kwargs)

    monkeypatch.setattr(network, "run", stub)
    bench.do(bench.firewall.close, 1)
    assert len(calls) == 2 * times
    bench.assert_nothing_left()


def test_a_worker_whose_wire_cannot_be_cut_keeps_nobody_by_its_connections(bench, monkeypatch):
    bench.open(1)
    run, programs = network.run, []

    def stub(command, *args, **kwargs):
        programs.append(command[0])
        if command[0] == "ip":
            raise StartError("ip did not finish")
        return run(command, *args, **kwargs)

    monkeypatch.setattr(network, "run", stub)
    bench.do(bench.firewall.close, 1)
    assert programs == ["ip", "nft"], "and its rules are gone, so that it reaches nothing"
    monkeypatch.undo()


def test_connections_that_cannot_be_forgotten_do_not_keep_the_rules(bench, monkeypatch, caplog):
    bench.open(1)
    run = network.run

    def stub(command, *args, **kwargs):
        if command[0] == "conntrack":
            raise StartError("conntrack: Operation failed")
        return run(command, *args, **kwargs)

    monkeypatch.setattr(network, "run", stub)
    bench.do(bench.firewall.close, 1)
    assert "Operation failed" in caplog.text
    bench.assert_nothing_left()


def change(bench, slot, worker, restriction, by=None) -> None:
    namespace = os.open(worker.path, os.O_RDONLY)
    try:
        bench.do((by or bench.firewall).change, slot, namespace, restriction)
    finally:
        os.close(namespace)


def without_its_own_rules(worker) -> list[str]:
    """What it reaches when only the host holds it."""
    worker.run("nft", "flush", "ruleset")
    return reached(worker)


ALL_OF_THEM = [address for address, _ in TARGETS]


@pytest.mark.parametrize("written", [False, True], ids=["first worker", "later worker"])
def test_a_worker_that_is_restricted_from_the_start_reaches_the_rest_only(bench, written):
    if written:
        bench.open(9)
    worker = bench.open(1, restriction=SOME)
    assert reached(worker) == ["198.51.100.9"]
    assert without_its_own_rules(worker) == ["198.51.100.9"]
    bench.do(bench.firewall.close, 1)
    if written:
        bench.do(bench.firewall.close, 9)
    bench.assert_nothing_left()


def test_each_side_alone_holds_what_was_changed_and_all_comes_back(bench):
    worker, other = bench.open(1), bench.open(2)
    assert reached(worker) == ALL_OF_THEM
    change(bench, 1, worker, SOME)
    assert reached(worker) == ["198.51.100.9"]
    assert reached(other) == ALL_OF_THEM, "nobody else is concerned"
    change(bench, 1, worker, ALL)
    assert reached(worker) == []
    change(bench, 1, worker, UNRESTRICTED)
    assert reached(worker) == ALL_OF_THEM
    change(bench, 1, worker, SOME)
    assert without_its_own_rules(worker) == ["198.51.100.9"]
    change(bench, 2, other, SOME)
    (table,) = [line.split()[-1] for line in bench.world.tables().splitlines()]
    bench.world.host.run("nft", "flush", "chain", "inet", table, "denied-0002")
    assert reached(other) == ["198.51.100.9"]


@pytest.mark.parametrize("wanted", [ALL, UNRESTRICTED], ids=["narrower", "wider"])
@pytest.mark.parametrize("step", [0, 1], ids=["host", "inside"])
def test_a_change_that_fails_at_any_step_leaves_no_more_than_before_nor_than_asked(bench, monkeypatch, step, wanted):
    worker = bench.open(1, restriction=SOME)
    run, calls = network.run, []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) > step:
            raise StartError("nft: no")
        return run(*args, **kwargs)

    monkeypatch.setattr(network, "run", fail)
    with pytest.raises(StartError):
        change(bench, 1, worker, wanted)
    monkeypatch.undo()
    narrower = [] if wanted is ALL and step else ["198.51.100.9"]
    assert reached(worker) == narrower
    change(bench, 1, worker, wanted)
    assert reached(worker) == ([] if wanted is ALL else ALL_OF_THEM)


def test_what_is_excepted_never_widens(bench):
    everything = Restriction(denied=ALL.denied, excepted=ALL.denied)
    worker = bench.open(1, restriction=everything)
    assert reached(worker) == ALL_OF_THEM
    bench.world.clear()
    other = [("203.0.113.8", 443), ("203.0.113.7", 444), ("10.77.0.2", 80), (world.HOST4, 80)]
    assert json.loads(worker.run(sys.executable, "-c", LOOK, json.dumps(other))) == []
    worker.run("nft", "flush", "ruleset")
    worker.run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink")
    assert json.loads(worker.run(sys.executable, "-c", LOOK, json.dumps(other))) == []
    assert bench.world.arrived_outside() == set()


def test_as_many_targets_as_may_be_named_fit(bench):
    fours = [IPv4Network((f"10.{number}.0.0", 16)) for number in range(0, 128, 2)]
    sixes = [IPv6Network(f"2001:db8:{number:x}::/64") for number in range(0x100, 0x180, 2)]
    wanted = Restriction(denied=(*fours[:32], *sixes[:32]), excepted=(*fours[32:], *sixes[32:]))
    worker = bench.open(1, restriction=wanted)
    change(bench, 1, worker, wanted)
    assert reached(worker) == ALL_OF_THEM


def test_the_next_broker_changes_what_lives(bench):
    worker = bench.open(1)
    following = NftFirewall(instance=INSTANCE, pool=rulesets.DEFAULT_POOL)
    assert bench.do(following.is_open, 1)
    change(bench, 1, worker, SOME, by=following)
    assert without_its_own_rules(worker) == ["198.51.100.9"]
    assert not bench.do(following.is_open, 2)


def test_a_host_whose_rules_are_gone_is_told_and_nothing_is_made(bench):
    worker = bench.open(1)
    (table,) = [line.split()[-1] for line in bench.world.tables().splitlines()]
    bench.world.host.run("nft", "delete", "table", "inet", table)
    with pytest.raises(StartError):
        change(bench, 1, worker, ALL)
    assert bench.world.tables() == ""
