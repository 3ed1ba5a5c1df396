"""The firewall: gives a worker the network that its template's policy names, and takes it back. Needs root.

It acts from outside on a network namespace, so it is the same for every engine, and only workers whose template has
rules pay anything. What the rules are is said by `rulesets`; here they are put in force, in an order in which the
worker can reach nothing it may not at any moment: its end of the wire goes up last.

Everything lives in the host's network namespace under names of this broker (`rulesets.prefix`, `rulesets.table`): that
is how a later broker finds what a killed one left. A wire ends with its worker's namespace, by itself; the host would
remember its connections for up to five days, would count them as those of the slot's next worker, and would send what
comes for them where its default route leads. So it is made to forget them, at the end and, lest a broker died
meanwhile, before the addresses are another's.

All of it blocks, for some milliseconds: call it in a thread. Sources: ip(8), nft(8), conntrack(8), nsenter(1).
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from jupyter_sandbox import rulesets
from jupyter_sandbox.errors import CapacityError, IsolationUnavailableError, StartError
from jupyter_sandbox.host import network

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from ipaddress import IPv4Network

    from jupyter_sandbox.specs import Policy, Restriction, Template

_ATTEMPTS: Final = 64
_TAKEN: Final = "File exists"
_NONE_LEFT: Final = "0 flow entries"
_ENDED_MEANWHILE: Final = "such conntrack doesn't exist"

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
        self._open: dict[int, frozenset[str]] = {}
        """The addresses of workers, by slot; none of one that a dead broker gave them to."""
        self._unused: set[str] = set()
        """Addresses whose connections were forgotten since they were a worker's: that takes about 10 ms for each."""
        self._obstacles: list[str] = []
        self._has_table = False
        self._is_written = False
        """Whether the table is ours, not one that a dead broker left, perhaps of another version."""

    def survey(self, templates: Iterable[Template]) -> None:
        """See Firewall."""
        opening = [template for template in templates if template.policy.egress]
        if opening and not network.missing_tools():
            closed = [
                reason for template in opening for reason in network.closed_uplinks(rulesets.probes(template.policy))
            ]
            self._obstacles = [f"network: refused before {reason}" for reason in dict.fromkeys(closed)]
            self._obstacles += [
                f"network: blocked by {chain}; let {rulesets.WIRES}* pass" for chain in network.foreign_drops()
            ]

    def judge(self, template: Template) -> None:
        """See Firewall."""
        missing = network.missing_tools() if template.policy.egress else []
        if missing:
            raise IsolationUnavailableError(
                f"template {template.name} opens the network to named targets, which needs {' and '.join(missing)}; "
                f"Debian: apt-get install {' '.join(network.TOOLS[name] for name in missing)}"
            )

    def open(self, slot: int, policy: Policy, namespace: int, restriction: Restriction) -> None:
        """See Firewall."""
        self._unplug(slot)
        closed = network.closed_uplinks(rulesets.probes(policy))
        if closed:
            raise IsolationUnavailableError(
                f"this host does not forward between networks: {'; '.join(closed)}. Sandboxes cannot reach what their "
                "template names before its operator allows it"
            )
        for attempt in range(_ATTEMPTS):
            wire = rulesets.wire(self._instance, slot, self._pool, attempt)
            with contextlib.ExitStack() as undo:
                undo.callback(self.close, slot)
                self._open[slot] = frozenset()
                if self._connect(wire, policy, namespace, restriction):
                    undo.pop_all()
                    log.debug("worker of slot %d has network %s by %s", slot, wire.address4, wire.interface)
                    return
        raise CapacityError(f"no free address for another sandbox in {self._pool}; see BrokerApp.network_pool")

    def change(self, slot: int, namespace: int, restriction: Restriction) -> None:
        """See Firewall. The host's rules come first: they hold whatever the worker is."""
        network.run(["nft", "-f", "-"], rulesets.host_change(self._instance, slot, restriction))
        network.run([*_inside(namespace), "nft", "-f", "-"], rulesets.worker_change(restriction), [namespace])

    def _connect(self, wire: rulesets.Wire, policy: Policy, namespace: int, restriction: Restriction) -> bool:
        """Make rules, wire and routes; return False when the address is somebody else's. The caller undoes."""
        inside = _inside(namespace)
        self._write_host_rules(wire, policy, restriction)
        try:
            network.run(["ip", "-batch", "-"], rulesets.host_commands(wire, policy, namespace), [namespace])
        except StartError as error:
            if _TAKEN not in str(error):
                raise
            return False
        self._open[wire.slot] = addresses = frozenset(map(str, rulesets.addresses(wire, policy)))  # now they are ours
        _forget_connections(addresses - self._unused)  # of who had them before, and whose broker could not
        self._unused -= addresses
        _forward_from(wire.interface)
        network.run([*inside, "nft", "-f", "-"], rulesets.worker_ruleset(wire, policy, restriction), [namespace])
        up = rulesets.worker_commands(wire, policy)
        network.run([*inside, "ip", "-batch", "-"], up, [namespace])  # only now it is up
        return True

    def _write_host_rules(self, wire: rulesets.Wire, policy: Policy, restriction: Restriction) -> None:
        if self._is_written:
            try:
                network.run(["nft", "-f", "-"], rulesets.host_addition(wire, policy, restriction))
            except StartError as error:
                log.warning("the table on the host was changed by somebody else; writing it again: %s", error)
            else:
                return
        self._has_table = True
        network.run(["nft", "-f", "-"], rulesets.host_ruleset(wire, policy, restriction))
        self._is_written = True

    def close(self, slot: int) -> None:
        """See Firewall. What cannot be taken away now is left to `reap`: the worker's end must not wait for it."""
        if slot not in self._open:
            return
        addresses = self._open.pop(slot)
        self._unplug(slot)
        if not self.is_open(slot):
            try:
                _forget_connections(addresses)
                self._unused |= addresses
            except StartError as error:
                log.warning("connections of slot %d stay until another worker has it: %s", slot, error)
        try:
            self._remove_rules(slot)
        except StartError as error:
            log.warning("network of slot %d stays: %s", slot, error)

    def is_open(self, slot: int) -> bool:
        """See Firewall."""
        return rulesets.interface(self._instance, slot) in _interfaces()

    def _unplug(self, slot: int) -> None:
        if self.is_open(slot):
            with contextlib.suppress(StartError):  # it ends with the worker, which may be now
                network.run(["ip", "link", "delete", "dev", rulesets.interface(self._instance, slot)])

    def _remove_rules(self, slot: int) -> None:
        network.run(["nft", "-f", "-"], rulesets.host_removal(self._instance, slot))

    def reap(self, known: Callable[[], Collection[int]], *, dry_run: bool) -> list[str]:
        """See Firewall. It also learns of the networks that a dead broker's workers of `known` have."""
        wires = {slot for name in _interfaces() if (slot := rulesets.slot_of(self._instance, name)) is not None}
        chains = self._chains()
        owned = set(known())
        for slot in (wires | chains) & owned:
            self._open.setdefault(slot, frozenset())
        left = sorted((wires | chains) - owned)
        if not dry_run:
            for slot in left:
                self._unplug(slot)
                if slot in chains:
                    with contextlib.suppress(StartError):  # the next time, then
                        self._remove_rules(slot)
        return [f"network of slot {slot}" for slot in left]

    def _chains(self) -> set[int]:
        """Return the slots that have rules on the host; none when there is no table, or when one cannot look."""
        try:
            listing = network.run(["nft", "-j", "list", "table", "inet", rulesets.table(self._instance)])
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
                network.run(["nft", "-f", "-"], rulesets.table_removal(self._instance))
            self._has_table = self._is_written = False

    def notes(self) -> list[str]:
        """See Firewall."""
        missing = network.missing_tools()
        if missing:
            return [f"network: none; templates that open it are refused without {' and '.join(missing)}"]
        return ["network: none, or what a template names", *self._obstacles]


def _forget_connections(addresses: Iterable[str]) -> None:
    """Let the host forget the connections of a worker without a wire; to what comes for them it answers itself.

    Raises StartError.
    """
    for address in addresses:
        command = ["conntrack", "--delete", "--family", "ipv6" if ":" in address else "ipv4", "--orig-src", address]
        for _ in range(_ATTEMPTS):
            try:
                network.run(command)
            except StartError as error:
                if _ENDED_MEANWHILE in str(error):
                    continue
                if _NONE_LEFT not in str(error):
                    raise
            break


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
