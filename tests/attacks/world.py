"""A small world in network namespaces of the test's own: a host with a broker, and all the rest of the internet.

    worker --- host ------ outside
               10.77.0.1   every address there is: whatever is sent anywhere arrives at the decoy in this namespace
               [2001:db8:77::1]

Nothing here has a way to the machine's real network: whatever an attack sends, it ends in one of the two namespaces.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.attacks import attacker

PORTS = (22, 53, 80, 443, 5353, 8000, 8001, 9000, 9001, 9002)
HOST4, HOST6 = "10.77.0.1", "2001:db8:77::1"
TABLE = """
table inet decoys {
	counter to_host {
	}
	counter forwarded {
	}
	counter to_workers {
	}
	chain input {
		type filter hook input priority 10; policy accept;
		iifname "jsb*" counter name to_host
	}
	chain forward {
		type filter hook forward priority 10; policy accept;
		iifname "jsb*" counter name forwarded
	}
	chain postrouting {
		type filter hook postrouting priority 300; policy accept;
		oifname "jsb*" counter name to_workers
	}
}
"""
TEMPLATES = {
    "open": """
[network]
egress = [
    { to = "203.0.113.7", port = 443 },
    { to = "2001:db8:99::/64", port = 8000 },
    { to = "198.51.100.0/24", port = "9000-9001" },
    { to = "203.0.113.9", port = 5353, protocol = "udp" },
]
""",
    "wide": """
[network]
egress = [{ to = "0.0.0.0/0", port = "1-65535" }, { to = "::/0", port = "1-65535" }]
""",
    "host": f"""
[network]
egress = [{{ to = "{HOST4}", port = 80 }}]
""",
}
OPEN = {
    ("203.0.113.7", "tcp", 443),
    ("2001:db8:99::7", "tcp", 8000),
    ("2001:db8:99::8", "tcp", 8000),
    ("198.51.100.9", "tcp", 9000),
    ("198.51.100.9", "tcp", 9001),
    ("203.0.113.9", "udp", 5353),
}
"""What the template `open` names, among the targets that the attacks try."""


def everywhere() -> list[str]:
    """Every network but the workers' own and what two ends of a wire need to speak: the decoy outside is all of them."""
    found = []
    for everything, *left_out in (
        ("0.0.0.0/0", "10.77.0.0/24", "198.18.0.0/15", "224.0.0.0/3"),
        ("::/0", "2001:db8:77::/64", "fd00::/8", "fe80::/10", "ff00::/8"),
    ):
        networks = [ipaddress.ip_network(everything)]
        for hole in map(ipaddress.ip_network, left_out):
            networks = [
                part
                for network in networks
                for part in (network.address_exclude(hole) if hole.subnet_of(network) else [network])
            ]
        found += networks
    return [str(network) for network in found]


class Namespace:
    """A network namespace, held by a process that sleeps."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        attacker.wait_until(lambda: os.readlink(f"{self.path}") != os.readlink("/proc/self/ns/net"))

    @property
    def path(self) -> str:
        return f"/proc/{self.process.pid}/ns/net"

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command before another, which then runs in it; `ip netns exec` would hide the control groups."""
        return ("nsenter", f"--net={self.path}")

    def run(self, *command: str, text: str | None = None) -> str:
        done = subprocess.run([*self.prefix, *command], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def set(self, setting: str, value: str = "1") -> None:
        self.run("sh", "-c", f"echo {value} > /proc/sys/net/{setting}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Decoy:
    """tests/attacks/decoys.py in a namespace."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        program = str(Path(__file__).with_name("decoys.py"))
        command = [*namespace.prefix, sys.executable, program, interface, *map(str, PORTS)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def report(self) -> dict:
        """What has arrived since the last time."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class World:
    """See the module."""

    def __init__(self) -> None:
        self.undo = contextlib.ExitStack()
        self.host, self.outside = Namespace(), Namespace()
        self.undo.callback(self.host.close)
        self.undo.callback(self.outside.close)
        host, outside = self.host, self.outside
        host.run("ip", "link", "set", "dev", "lo", "up")
        host.run("ip", "link", "add", "name", "up0", "type", "veth", "peer", "name", "up1", "netns", outside.path)
        host.run("ip", "address", "add", f"{HOST4}/24", "dev", "up0")
        host.run("ip", "address", "add", f"{HOST6}/64", "dev", "up0", "nodad")
        host.run("ip", "address", "add", "192.168.77.1/24", "dev", "lo")
        host.run("ip", "link", "set", "dev", "up0", "up")
        outside.run("ip", "link", "set", "dev", "lo", "up")
        outside.run("ip", "address", "add", "10.77.0.2/24", "dev", "up1")
        outside.run("ip", "address", "add", "2001:db8:77::2/64", "dev", "up1", "nodad")
        outside.run("ip", "link", "set", "dev", "up1", "up")
        outside.run("ip", "-batch", "-", text="".join(f"route add local {net} dev lo\n" for net in everywhere()))
        outside.run("ip", "route", "add", "198.18.0.0/15", "via", HOST4)
        outside.run("ip", "route", "add", "fd00::/8", "via", HOST6)
        host.run("ip", "route", "add", "default", "via", "10.77.0.2")
        host.run("ip", "route", "add", "169.254.169.254", "via", "10.77.0.2")
        host.run("ip", "-6", "route", "add", "default", "via", "2001:db8:77::2")
        host.set("ipv4/conf/up0/forwarding")
        host.set("ipv6/conf/all/forwarding")
        host.run("nft", "-f", "-", text=TABLE)
        self.beyond = self.undo.enter_context(contextlib.closing(Decoy(outside, "up1")))
        self.here = self.undo.enter_context(contextlib.closing(Decoy(host, "up0")))

    def clear(self) -> None:
        """Forget what has arrived so far."""
        self.beyond.report()
        self.here.report()
        self.host.run("nft", "reset", "counters")

    def arrived_outside(self) -> set[tuple[str, str, int]]:
        """Targets of packets that left the host since `clear`, as (address, protocol, port)."""
        return {(target, protocol, port) for _source, target, protocol, port in self.beyond.report()["packets"]}

    def sources_outside(self) -> set[str]:
        """Source addresses of packets that left the host since `clear`."""
        return {packet[0] for packet in self.beyond.report()["packets"]}

    def arrived_at_host(self) -> dict:
        """Connections and datagrams at the host's own listeners, and packets from wires that were for the host."""
        report = self.here.report()
        return {"packets": self.counter("to_host"), **report["connections"], **report["datagrams"]}

    def counter(self, name: str) -> int:
        listing = json.loads(self.host.run("nft", "-j", "list", "counter", "inet", "decoys", name))
        return next(item["counter"]["packets"] for item in listing["nftables"] if "counter" in item)

    def wires(self) -> list[str]:
        """The interfaces of workers on the host."""
        links = json.loads(self.host.run("ip", "-json", "link", "show"))
        return sorted(link["ifname"] for link in links if link["ifname"].startswith("jsb"))

    def rules(self) -> str:
        """What the host filters, without whose connections it counts: the kernel tidies those up when it likes."""
        return re.sub(r"(flags dynamic\n)\s*elements = {[^}]*}\n", r"\1", self.host.run("nft", "list", "ruleset"))

    def tables(self) -> str:
        """The host's packet filter, the decoys' own table left out."""
        return "\n".join(line for line in self.host.run("nft", "list", "tables").splitlines() if "decoys" not in line)

    def close(self) -> None:
        self.undo.close()


@contextlib.contextmanager
def running_world() -> Iterator[World]:
    world = World()
    try:
        yield world
    finally:
        world.close()


def make_host(world: World, uid: int, *, config: str = "") -> attacker.Host:
    """A user of the world's host; its broker runs there, too."""
    host = attacker.make_host(uid, prefix=world.host.prefix, config=config)
    for name, text in TEMPLATES.items():
        (host.directory / f"config/sandbox-templates/{name}.toml").write_text(attacker.TINY + text)
    return host


@contextlib.contextmanager
def running_host(world: World, uid: int = 0) -> Iterator[attacker.Host]:
    """The same, until its end."""
    host = make_host(world, uid)
    try:
        yield host
    finally:
        host.stop()
        shutil.rmtree(host.directory, ignore_errors=True)


@contextlib.contextmanager
def tidy_host(world: World) -> Iterator[attacker.Host]:
    """Root's, which leaves no network."""
    with running_host(world) as host:
        yield host
    attacker.wait_until(lambda: not world.wires())
    assert world.tables() == "", "a broker that ends leaves no table"
