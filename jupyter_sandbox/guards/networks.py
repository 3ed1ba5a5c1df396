"""What may be named in a network policy: targets, ports, transports, and the pool of our own addresses."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from jupyter_sandbox.errors import InvalidRequestError

MIN_POOL_ADDRESSES: Final = 4
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def target(value: str) -> IPv4Network | IPv6Network:
    """Judge where a rule leads: an address or a range in CIDR notation, without host bits."""
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise InvalidRequestError(
            f"not an address or a range such as 203.0.113.7 or 2001:db8::/64: {value[:60]!r} ({error})"
        ) from error
    address = network.network_address
    if "%" in value:  # ipaddress takes any text behind it for the name of an interface, and keeps it
        raise InvalidRequestError(f"an address has no zone here: {value[:60]!r}")
    if address.is_loopback or address.is_multicast or (network.version == 6 and address.is_link_local):
        raise InvalidRequestError(f"loopback, multicast and IPv6 link-local cannot be reached: {value[:60]!r}")
    if network.num_addresses == 1 and address.is_unspecified:
        raise InvalidRequestError(f"the unspecified address is no target: {value[:60]!r}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise InvalidRequestError(f"write an IPv4 range as IPv4: {value[:60]!r}")
    return network


def ports(value: int | str) -> tuple[int, int]:
    """Judge a port, `443` or `"443"`, or a range, `"8000-8999"`; return first and last."""
    found = _PORTS.fullmatch(str(value)) if not isinstance(value, bool) else None
    if found is None:
        raise InvalidRequestError(f'not a port such as 443 or a range such as "8000-8999": {str(value)[:60]!r}')
    first = int(found[1])
    last = int(found[2] or first)
    if not 1 <= first <= last <= 0xFFFF:
        raise InvalidRequestError(f"ports are 1 to 65535, the lower one first: {str(value)[:60]!r}")
    return first, last


def pool(value: str) -> IPv4Network:
    """Judge the IPv4 range from which workers get addresses; it must hold at least two of them."""
    try:
        network = IPv4Network(value)
    except ValueError as error:
        raise InvalidRequestError(f"not an IPv4 range such as 198.18.0.0/15: {value[:60]!r} ({error})") from error
    if network.num_addresses < MIN_POOL_ADDRESSES or network.is_loopback or network.is_multicast:
        raise InvalidRequestError(f"not a range of at least {MIN_POOL_ADDRESSES} addresses to use: {value[:60]!r}")
    return network
