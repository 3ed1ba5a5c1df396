"""What a network policy may name."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.firewall import NoFirewall
from jupyter_sandbox.guards import networks
from jupyter_sandbox.host import network
from jupyter_sandbox.specs import UNRESTRICTED, EgressRule, Policy, Template

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("value", ["203.0.113.7", "10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::7", "169.254.169.254"])
def test_addresses_and_ranges_are_targets(value):
    assert networks.target(value) == ip_network(value)


@pytest.mark.parametrize(
    "value",
    [
        *("example.org", "", "1; drop", "10.0.0.1 accept\nflush ruleset", "10.0.0.1\n", "10.0.0.0/255.0.0.0 "),
        *("10.0.0", "10.0.0.0/33", "010.0.0.1", "10.0.0.1/8", "2001:db8::1/64", "fe80::1%eth0", "fe80::/64"),
        *("2001:db8::1%eth0", "2001:db8::1%x accept; drop", "2001:db8::%} accept /64"),
        *("127.0.0.1", "127.0.0.0/8", "::1", "224.0.0.1", "ff02::1", "::ffff:10.0.0.0/104", "0.0.0.0", "::"),
    ],
)
def test_anything_else_is_no_target(value):
    with pytest.raises(InvalidRequestError):
        networks.target(value)


@pytest.mark.parametrize(
    ("value", "ports"), [(443, (443, 443)), ("443", (443, 443)), ("8000-8999", (8000, 8999)), ("1-65535", (1, 65535))]
)
def test_a_port_or_a_range_of_ports(value, ports):
    assert networks.ports(value) == ports


@pytest.mark.parametrize(
    "value", [0, -1, 65536, "0", "70000", "2-1", "1-", "-1", "1:2", "1 - 2", "http", "", "1-2-3", "٤٤٣", True, "443\n"]
)
def test_anything_else_is_no_port(value):
    with pytest.raises(InvalidRequestError):
        networks.ports(value)


def test_a_pool_is_a_range_of_ipv4():
    assert networks.pool("10.9.0.0/30") == IPv4Network("10.9.0.0/30")


@pytest.mark.parametrize("value", ["10.9.0.0/31", "10.9.0.1/16", "fd00::/8", "127.0.0.0/8", "all", ""])
def test_anything_else_is_no_pool(value):
    with pytest.raises(InvalidRequestError):
        networks.pool(value)


def test_without_root_only_the_default_policy_passes():
    from jupyter_sandbox.errors import IsolationUnavailableError

    rule = EgressRule(to=ip_network("203.0.113.7"), first_port=443, last_port=443)
    NoFirewall().judge(Template(name="python"))
    with pytest.raises(IsolationUnavailableError, match="root"):
        NoFirewall().judge(Template(name="open", policy=Policy(egress=(rule,))))
    with pytest.raises(IsolationUnavailableError, match="root"):
        NoFirewall().open(1, Policy(egress=(rule,)), 0, UNRESTRICTED)


@pytest.mark.parametrize(
    ("files", "version", "forwarding"),
    [
        ({"ipv4/conf/up0/forwarding": "1"}, 4, True),
        ({"ipv4/conf/up0/forwarding": "0", "ipv4/ip_forward": "1"}, 4, False),
        ({}, 4, False),
        ({"ipv6/conf/all/forwarding": "1"}, 6, True),
        ({"ipv6/conf/all/forwarding": "0", "ipv6/conf/up0/force_forwarding": "1"}, 6, True),
        ({"ipv6/conf/all/forwarding": "0", "ipv6/conf/up0/force_forwarding": "0"}, 6, False),
        ({"ipv6/conf/all/forwarding": "0", "ipv6/conf/up0/forwarding": "1"}, 6, False),
    ],
)
def test_whether_the_host_forwards_is_read_from_the_switch_that_counts(tmp_path, files, version, forwarding):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert network.is_forwarding("up0", version, tmp_path) is forwarding
