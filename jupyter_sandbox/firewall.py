"""The firewall: gives a worker the network that its template's policy names, and takes it back. Needs root.

It acts from outside on a network namespace, so it is the same for every engine, and only workers whose template has
rules pay anything. What the rules are is said by `rulesets`; here they are put in force, in an order in which the
worker can reach nothing it may not at any moment: its end of the wire goes up last.

Everything lives in the host's network namespace under names of this broker (`rulesets.prefix`, `rulesets.table`): that
is how a later broker finds what a killed one left. A wire ends with its worker's namespace, by itself.

All of it blocks, for some milliseconds: call it in a thread. Sources: ip(8), nft(8), nsenter(1).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from jupyter_sandbox import rulesets
from jupyter_sandbox.errors import CapacityError, IsolationUnavailableError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from ipaddress import IPv4Network

    from jupyter_sandbox.specs import Policy, Restriction, Template

TOOLS: Final = {"nft": "nftables", "ip": "iproute2", "nsenter": "util-linux"}
"""Programs, and the Debian packages they are in."""
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_TIMEOUT_S: Final = 10
_ATTEMPTS: Final = 64
_TAKEN: Final = "File exists"

log = logging.getLogger(__name__)


class Firewall(Protocol):
    """Enforces policies. The methods but `judge`, `is_open` and `notes` block: call them in a thread."""

    def survey(self, templates: Iterable[Template]) -> None:
        """Look, once, for what on this host will keep the policies of `templates` from working; `notes` tells it."""

    def judge(self, template: Template) -> None:
        """Raise IsolationUnavailableError, which says what is missing, when the template's policy has no chance."""

    def open(self, slot: int, policy: Policy, namespace: int, restriction: Restriction) -> None:
        """Put `policy` in force for the worker of `slot` with the network namespace of descriptor `namespace`.

        No process of a kernel may run in it yet. Raises SandboxError, leaving nothing behind.
        """

    def is_open(self, slot: int) -> bool:
        """Whether a worker has a network, also of a broker before this one."""

    def change(self, slot: int, namespace: int, restriction: Restriction) -> None:
        """Put another restriction in force for a worker that has a network, for open connections, too.

        Raises SandboxError; the worker reaches no more than before then.
        """

    def close(self, slot: int) -> None:
        """Take a worker's network away; quiet when it has none."""

    def reap(self, known: Callable[[], Collection[int]], *, dry_run: bool) -> list[str]:
        """Take away what belongs to no slot of `known`, which is asked last; return what it was, in words."""

    def stop(self) -> None:
        """Take away what all workers share, once none has a network."""

    def notes(self) -> list[str]:
        """Return what keeps policies from being enforced here, for people."""


class NoFirewall:
    """For brokers without root: a policy that opens anything is refused. The default needs no firewall."""

    def survey(self, templates: Iterable[Template]) -> None:
        """See Firewall."""

    def judge(self, template: Template) -> None:
        """See Firewall."""
        if template.policy.egress:
            raise IsolationUnavailableError(
                f"template {template.name} opens the network to named targets; only a broker that runs as root "
                "can hold a sandbox to that. Run the broker as root (docs/operating.md), or use another template"
            )

    def open(self, slot: int, policy: Policy, namespace: int, restriction: Restriction) -> None:
        """See Firewall."""
        raise IsolationUnavailableError("only a broker that runs as root can open the network to named targets")

    def is_open(self, slot: int) -> bool:
        """See Firewall."""
        return False

    def change(self, slot: int, namespace: int, restriction: Restriction) -> None:
        """See Firewall."""

    def close(self, slot: int) -> None:
        """See Firewall."""

    def reap(self, known: Callable[[], Collection[int]], *, dry_run: bool) -> list[str]:
        """See Firewall."""
        return []

    def stop(self) -> None:
        """See Firewall."""

    def notes(self) -> list[str]:
        """See Firewall."""
        return ["network: none; templates that open it are refused without root"]


class NftFirewall:
    """Veth pairs and nftables, by the host's own tools."""

    def __init__(self, *, instance: str, pool: IPv4Network) -> None:
        """`instance` names this broker on the host; workers get their IPv4 addresses from `pool`."""
        self._instance = instance
        self._pool = pool
        self._open: set[int] = set()
        self._obstacles: list[str] = []
        self._has_table = False
        self._is_written = False
        """Whether the table is ours, not one that a dead broker left, perhaps of another version."""

    def survey(self, templates: Iterable[Template]) -> None:
        """See Firewall."""
        opening = [template for template in templates if template.policy.egress]
        if opening and not missing_tools():
            closed = [reason for template in opening for reason in closed_uplinks(template.policy)]
            self._obstacles = [f"network: refused before {reason}" for reason in dict.fromkeys(closed)]
            self._obstacles += [f"network: blocked by {chain}; let {rulesets.WIRES}* pass" for chain in foreign_drops()]

    def judge(self, template: Template) -> None:
        """See Firewall."""
        missing = missing_tools() if template.policy.egress else []
        if missing:
            raise IsolationUnavailableError(
                f"template {template.name} opens the network to named targets, which needs {' and '.join(missing)}; "
                f"Debian: apt-get install {' '.join(TOOLS[name] for name in missing)}"
            )

    def open(self, slot: int, policy: Policy, namespace: int, restriction: Restriction) -> None:
        """See Firewall."""
        self._remove(slot, self.is_open(slot))
        closed = closed_uplinks(policy)
        if closed:
            raise IsolationUnavailableError(
                f"this host does not forward between networks: {'; '.join(closed)}. Sandboxes cannot reach what their "
                "template names before its operator allows it"
            )
        for attempt in range(_ATTEMPTS):
            wire = rulesets.wire(self._instance, slot, self._pool, attempt)
            with contextlib.ExitStack() as undo:
                undo.callback(self.close, slot)
                self._open.add(slot)
                if self._connect(wire, policy, namespace, restriction):
                    undo.pop_all()
                    log.debug("worker of slot %d has network %s by %s", slot, wire.address4, wire.interface)
                    return
        raise CapacityError(f"no free address for another sandbox in {self._pool}; see BrokerApp.network_pool")

    def change(self, slot: int, namespace: int, restriction: Restriction) -> None:
        """See Firewall. The host's rules come first: they hold whatever the worker is."""
        _run(["nft", "-f", "-"], rulesets.host_change(self._instance, slot, restriction))
        _run([*_inside(namespace), "nft", "-f", "-"], rulesets.worker_change(restriction), [namespace])

    def _connect(self, wire: rulesets.Wire, policy: Policy, namespace: int, restriction: Restriction) -> bool:
        """Make rules, wire and routes; return False when the address is somebody else's. The caller undoes."""
        inside = _inside(namespace)
        self._write_host_rules(wire, policy, restriction)
        try:
            _run(["ip", "-batch", "-"], rulesets.host_commands(wire, policy, namespace), [namespace])
        except StartError as error:
            if _TAKEN not in str(error):
                raise
            return False
        _forward_from(wire.interface)
        _run([*inside, "nft", "-f", "-"], rulesets.worker_ruleset(wire, policy, restriction), [namespace])
        _run([*inside, "ip", "-batch", "-"], rulesets.worker_commands(wire, policy), [namespace])  # only now it is up
        return True

    def _write_host_rules(self, wire: rulesets.Wire, policy: Policy, restriction: Restriction) -> None:
        if self._is_written:
            try:
                _run(["nft", "-f", "-"], rulesets.host_addition(wire, policy, restriction))
            except StartError as error:
                log.warning("the table on the host was changed by somebody else; writing it again: %s", error)
            else:
                return
        self._has_table = True
        _run(["nft", "-f", "-"], rulesets.host_ruleset(wire, policy, restriction))
        self._is_written = True

    def close(self, slot: int) -> None:
        """See Firewall. What cannot be taken away now is left to `reap`: the worker's end must not wait for it."""
        if slot in self._open:
            try:
                self._remove(slot, self.is_open(slot), rules=True)
            except StartError as error:
                log.warning("network of slot %d stays: %s", slot, error)
            self._open.discard(slot)

    def is_open(self, slot: int) -> bool:
        """See Firewall."""
        return f"{rulesets.prefix(self._instance)}{slot:04x}" in _interfaces()

    def _remove(self, slot: int, has_wire: bool, *, rules: bool = False) -> None:
        if has_wire:
            with contextlib.suppress(StartError):  # it ends with the worker, which may be now
                _run(["ip", "link", "delete", "dev", f"{rulesets.prefix(self._instance)}{slot:04x}"])
        if rules:
            _run(["nft", "-f", "-"], rulesets.host_removal(self._instance, slot))

    def reap(self, known: Callable[[], Collection[int]], *, dry_run: bool) -> list[str]:
        """See Firewall. It also learns of the networks that a dead broker's workers of `known` have."""
        wires = {slot for name in _interfaces() if (slot := rulesets.slot_of(self._instance, name)) is not None}
        chains = self._chains()
        owned = set(known())
        self._open |= (wires | chains) & owned
        found = [f"network of slot {slot}" for slot in sorted((wires | chains) - owned)]
        if not dry_run:
            for slot in sorted((wires | chains) - owned):
                with contextlib.suppress(StartError):  # the next time, then
                    self._remove(slot, slot in wires, rules=slot in chains)
        return found

    def _chains(self) -> set[int]:
        """Return the slots that have rules on the host; none when there is no table."""
        if missing_tools():
            return set()
        try:
            listing = _run(["nft", "-j", "list", "table", "inet", rulesets.table(self._instance)])
        except StartError:
            self._has_table = False
            return set()
        self._has_table = True
        names = [item["chain"]["name"] for item in json.loads(listing)["nftables"] if "chain" in item]
        return {slot for name in names if (slot := rulesets.slot_of(self._instance, name)) is not None}

    def stop(self) -> None:
        """See Firewall."""
        if self._has_table and not self._chains() and self._has_table:
            with contextlib.suppress(StartError):
                _run(["nft", "-f", "-"], rulesets.table_removal(self._instance))
            self._has_table = self._is_written = False

    def notes(self) -> list[str]:
        """See Firewall."""
        missing = missing_tools()
        if missing:
            return [f"network: none; templates that open it are refused without {' and '.join(missing)}"]
        return ["network: none, or what a template names", *self._obstacles]


def missing_tools() -> list[str]:
    """Return which of the programs that we need are not installed."""
    return [name for name in TOOLS if shutil.which(name, path=_PATH) is None]


def closed_uplinks(policy: Policy) -> list[str]:
    """Return, in words, what keeps this host from forwarding to and from the policy's targets.

    Answers come back by the interface that leads to the target, so that one must forward, too. It is not ours: we do
    not make a router of a host whose operator did not.
    """
    closed = []
    answer = _run(["ip", "-json", "-force", "-batch", "-"], _lines("route get", rulesets.probes(policy)), can_fail=True)
    for line in answer.splitlines():
        for route in json.loads(line):
            device, version = str(route["dev"]), 6 if ":" in str(route["dst"]) else 4
            if route.get("type") == "local":
                closed.append(f"{route['dst']} is an address of the host itself, which no sandbox may reach")
            elif not is_forwarding(device, version):
                setting = f"net.ipv4.conf.{device}.forwarding" if version == 4 else "net.ipv6.conf.all.forwarding"
                closed.append(f"`sysctl -w {setting}=1` for {route['dst']}")
    return list(dict.fromkeys(closed))


def is_forwarding(device: str, version: int, settings: Path = Path("/proc/sys/net")) -> bool:
    """Return whether what arrives on `device` is forwarded. IPv6 has one switch for all, until Linux 6.17."""
    files = [settings / f"ipv{version}/conf/{device}/{'forwarding' if version == 4 else 'force_forwarding'}"]
    files += [settings / "ipv6/conf/all/forwarding"] if version == 6 else []
    return any(_setting(file) == "1" for file in files)


def can_filter() -> bool:
    """Return whether this process may use the host's packet filter."""
    try:
        _run(["nft", "list", "tables"])
    except StartError:
        return False
    return True


def foreign_drops() -> list[str]:
    """Return other people's chains that drop what they do not know of what is forwarded; ours cannot overrule them."""
    found = []
    with contextlib.suppress(StartError):
        for item in json.loads(_run(["nft", "-j", "list", "chains"]))["nftables"]:
            chain = item.get("chain", {})
            if chain.get("hook") == "forward" and chain.get("policy") == "drop":
                found.append(f"table {chain['family']} {chain['table']}, chain {chain['name']}")
    for program, names in (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")):
        with contextlib.suppress(StartError):
            used = "filter" in _setting(Path("/proc/net") / names)
            if used and "-P FORWARD DROP" in _run([program, "-S", "FORWARD"]):
                found.append(f"{program}, chain FORWARD")
    return found


def default_uplinks() -> dict[int, str]:
    """Return the interface of the default route, by IP version."""
    found: dict[int, str] = {}
    for version in (4, 6):
        with contextlib.suppress(StartError):
            for route in json.loads(_run(["ip", "-json", f"-{version}", "route", "show", "default"]) or "[]"):
                found.setdefault(version, str(route.get("dev", "")))
    return found


def _forward_from(interface: str) -> None:
    """Let the host forward what comes from our own wire. It ends with the wire."""
    for setting in (f"ipv4/conf/{interface}/forwarding", f"ipv6/conf/{interface}/force_forwarding"):
        file = Path("/proc/sys/net") / setting
        try:
            if file.exists():
                file.write_text("1")
        except OSError as error:
            raise IsolationUnavailableError(f"net/{setting} cannot be set: {error}; is /proc/sys read-only?") from error


def _inside(namespace: int) -> list[str]:
    """Return a command before another, which then runs in the network namespace of a descriptor."""
    return ["nsenter", f"--net=/proc/self/fd/{namespace}"]


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _setting(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _lines(command: str, arguments: Iterable[str]) -> str:
    return "".join(f"{command} {argument}\n" for argument in arguments)


def _run(command: Sequence[str], text: str = "", descriptors: Sequence[int] = (), *, can_fail: bool = False) -> str:
    """Run a host program with `text` as its input; return what it said. Raises StartError."""
    try:
        done = subprocess.run(
            command,
            input=text,
            text=True,
            capture_output=True,
            timeout=_TIMEOUT_S,
            pass_fds=descriptors,
            env={"PATH": _PATH, "LC_ALL": "C"},
            check=False,
        )
    except OSError as error:
        raise StartError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{command[0]} did not finish within {_TIMEOUT_S} s") from error
    if done.returncode and not can_fail:
        raise StartError(f"the network could not be made: {command[0]}: {done.stderr[-300:].strip()}")
    return done.stdout
