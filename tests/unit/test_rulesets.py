"""What a policy becomes in the words of ip and nft: compared as a whole, because each line is somebody's door."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from jupyter_sandbox import rulesets
from jupyter_sandbox.specs import UNRESTRICTED, EgressRule, Policy, Restriction, Transport

pytestmark = pytest.mark.unit

INSTANCE = "1234abcd5678"
POLICY = Policy(
    egress=(
        EgressRule(to=IPv4Network("203.0.113.7/32"), first_port=443, last_port=443),
        EgressRule(to=IPv6Network("2001:db8::/64"), first_port=8000, last_port=8009),
        EgressRule(to=IPv4Network("203.0.113.7/32"), first_port=53, last_port=53, protocol=Transport.UDP),
    )
)
ONLY4 = Policy(egress=POLICY.egress[:1])
WIRE = rulesets.Wire(
    instance=INSTANCE, slot=2, address4=IPv4Address("198.18.0.9"), address6=IPv6Address("fd12:34ab:cd56::2")
)
ALLOWED = """\
ip saddr 198.18.0.9 ip daddr 203.0.113.7/32 ip protocol tcp tcp dport 443 accept
ip6 saddr fd12:34ab:cd56::2 ip6 daddr 2001:db8::/64 ip6 nexthdr tcp tcp dport 8000-8009 accept
ip saddr 198.18.0.9 ip daddr 203.0.113.7/32 ip protocol udp udp dport 53 accept
"""
RESTRICTION = Restriction(
    denied=(IPv4Network("10.0.0.0/8"), IPv4Network("203.0.113.0/24"), IPv6Network("::/0")),
    excepted=(IPv4Network("203.0.113.7/32"), IPv4Network("203.0.113.64/26")),
)
OUT4 = "ip daddr { 10.0.0.0/8, 203.0.113.0/24 } ip daddr != { 203.0.113.7/32, 203.0.113.64/26 }"
BACK4 = OUT4.replace("daddr", "saddr")
EMPTIED = """\
flush chain inet jupyter-sandbox-1234abcd denied-0002
flush chain inet jupyter-sandbox-1234abcd answers-0002
"""
CHANGED = f"""\
flush chain inet jupyter-sandbox-1234abcd denied-0002
add rule inet jupyter-sandbox-1234abcd denied-0002 {OUT4} drop
add rule inet jupyter-sandbox-1234abcd denied-0002 ip6 daddr {{ ::/0 }} drop
flush chain inet jupyter-sandbox-1234abcd answers-0002
add rule inet jupyter-sandbox-1234abcd answers-0002 {BACK4} drop
add rule inet jupyter-sandbox-1234abcd answers-0002 ip6 saddr {{ ::/0 }} drop
"""
CHAINS = """\
add chain inet jupyter-sandbox-1234abcd denied-0002
add chain inet jupyter-sandbox-1234abcd answers-0002
"""
RULES = "".join(
    f"add rule inet jupyter-sandbox-1234abcd jsb1234abcd0002 {line}\n"
    for line in ["ip hdrlength > 5 drop", "jump denied-0002", *ALLOWED.splitlines(), "drop"]
)
ELEMENTS = """\
add element inet jupyter-sandbox-1234abcd workers { "jsb1234abcd0002" : goto jsb1234abcd0002 }
add element inet jupyter-sandbox-1234abcd answers { "jsb1234abcd0002" : jump answers-0002 }
"""


def test_the_table_inside():
    assert rulesets.worker_ruleset(WIRE, POLICY, UNRESTRICTED) == (
        """\
table inet jupyter-sandbox {
chain refused {
meta l4proto tcp reject with tcp reset
reject with icmpx type admin-prohibited
}
chain denied {
}
chain answers {
}
chain output {
type filter hook output priority filter; policy drop;
oifname "lo" accept
jump denied
"""
        + ALLOWED
        + """\
jump refused
}
chain input {
type filter hook input priority filter; policy drop;
iifname "lo" accept
jump answers
ct state established accept
ct state related meta l4proto { icmp, ipv6-icmp } accept
}
chain forward {
type filter hook forward priority filter; policy drop;
}
}
"""
    )


def test_what_is_denied_stands_before_what_is_allowed_inside():
    text = rulesets.worker_ruleset(WIRE, POLICY, RESTRICTION)
    assert text.replace(
        f"""\
chain denied {{
{OUT4} goto refused
ip6 daddr {{ ::/0 }} goto refused
}}
chain answers {{
{BACK4} drop
ip6 saddr {{ ::/0 }} drop
}}
""",
        "chain denied {\n}\nchain answers {\n}\n",
    ) == rulesets.worker_ruleset(WIRE, POLICY, UNRESTRICTED)
    assert text.count("::/0") == 2


def test_a_change_is_of_what_is_denied_and_of_nothing_else():
    assert rulesets.host_change(INSTANCE, 2, RESTRICTION) == CHANGED
    assert rulesets.host_change(INSTANCE, 2, UNRESTRICTED) == EMPTIED
    assert rulesets.worker_change(UNRESTRICTED) == (
        "flush chain inet jupyter-sandbox denied\nflush chain inet jupyter-sandbox answers\n"
    )
    assert rulesets.worker_change(Restriction(denied=(IPv6Network("2001:db8::/64"),))) == (
        """\
flush chain inet jupyter-sandbox denied
add rule inet jupyter-sandbox denied ip6 daddr { 2001:db8::/64 } goto refused
flush chain inet jupyter-sandbox answers
add rule inet jupyter-sandbox answers ip6 saddr { 2001:db8::/64 } drop
"""
    )


def test_what_is_only_excepted_denies_nothing():
    only = Restriction(excepted=RESTRICTION.excepted)
    assert rulesets.host_change(INSTANCE, 2, only) == EMPTIED


def test_the_table_on_the_host():
    assert rulesets.host_ruleset(WIRE, POLICY, UNRESTRICTED) == (
        """\
table inet jupyter-sandbox-1234abcd {
map workers {
type ifname : verdict
}
map answers {
type ifname : verdict
}
set connections {
type ifname
size 65535
flags dynamic
}
chain prerouting {
type filter hook prerouting priority raw; policy accept;
}
chain forward {
type filter hook forward priority filter; policy accept;
}
chain input {
type filter hook input priority filter; policy accept;
}
chain output {
type filter hook output priority filter; policy accept;
}
chain postrouting {
type nat hook postrouting priority srcnat; policy accept;
}
chain jsb1234abcd0002 {
}
}
flush chain inet jupyter-sandbox-1234abcd prerouting
flush chain inet jupyter-sandbox-1234abcd forward
flush chain inet jupyter-sandbox-1234abcd input
flush chain inet jupyter-sandbox-1234abcd output
flush chain inet jupyter-sandbox-1234abcd postrouting
flush chain inet jupyter-sandbox-1234abcd jsb1234abcd0002
table inet jupyter-sandbox-1234abcd {
chain prerouting {
iifname vmap @workers
iifname "jsb1234abcd*" drop
}
chain forward {
iifname "jsb*" oifname "jsb1234abcd*" drop
iifname "jsb1234abcd*" oifname "jsb*" drop
iifname "jsb1234abcd*" ct state invalid drop
iifname "jsb1234abcd*" ct state new add @connections { iifname ct count over 1024 } drop
iifname vmap @workers
iifname "jsb1234abcd*" drop
oifname vmap @answers
oifname "jsb1234abcd*" ct state established accept
oifname "jsb1234abcd*" ct state related meta l4proto { icmp, ipv6-icmp } accept
oifname "jsb1234abcd*" drop
}
chain input {
iifname "jsb1234abcd*" drop
}
chain output {
oifname "jsb1234abcd*" ct state related meta l4proto { icmp, ipv6-icmp } accept
oifname "jsb1234abcd*" drop
}
chain postrouting {
iifname "jsb1234abcd*" masquerade
}
}
"""
        + CHAINS
        + EMPTIED
        + RULES
        + ELEMENTS
    )


def test_one_more_worker_in_the_table():
    first = "create chain inet jupyter-sandbox-1234abcd jsb1234abcd0002\n"
    assert rulesets.host_addition(WIRE, POLICY, UNRESTRICTED) == first + CHAINS + EMPTIED + RULES + ELEMENTS
    assert rulesets.host_addition(WIRE, POLICY, RESTRICTION) == first + CHAINS + CHANGED + RULES + ELEMENTS


def test_a_worker_s_rules_are_taken_away_and_nothing_is_made():
    assert rulesets.host_removal(INSTANCE, 2) == (
        'delete element inet jupyter-sandbox-1234abcd workers { "jsb1234abcd0002" }\n'
        "add map inet jupyter-sandbox-1234abcd answers { type ifname : verdict; }\n"
        "add chain inet jupyter-sandbox-1234abcd denied-0002\n"
        "add chain inet jupyter-sandbox-1234abcd answers-0002\n"
        'add element inet jupyter-sandbox-1234abcd answers { "jsb1234abcd0002" : jump answers-0002 }\n'
        'delete element inet jupyter-sandbox-1234abcd answers { "jsb1234abcd0002" }\n'
        "delete chain inet jupyter-sandbox-1234abcd jsb1234abcd0002\n"
        "delete chain inet jupyter-sandbox-1234abcd denied-0002\n"
        "delete chain inet jupyter-sandbox-1234abcd answers-0002\n"
    )


def test_the_whole_table_is_taken_away():
    assert rulesets.table_removal(INSTANCE) == (
        "add table inet jupyter-sandbox-1234abcd\ndelete table inet jupyter-sandbox-1234abcd\n"
    )


def test_the_host_s_end_of_a_wire():
    assert rulesets.host_commands(WIRE, POLICY, 7) == (
        """\
link add name jsb1234abcd0002 address 02:6a:73:62:00:01 type veth peer name eth0 address 02:6a:73:62:00:02 netns /proc/self/fd/7
link set dev jsb1234abcd0002 addrgenmode none arp off up
neighbour replace 198.18.0.9 lladdr 02:6a:73:62:00:02 nud permanent dev jsb1234abcd0002
route add 198.18.0.9/32 dev jsb1234abcd0002
neighbour replace fd12:34ab:cd56::2 lladdr 02:6a:73:62:00:02 nud permanent dev jsb1234abcd0002
route add fd12:34ab:cd56::2/128 dev jsb1234abcd0002
"""
    )


def test_the_worker_s_end_has_one_route_for_each_target():
    assert rulesets.worker_commands(WIRE, POLICY) == (
        """\
link set dev eth0 addrgenmode none arp off up
address add 198.18.0.9/32 dev eth0
neighbour replace 169.254.1.1 lladdr 02:6a:73:62:00:01 nud permanent dev eth0
route add 203.0.113.7/32 via 169.254.1.1 dev eth0 onlink
address add fd12:34ab:cd56::2/128 dev eth0 nodad
neighbour replace fe80::1 lladdr 02:6a:73:62:00:01 nud permanent dev eth0
route add 2001:db8::/64 via fe80::1 dev eth0 onlink
"""
    )


def test_without_rules_for_ipv6_there_is_no_ipv6():
    texts = rulesets.host_commands(WIRE, ONLY4, 7) + rulesets.worker_commands(WIRE, ONLY4)
    texts += rulesets.host_addition(WIRE, ONLY4, UNRESTRICTED)
    texts += rulesets.worker_ruleset(WIRE, ONLY4, UNRESTRICTED).replace("ipv6-icmp", "")
    assert "198.18.0.9" in texts
    assert not any(word in texts for word in ("fd12", "fe80", "ip6", "addrgenmode"))


@pytest.mark.parametrize("slot", [1, 0x7FFF, 0xFFFE])
def test_an_interface_s_name_fits_and_leads_back_to_its_slot(slot):
    name = rulesets.wire(INSTANCE, slot, rulesets.DEFAULT_POOL).interface
    assert len(name) == 15, "netdevice(7)"
    assert rulesets.slot_of(INSTANCE, name) == slot


@pytest.mark.parametrize(
    "name", ["lo", "eth0", "jsb", "jsb1234abcd", "jsb1234abcd00", "jsb1234abcdwxyz", "jsb1234abce0001", "prerouting"]
)
def test_a_stranger_s_interface_has_no_slot(name):
    assert rulesets.slot_of(INSTANCE, name) is None


def test_no_two_workers_of_a_broker_share_an_address():
    wires = [rulesets.wire(INSTANCE, slot, rulesets.DEFAULT_POOL) for slot in range(1, 65535)]
    assert len({wire.address4 for wire in wires}) == len(wires)
    assert len({wire.address6 for wire in wires}) == len(wires)
    assert all(wire.address4 in rulesets.DEFAULT_POOL for wire in wires)
    assert all(wire.address6 in IPv6Network("fd00::/8") for wire in wires)


def test_a_small_pool_is_used_whole_and_never_beyond():
    pool = IPv4Network("10.9.0.0/29")
    found = {rulesets.wire(INSTANCE, 5, pool, attempt).address4 for attempt in range(20)}
    assert found == set(pool.hosts())


@pytest.mark.parametrize(
    ("target", "probe"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.0/24", "203.0.113.128"),
        ("10.0.0.0/31", "10.0.0.1"),
        ("0.0.0.0/0", "128.0.0.0"),
        ("2001:db8::/64", "2001:db8:0:0:8000::"),
    ],
)
def test_a_target_s_route_is_asked_for_by_an_address_in_it(target, probe):
    rule = EgressRule(to=ip_network(target), first_port=1, last_port=1)
    assert rulesets.probes(Policy(egress=(rule,))) == [probe]
