"""What a network policy means in the words of `ip -batch` and `nft -f`. Pure; `firewall` runs it.

A worker with a policy has one more interface, `eth0`: one end of a veth pair whose other end, the *wire*, is the
host's. Nothing is learnt on it, everything is written down: addresses, routes to the named targets only, and the
neighbours. The rules stand twice, inside the worker's network namespace, where it has no capability to change them,
and on the host, where it could not even if it had. Judged on the host, before addresses are translated and again
after: what a worker sends must come from its own address and go to a named target. What comes from a wire is never
for the host itself, nor for another worker, and nothing new goes to a wire.

What a *restriction* takes away stands in chains of its own, on both sides and for both directions: to change it neither
policy nor address need be known, and it holds for connections that are open, too.

Sources: nft(8), ip(8), ip-link(8); Documentation/networking/ip-sysctl; RFC 2544 for the pool, RFC 4193 for IPv6.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.specs import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_sandbox.specs import EgressRule, Policy, Restriction

DEFAULT_POOL: Final = IPv4Network("198.18.0.0/15")
MAX_CONNECTIONS: Final = 1024
"""Of one worker at once: the host's table of connections is everybody's."""
WIRES: Final = "jsb"
"""How the interfaces of all brokers begin."""

_INNER: Final = "eth0"
_INSIDE: Final = "jupyter-sandbox"
"""The table in a worker's network namespace."""
_HOST_MAC: Final = "02:6a:73:62:00:01"
_WORKER_MAC: Final = "02:6a:73:62:00:02"
_GATEWAY4: Final = "169.254.1.1"
_GATEWAY6: Final = "fe80::1"
"""No interface has these two: they only name the host's end as a neighbour."""
_HOOKS: Final = {
    "prerouting": "filter hook prerouting priority raw",
    "forward": "filter hook forward priority filter",
    "input": "filter hook input priority filter",
    "output": "filter hook output priority filter",
    "postrouting": "nat hook postrouting priority srcnat",
}


@dataclass(frozen=True, kw_only=True)
class Wire:
    """The host's end of one worker's network, and the worker's addresses."""

    instance: str
    """The broker's (`Places.instance`)."""
    slot: int
    address4: IPv4Address
    address6: IPv6Address

    @property
    def interface(self) -> str:
        """The interface's name; the worker's chain is called the same."""
        return interface(self.instance, self.slot)


def prefix(instance: str) -> str:
    """Return how the interfaces of one broker begin; with four digits for the slot that makes the 15 bytes allowed."""
    return f"{WIRES}{instance[:8]}"


def interface(instance: str, slot: int) -> str:
    """Return the name of the host's end of a slot's wire."""
    return f"{prefix(instance)}{slot:04x}"


def table(instance: str) -> str:
    """Return the name of a broker's table on the host."""
    return f"jupyter-sandbox-{instance[:8]}"


def slot_of(instance: str, interface: str) -> int | None:
    """Return whose interface or chain that is, or None for a stranger's."""
    digits = interface.removeprefix(prefix(instance))
    if digits == interface or len(digits) != 4 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def addresses(wire: Wire, policy: Policy) -> list[IPv4Address | IPv6Address]:
    """Return the addresses that the worker gets."""
    return [address for address in (wire.address4, wire.address6) if address.version in families(policy)]


def wire(instance: str, slot: int, pool: IPv4Network, attempt: int = 0) -> Wire:
    """Return the wire of a slot. Another broker may use the same pool: then `attempt` leads to another address."""
    number = (int(instance[:8], 16) + slot + attempt) % (pool.num_addresses - 2) + 1
    return Wire(
        instance=instance,
        slot=slot,
        address4=pool[number],
        address6=IPv6Address((int("fd" + instance[:10], 16) << 80) + slot),
    )


def families(policy: Policy) -> set[int]:
    """Return 4, 6 or both: the others do not exist for the worker."""
    return {rule.to.version for rule in policy.egress}


def probes(policy: Policy) -> list[str]:
    """Return an address of each target, to ask for its route."""
    return [str(rule.to[rule.to.num_addresses // 2]) for rule in policy.egress]


def host_commands(wire: Wire, policy: Policy, namespace: int) -> str:
    """Return the `ip -batch` that makes the pair, one end in the network namespace of descriptor `namespace`.

    That the address is taken shows as `File exists` for its route.
    """
    name = wire.interface
    lines = [
        f"link add name {name} address {_HOST_MAC} type veth "
        f"peer name {_INNER} address {_WORKER_MAC} netns /proc/self/fd/{namespace}",
        f"link set dev {name}{_no_link_local(policy)} arp off up",
    ]
    for address in addresses(wire, policy):
        lines.append(f"neighbour replace {address} lladdr {_WORKER_MAC} nud permanent dev {name}")
        lines.append(f"route add {address}/{address.max_prefixlen} dev {name}")
    return _text(lines)


def worker_commands(wire: Wire, policy: Policy) -> str:
    """Return the `ip -batch` for the worker's end: routes to the named targets, and no other."""
    lines = [f"link set dev {_INNER}{_no_link_local(policy)} arp off up"]
    for address in addresses(wire, policy):
        gateway = _GATEWAY4 if address.version == 4 else _GATEWAY6
        lines.append(f"address add {address}/{address.max_prefixlen} dev {_INNER}{_nodad(address)}")
        lines.append(f"neighbour replace {gateway} lladdr {_HOST_MAC} nud permanent dev {_INNER}")
        targets = dict.fromkeys(rule.to for rule in policy.egress if rule.to.version == address.version)
        lines += [f"route add {target} via {gateway} dev {_INNER} onlink" for target in targets]
    return _text(lines)


def worker_ruleset(wire: Wire, policy: Policy, restriction: Restriction) -> str:
    """Return the table inside the worker's network namespace, which has none yet."""
    return _text(
        [
            f"table inet {_INSIDE} {{",
            "chain refused {",
            "meta l4proto tcp reject with tcp reset",  # an ICMP answer would be taken in after a second only
            "reject with icmpx type admin-prohibited",
            "}",
            "chain denied {",
            *_denied("daddr", restriction, "goto refused"),
            "}",
            "chain answers {",
            *_denied("saddr", restriction, "drop"),
            "}",
            "chain output {",
            "type filter hook output priority filter; policy drop;",
            'oifname "lo" accept',
            "jump denied",
            *_allowed(wire, policy),
            "jump refused",
            "}",
            "chain input {",
            "type filter hook input priority filter; policy drop;",
            'iifname "lo" accept',
            "jump answers",
            "ct state established accept",
            "ct state related meta l4proto { icmp, ipv6-icmp } accept",
            "}",
            "chain forward {",
            "type filter hook forward priority filter; policy drop;",
            "}",
            "}",
        ]
    )


def worker_change(restriction: Restriction) -> str:
    """Return the transaction that puts another restriction in force inside."""
    return _text(
        [
            *_chain(_INSIDE, "denied", _denied("daddr", restriction, "goto refused")),
            *_chain(_INSIDE, "answers", _denied("saddr", restriction, "drop")),
        ]
    )


def host_change(instance: str, slot: int, restriction: Restriction) -> str:
    """Return the transaction that puts another restriction in force on the host. It fails when there are no rules."""
    return _text(_restriction(instance, slot, restriction))


def host_ruleset(wire: Wire, policy: Policy, restriction: Restriction) -> str:
    """Return the broker's table on the host with this worker's rules, as one transaction that may be repeated.

    Other workers' rules stay.
    """
    name, ours, chain = table(wire.instance), f'"{prefix(wire.instance)}*"', wire.interface
    return _text(
        [
            *_skeleton(wire.instance, chain),
            *(f"flush chain inet {name} {part}" for part in (*_HOOKS, chain)),
            f"table inet {name} {{",
            "chain prerouting {",
            "iifname vmap @workers",
            f"iifname {ours} drop",
            "}",
            "chain forward {",
            f'iifname "{WIRES}*" oifname {ours} drop',
            f'iifname {ours} oifname "{WIRES}*" drop',
            f"iifname {ours} ct state invalid drop",  # it would leave with the worker's own address
            f"iifname {ours} ct state new add @connections {{ iifname ct count over {MAX_CONNECTIONS} }} drop",
            "iifname vmap @workers",
            f"iifname {ours} drop",
            "oifname vmap @answers",
            f"oifname {ours} ct state established accept",
            f"oifname {ours} ct state related meta l4proto {{ icmp, ipv6-icmp }} accept",
            f"oifname {ours} drop",
            "}",
            "chain input {",
            f"iifname {ours} drop",
            "}",
            "chain output {",
            f"oifname {ours} ct state related meta l4proto {{ icmp, ipv6-icmp }} accept",
            f"oifname {ours} drop",
            "}",
            "chain postrouting {",
            f"iifname {ours} masquerade",
            "}",
            "}",
            *_rules(wire, policy, restriction),
        ]
    )


def host_addition(wire: Wire, policy: Policy, restriction: Restriction) -> str:
    """Return the transaction that adds a worker's rules to a table that is there; much faster than all of it anew.

    It fails when the table is gone, because somebody flushed the host's rules, or when the chain is there already.
    """
    return _text([f"create chain inet {table(wire.instance)} {wire.interface}", *_rules(wire, policy, restriction)])


def host_removal(instance: str, slot: int) -> str:
    """Return the transaction that takes a worker's rules away. It fails when they are gone.

    It must not make what is not there: a table without its rules would let everything pass.
    """
    name, chain = table(instance), interface(instance, slot)
    denied, answers = _restricting(slot)
    return _text(
        [
            f'delete element inet {name} workers {{ "{chain}" }}',
            f"add map inet {name} answers {{ type ifname : verdict; }}",  # not all of it may be there
            *(f"add chain inet {name} {part}" for part in (denied, answers)),
            f'add element inet {name} answers {{ "{chain}" : jump {answers} }}',
            f'delete element inet {name} answers {{ "{chain}" }}',
            *(f"delete chain inet {name} {part}" for part in (chain, denied, answers)),
        ]
    )


def table_removal(instance: str) -> str:
    """Return the transaction that takes the whole table away; quiet when it is gone."""
    return _text([f"add table inet {table(instance)}", f"delete table inet {table(instance)}"])


def _skeleton(instance: str, chain: str) -> list[str]:
    """Return the table's frame, with `chain`; its lines change nothing of what is there already."""
    lines = [f"table inet {table(instance)} {{"]
    for name in ("workers", "answers"):
        lines += [f"map {name} {{", "type ifname : verdict", "}"]
    lines += ["set connections {", "type ifname", "size 65535", "flags dynamic", "}"]
    for name, hook in _HOOKS.items():
        lines += [f"chain {name} {{", f"type {hook}; policy accept;", "}"]
    lines += [f"chain {chain} {{", "}", "}"]
    return lines


def _rules(wire: Wire, policy: Policy, restriction: Restriction) -> list[str]:
    """Return what fills a worker's chains on the host, and leads to them."""
    name, chain = table(wire.instance), wire.interface
    denied, answers = _restricting(wire.slot)
    lines = ["ip hdrlength > 5 drop", f"jump {denied}", *_allowed(wire, policy), "drop"]
    return [
        *(f"add chain inet {name} {part}" for part in (denied, answers)),
        *_restriction(wire.instance, wire.slot, restriction),
        *(f"add rule inet {name} {chain} {line}" for line in lines),
        f'add element inet {name} workers {{ "{chain}" : goto {chain} }}',
        f'add element inet {name} answers {{ "{chain}" : jump {answers} }}',
    ]


def _restricting(slot: int) -> tuple[str, str]:
    """Return the names of a worker's chains on the host for what it sends, and for what it is answered."""
    return f"denied-{slot:04x}", f"answers-{slot:04x}"


def _restriction(instance: str, slot: int, restriction: Restriction) -> list[str]:
    """Return what fills these two anew; in one transaction there is no moment between."""
    name, (denied, answers) = table(instance), _restricting(slot)
    return [
        *_chain(name, denied, _denied("daddr", restriction, "drop")),
        *_chain(name, answers, _denied("saddr", restriction, "drop")),
    ]


def _chain(name: str, chain: str, lines: Iterable[str]) -> list[str]:
    """Return what replaces the rules of a chain that is there."""
    return [f"flush chain inet {name} {chain}", *(f"add rule inet {name} {chain} {line}" for line in lines)]


def _denied(side: str, restriction: Restriction, verdict: str) -> Iterable[str]:
    """Yield a rule for each family of which something is denied; `side` is where the other end's address stands."""
    for version, family in ((4, "ip"), (6, "ip6")):
        denied, excepted = (
            ", ".join(str(target) for target in targets if target.version == version)
            for targets in (restriction.denied, restriction.excepted)
        )
        if denied:
            yield (
                f"{family} {side} {{ {denied} }} "
                + (f"{family} {side} != {{ {excepted} }} " if excepted else "")
                + verdict
            )


def _allowed(wire: Wire, policy: Policy) -> Iterable[str]:
    """Yield the rules for what the worker may send; `tcp dport` alone would let extension headers of IPv6 pass."""
    for rule in policy.egress:
        address = _source(wire, rule)
        family, header = ("ip", "protocol") if address.version == 4 else ("ip6", "nexthdr")
        ports = f"{rule.first_port}" if rule.first_port == rule.last_port else f"{rule.first_port}-{rule.last_port}"
        transport = Transport(rule.protocol)
        yield (
            f"{family} saddr {address} {family} daddr {rule.to} {family} {header} {transport} "
            f"{transport} dport {ports} accept"
        )


def _source(wire: Wire, rule: EgressRule) -> IPv4Address | IPv6Address:
    return wire.address4 if rule.to.version == 4 else wire.address6


def _no_link_local(policy: Policy) -> str:
    """Without rules for IPv6 the host may have none: then there is nothing to be switched off."""
    return " addrgenmode none" if 6 in families(policy) else ""


def _nodad(address: IPv4Address | IPv6Address) -> str:
    return " nodad" if address.version == 6 else ""


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
